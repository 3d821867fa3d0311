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
RE_SEPFORMER = "a RE-SepFormer"
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
# systems that people look for here, by the shipped model for the same purpose: how their names begin, without hyphens
# and in lower case, and what they are called
FOREIGN = {
    "conv-tasnet-small": {
        "dprnn": "a DPRNN", "dptnet": "a DPTNet", "sudormrf": "a SuDoRM-RF", "lstmtasnet": "an LSTM-TasNet",
        "mossformer": "a MossFormer", "tfgridnet": "a TF-GridNet", "tigersep": "a TIGER", "resepformer": RE_SEPFORMER,
    },
    "conv-tasnet-live": {
        "dccrn": "a DCCRNet", "dcunet": "a DCUNet", "demask": "a DeMask", "metricgan": "a MetricGAN",
    },
    "spleeter-small-4stems": {
        "xumx": "an X-UMX", "htdemucs": "a Demucs", "demucs": "a Demucs", "openunmix": "an Open-Unmix",
        "umx": "an Open-Unmix", "mdx": "an MDX-Net", "scnet": "an SCNet", "waveunet": "a Wave-U-Net",
    },
    "spleeter-small-2stems": {
        "bsroformer": "a RoFormer", "melbandroformer": "a RoFormer", "roformer": "a RoFormer", "uvr": "a UVR model",
    },
    "audiosep-small": {"bandit": "a Bandit", "samaudio": "a SAM Audio", "zeroshotsep": "a zero-shot separator"},
    "audioldm2-tiny": {
        "musicgen": "a MusicGen", "audiogen": "an AudioGen", "stableaudio": "a Stable Audio", "tango": "a Tango",
    },
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


def foreign_system(words: Iterable[str]) -> tuple[str, str] | None:
    """The first well-known system that hubsep does not have and one of the words begins with.

    Returns:
        The system, with its article, and the shipped model for the same purpose.
    """
    for word in map(plain, words):
        for peer, systems in FOREIGN.items():
            for name, system in systems.items():
                if word.startswith(name):
                    return system, peer
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


__all__ = [
    "BUNDLE", "KNOWN", "RE_SEPFORMER", "SEPFORMER",
    "bundle_files", "foreign_system", "holds_other_weights", "system_of",
]  # fmt: skip
