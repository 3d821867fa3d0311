# SPDX-License-Identifier: Apache-2.0
"""What a local file or folder is a checkpoint of, when nobody says it.

Decisions: names of files come first, since they cost nothing; then the names of the tensors, read by the restricted
reader that the converters have. What is recognised is only a guess which converter to ask: that one checks all of it.
Well-known systems that hubsep does not have are named as such; what is not recognised is asked for.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from hubsep.errors import CheckpointError, ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.checks import read_before_checks
from hubsep.hub.layouts import BUNDLE, SEPFORMER, bundle_files, foreign_system
from hubsep.hub.licences import is_stated, stated_in_folder
from hubsep.registry import SYSTEMS

from .archives import is_gzip, members
from .common import offenders, read_metadata, read_tensors


WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".tar.gz", ".tgz")
TABLES = ("state_dict", "model")  # that authors keep weights under
LFS = b"version https://git-lfs"  # how a pointer of Git LFS begins
CONVERTIBLE = tuple(name for name, system in SYSTEMS.items() if system.converter)
# how names of tensors begin that only one system has, in the order they are looked for
NAMES = (
    ("audioldm2", r"model\.diffusion_model\."),
    ("audiosep", r"ss_model\.|base\.encoder_block1\."),
    ("sepformer", r"masknet\.dual_mdl\."),
    ("conv_tasnet", r"masker\.TCN\.|mask_generator\.conv_layers\."),
    ("meta_tasnet", r"stages\.0\.mask\."),
    ("audiomae", r"(.*\.audiomae\.model\.)?patch_embed\.proj\."),
    ("spleeter", r"(conv2d(_transpose)?|batch_normalization)(_\d+)?\.(kernel|gamma)"),
)
FOREIGN_NAMES = (
    ("a DPRNN or DPTNet of asteroid", r"masker\.net\."),
    ("a Demucs", r"(crosstransformer|tencoder|freq_emb)\."),
    ("a RoFormer", r"(band_split\.to_features|mask_estimators)\."),
    ("an Open-Unmix", r"(input_mean|input_scale|output_scale)$"),
)


def recognised(source: Path) -> tuple[str, Path]:
    """The system of a local checkpoint, and the file or folder that its converter takes.

    Args:
        source: a file or a folder.

    Raises:
        ConversionError: if it is not recognised, or of a system that hubsep does not have, or converted already.
    """
    try:
        system, place = _of_folder(source) if source.is_dir() else (_of_file(source), source)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error
    except OSError as error:
        raise ConversionError(f"{shown(str(source), 200)} cannot be read: {error.strerror or error}") from error
    if system is None:
        raise ConversionError(
            f"{shown(source.name)} is not recognised as one of the checkpoints that convert. If it is one, name its "
            f"system, as in `hubsep convert SYSTEM SOURCE OUTPUT`. Systems are {', '.join(CONVERTIBLE)}."
        )
    return system, place


def licence_of(source: Path) -> str | None:
    """The licence that the card in a folder of weights states to the Hub; None if there is none."""
    licence = stated_in_folder(source)
    return licence if is_stated(licence) and licence != "other" else None


def _of_folder(folder: Path) -> tuple[str | None, Path]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if "model_index.json" in names:
        kind = read_before_checks(folder, "model_index.json").get("_class_name")
        return ("audioldm2" if kind == "AudioLDM2Pipeline" else None), folder
    if set(SEPFORMER) <= set(names):
        return "sepformer", folder
    if bundle_files(names) or ("checkpoint" in names and any(name.endswith(BUNDLE[0]) for name in names)):
        return "spleeter", folder
    if "config.json" in names and str(read_before_checks(folder, "config.json").get("model_type")) in SYSTEMS:
        raise ConversionError(f"{shown(folder.name)} is a hubsep model already; load it with from_pretrained")
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if len(weights) > 1:
        raise ConversionError(
            f"{shown(folder.name)} holds {len(weights)} files of weights: {offenders(weights)}. Name the one that is "
            "converted"
        )
    return (_of_file(folder / weights[0]), folder / weights[0]) if weights else (None, folder)


def _of_file(file: Path) -> str | None:
    if not file.is_file():  # a pipe would be waited for
        raise ConversionError(f"{shown(str(file), 200)} is not a file")
    with file.open("rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise ConversionError(
                f"{shown(file.name)} is a pointer of Git LFS and not the file itself: fetch that with `git lfs pull`"
            )
    _check_part(file)
    if is_gzip(file):
        return "spleeter" if any(member.name.endswith(BUNDLE[0]) for member in members(file)) else None
    return _of_tensors(file)


def _check_part(file: Path) -> None:
    """Refuses one file of a folder that is converted as a whole, and says so."""
    beside = {path.name for path in file.parent.iterdir()}
    is_part = file.name in SEPFORMER and set(SEPFORMER) <= beside
    if is_part or (file.name in ("checkpoint", *bundle_files(beside))):
        raise ConversionError(f"{shown(file.name)} is one file of a checkpoint: name the folder it lies in")


def _of_tensors(file: Path) -> str | None:
    import torch

    # argparse.Namespace is what some authors' settings are in: a class that does nothing but hold values
    with torch.serialization.safe_globals([argparse.Namespace]):
        tensors, metadata = read_tensors(file, TABLES), read_metadata(file, TABLES)
    stated = metadata.get("model_name")
    named = foreign_system([stated]) if isinstance(stated, str) else None
    system = None if named else _by_name(tensors, NAMES)
    foreign = named[0] if named else _by_name(tensors, FOREIGN_NAMES)
    if system is None and foreign:
        raise ConversionError(
            f"{shown(file.name)} is {foreign}, which hubsep does not have. Systems are {', '.join(CONVERTIBLE)}"
        )
    return system


def _by_name(names: Iterable[str], table: Iterable[tuple[str, str]]) -> str | None:
    """The first row of a table of which one of the names begins as it says."""
    return next((row for row, pattern in table if any(re.match(pattern, name) for name in names)), None)


__all__ = ["CONVERTIBLE", "licence_of", "recognised"]
