# SPDX-License-Identifier: Apache-2.0
"""Layouts of published checkpoints, known by the names of their files, and of systems that hubsep does not have."""

from __future__ import annotations

from collections.abc import Iterable


SEPFORMER = ("hyperparams.yaml", "encoder.ckpt", "decoder.ckpt", "masknet.ckpt")
BUNDLE = (".index", ".data-00000-of-00001")  # TensorFlow's, which Spleeter is published as
# systems that people look for here, by how their names begin, without hyphens and in lower case
FOREIGN = {
    "dprnn": "a DPRNN", "dptnet": "a DPTNet", "dccrn": "a DCCRNet", "dcunet": "a DCUNet", "sudormrf": "a SuDoRM-RF",
    "lstmtasnet": "an LSTM-TasNet", "xumx": "an X-UMX", "demask": "a DeMask", "htdemucs": "a Demucs",
    "demucs": "a Demucs", "openunmix": "an Open-Unmix", "umx": "an Open-Unmix", "bsroformer": "a RoFormer",
    "melbandroformer": "a RoFormer", "roformer": "a RoFormer", "mossformer": "a MossFormer",
    "tfgridnet": "a TF-GridNet", "tigersep": "a TIGER", "bandit": "a Bandit", "scnet": "an SCNet",
    "mdx": "an MDX-Net", "metricgan": "a MetricGAN", "resepformer": "a RE-SepFormer", "waveunet": "a Wave-U-Net",
    "musicgen": "a MusicGen", "audiogen": "an AudioGen", "stableaudio": "a Stable Audio", "tango": "a Tango",
}  # fmt: skip


def foreign_system(words: Iterable[str]) -> str | None:
    """The first well-known system, with its article, that hubsep does not have and one of the words begins with."""
    for word in words:
        plain = "".join(letter for letter in word.casefold() if letter.isalnum())
        for name, system in FOREIGN.items():
            if plain.startswith(name):
                return system
    return None


def bundle_files(names: Iterable[str]) -> tuple[str, ...]:
    """Index and data of the one TensorFlow bundle among names of files; nothing if there is none, or several."""
    known = set(names)
    stems = [name.removesuffix(BUNDLE[0]) for name in known if name.endswith(BUNDLE[0])]
    bundles = [tuple(stem + ending for ending in BUNDLE) for stem in stems if stem + BUNDLE[1] in known]
    return bundles[0] if len(bundles) == 1 else ()


__all__ = ["BUNDLE", "SEPFORMER", "bundle_files", "foreign_system"]
