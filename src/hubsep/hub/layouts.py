# SPDX-License-Identifier: Apache-2.0
"""Layouts of published checkpoints, known by the names of their files, and of systems that hubsep does not have.

Decisions: names of files say what SpeechBrain and Spleeter published. Of a single file they say nothing, so there the
card has to name the system. What is recognised is a guess: the converter, which reads the files, has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping


SEPFORMER = ("hyperparams.yaml", "encoder.ckpt", "decoder.ckpt", "masknet.ckpt")
BUNDLE = (".index", ".data-00000-of-00001")  # TensorFlow's, which Spleeter is published as
MOST_BYTES = 16 << 30  # of a checkpoint; the largest published one has 7.2 GB
FILE = re.compile(r"[\w+-][\w.+-]{0,200}")  # directly in a repository
# endings of weights that others save
WEIGHTS = (
    ".bin", ".ckpt", ".pt", ".pth", ".th", ".pkl", ".pickle", ".h5", ".hdf5", ".keras", ".onnx", ".pb", ".index",
    ".msgpack", ".npz", ".tar", ".tar.gz", ".tgz", ".zip", ".7z", ".gguf", ".tflite", ".nemo", ".jit", ".mlmodel",
)  # fmt: skip
# words of a card, without hyphens and in lower case, the system they name, and how its one file may end
SAID = (
    ("asteroid", "conv_tasnet", ("pytorch_model.bin",)),
    ("convtasnet", "conv_tasnet", ("pytorch_model.bin", ".pt", ".pth", ".ckpt")),
    ("audiosep", "audiosep", (".ckpt", "pytorch_model.bin")),
    ("sepformer", "sepformer", (".ckpt",)),
    ("spleeter", "spleeter", (".tar.gz",)),
    ("metatasnet", "meta_tasnet", (".pt",)),
    ("audiomae", "audiomae", (".pth", ".pt")),
    ("audioldm2", "audioldm2", (".pth", ".ckpt")),
)
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
KNOWN = (
    "hubsep opens folders that it wrote (config.json and .safetensors), SpeechBrain's SepFormers (hyperparams.yaml, "
    "encoder.ckpt, decoder.ckpt, masknet.ckpt), Spleeter's (checkpoint, .index, .data-00000-of-00001), and one file "
    "of weights where the card names its system: asteroid with ConvTasNet, audiosep, spleeter, meta-tasnet, audiomae "
    "or audioldm2"
)


def system_of(sizes: Mapping[str, int], words: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """The system of a repository and the files that it is made of; None if its layout is not known.

    Args:
        sizes: bytes of its files, by their paths.
        words: tags and library of its card.
    """
    names = {name for name, size in sizes.items() if FILE.fullmatch(name) and 0 < size <= MOST_BYTES}
    if set(SEPFORMER) <= names:
        return "sepformer", SEPFORMER
    if bundle := bundle_files(names):
        return "spleeter", (*(("checkpoint",) if "checkpoint" in names else ()), *bundle)
    for word, system, endings in SAID:
        files = [name for name in names if name.endswith(endings)]
        if len(files) == 1 and word in map(plain, words):
            return system, (files[0],)
    return None


def holds_other_weights(paths: Iterable[str]) -> bool:
    """Whether there are weights among these files, and none of them is a `.safetensors`."""
    names = [path.casefold() for path in paths]
    return any(name.endswith(WEIGHTS) for name in names) and not any(name.endswith(".safetensors") for name in names)


def foreign_system(words: Iterable[str]) -> str | None:
    """The first well-known system, with its article, that hubsep does not have and one of the words begins with."""
    for word in words:
        for name, system in FOREIGN.items():
            if plain(word).startswith(name):
                return system
    return None


def plain(word: str) -> str:
    """A word in lower case, letters and digits alone."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def bundle_files(names: Iterable[str]) -> tuple[str, ...]:
    """Index and data of the one TensorFlow bundle among names of files; nothing if there is none, or several."""
    known = set(names)
    stems = [name.removesuffix(BUNDLE[0]) for name in known if name.endswith(BUNDLE[0])]
    bundles = [tuple(stem + ending for ending in BUNDLE) for stem in stems if stem + BUNDLE[1] in known]
    return bundles[0] if len(bundles) == 1 else ()


__all__ = ["BUNDLE", "KNOWN", "SEPFORMER", "bundle_files", "foreign_system", "holds_other_weights", "system_of"]
