# SPDX-License-Identifier: Apache-2.0
"""Names of files: when two are one, for the disk of some system, and how those of recordings end."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


# endings of recordings
SUFFIXES = frozenset(
    (
        ".aif .aifc .aiff .au .bwf .caf .flac .mp2 .mp3 .oga .ogg .opus .rf64 .snd .w64 .wav .wave "
        ".3g2 .3gp .avi .f4a .m4a .m4b .m4r .m4v .mka .mkv .mov .mp4 .qt .weba .webm"
    ).split()
)
# endings of recordings that can be read or not, by what they hold; others are left out
DOUBTFUL = frozenset(
    (
        ".aac .ac3 .adts .amr .ape .awb .dff .dsf .dts .eac3 .flv .gsm .ircam .m2ts .m4p .mpc .mpeg .mpg .mpga .mts "
        ".nist .paf .pvf .ra .rm .sf .sph .spx .tak .ts .tta .vob .voc .wma .wmv .wv"
    ).split()
)
LONGEST_NAME = 255  # bytes, on nearly every file system


def key_of(path: Path) -> str:
    """What two names that a disk may take for one have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", os.path.abspath(path)).casefold())


__all__ = ["DOUBTFUL", "LONGEST_NAME", "SUFFIXES", "key_of"]
