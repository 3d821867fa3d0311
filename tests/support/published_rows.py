# SPDX-License-Identifier: Apache-2.0
"""For each row of the table of published checkpoints a file of its keys, at tiny shapes.

What such a file says of itself follows from the row's name alone, so that it can contradict the row.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import original_audioldm2 as original
import published_audioldm2
import published_audiomae
import published_audiosep
import published_conv_tasnet
import published_meta_tasnet
import published_sepformer
import published_spleeter
import torch
from published_audioldm2 import under
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter
from torch import Tensor

from hubsep.conversion.audioldm2.names import VOCODER
from hubsep.hub.published import Published


STEMS = {
    "2stems": ("vocals", "accompaniment"),
    "4stems": ("vocals", "drums", "bass", "other"),
    "5stems": ("vocals", "piano", "drums", "bass", "other"),
}
INSTRUMENTS = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Tiny:
    """What is converted in place of what was published.

    Attributes:
        files: of the checkpoint, in one folder.
        untold: options of the converter that published sizes tell, and tiny ones do not.
        companions: folders, by option.
    """

    files: list[Path]
    untold: dict[str, Any] = field(default_factory=dict)
    companions: dict[str, str] = field(default_factory=dict)


def speakers_of(name: str) -> int:
    return 3 if "3mix" in name.lower() else 1 if re.search("enh|rescue", name) else 2


def rate_of(name: str) -> int:
    return 16_000 if re.search("16k|rescue", name) else 8_000


def stems_of(name: str) -> tuple[str, ...]:
    return next(stems for words, stems in STEMS.items() if words in name)


def kind_of(name: str) -> str:
    """Of `published_audioldm2`."""
    return next((kind for kind in ("large", "speech", "48k") if kind in name), "base")


def sepformer(row: Published, place: Path) -> Tiny:
    folder = published_sepformer.folder_of(place / "published", _sepformer(speakers_of(row.name), rate_of(row.name)))
    return Tiny([folder / name for name in row.files])


def conv_tasnet(row: Published, place: Path) -> Tiny:
    if row.address is not None:
        file = published_conv_tasnet.write(place / row.address.rpartition("/")[2], "torchaudio")
        return Tiny([file], published_conv_tasnet.overrides("torchaudio"))
    model = _conv_tasnet(speakers_of(row.name), rate_of(row.name))
    return Tiny([published_conv_tasnet.write_model(place / row.files[0], model)])


def audiosep(row: Published, place: Path) -> Tiny:
    file = place / (row.files[0] if row.files else "audiosep_base_4M_steps.ckpt")
    published_audiosep.write_lightning(file, published_audiosep.whole())
    words = published_audiosep.write_tokenizer(place / "tokenizer")
    return Tiny([file], published_audiosep.OVERRIDES, {"tokenizer": str(words)})


def spleeter(row: Published, place: Path) -> Tiny:
    tensors = published_spleeter.tensors_of(_spleeter(stems_of(row.name)), slots="finetune" in row.name)
    file = place / str(row.address).rpartition("/")[2]
    return Tiny([published_spleeter.write_published(file, tensors)])


def meta_tasnet(row: Published, place: Path) -> Tiny:
    return Tiny([published_meta_tasnet.write_model(place / "best_model.pt", _meta_tasnet())])


def audiomae(row: Published, place: Path) -> Tiny:
    file = published_audiomae.write(place / "pretrained.pth", published_audiomae.tensors())
    return Tiny([file], published_audiomae.TOLD)


def audioldm2(row: Published, place: Path) -> Tiny:
    kind = kind_of(row.name)
    untold = published_audioldm2.told(kind)
    del untold["vocoder"]
    folders = published_audioldm2.tokenizers(place / "tokenizers", speech=kind == "speech")
    companions = {name: folder for name, folder in folders.items() if kind != "48k" or name == "tokenizer"}
    return Tiny([published_audioldm2.write(place / row.files[0], _audioldm2(kind))], untold, companions)


MAKE: dict[str, Callable[[Published, Path], Tiny]] = {
    "sepformer": sepformer, "conv_tasnet": conv_tasnet, "audiosep": audiosep, "spleeter": spleeter,
    "meta_tasnet": meta_tasnet, "audiomae": audiomae, "audioldm2": audioldm2,
}  # fmt: skip


def command_words(row: Published, file: Path, folder: Path, options: Mapping[str, Any]) -> list[str]:
    """The command that a row names, for a file and a folder, with options of the converter."""
    places = {"FILES": str(file), "FOLDER": str(folder)}
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return [*(places.get(word, word) for word in row.command.split()[1:]), *settings]


@functools.cache
def _sepformer(speakers: int, rate: int) -> Any:
    return tiny_sepformer(num_sources=speakers, sampling_rate=rate)[0]


@functools.cache
def _conv_tasnet(speakers: int, rate: int) -> Any:
    kernel = rate // 500  # 16 at 8 kHz and 32 at 16 kHz, as published
    sizes = {"kernel_size": kernel, "stride": kernel // 2, "pad_edges": False}
    return tiny_conv_tasnet(num_sources=speakers, sampling_rate=rate, **sizes)[0]


@functools.cache
def _spleeter(stems: tuple[str, ...]) -> Any:
    return tiny_spleeter(stems=stems)[0]


@functools.cache
def _meta_tasnet() -> Any:
    return tiny_meta_tasnet(instruments=INSTRUMENTS, num_stages=3, sampling_rate=32_000)[0]


@functools.cache
def _audioldm2(kind: str) -> dict[str, Tensor]:
    """With the layout of a published vocoder, which tells its rates."""
    bands, kernels, inner = 64, [16, 16, 8, 4, 4], [3, 7, 11]
    if kind == "48k":
        bands, kernels, inner = 256, [12, 10, 8, 4, 4], [3, 7, 11, 15]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        vocoder = original.Vocoder(bands, 32, [size // 2 for size in kernels], kernels, inner)
    others = {name: part for name, part in published_audioldm2.tensors(kind).items() if not name.startswith(VOCODER)}
    return {**others, **under(VOCODER, vocoder.state_dict())}


__all__ = ["INSTRUMENTS", "MAKE", "Tiny", "command_words", "kind_of", "rate_of", "speakers_of", "stems_of"]
