# SPDX-License-Identifier: Apache-2.0
"""The layouts that MP4 and QuickTime files state in boxes, which are hidden from PyAV and read here.

PyAV 18.1 frees the list of a layout with an order of its own more than once: measured, a file whose channels are left,
right, surrounds and centre ends the process. FFmpeg makes such lists of the boxes `chan` and `chnl`, and only
uncompressed audio needs them: codecs say themselves what their channels are.
"""

from __future__ import annotations

from typing import BinaryIO

from .decoding import Patched
from .layout_headers import Order, core_audio_layout
from .layouts import Layout, ordered


HIDDEN = b"skip"  # a box of this name is passed over
POSITIONS = dict(enumerate("FL FR FC LFE SL SR FLC FRC BL BR BC".split()))  # of ISO/IEC 23001-8
POSITIONS |= {17: "TFL", 18: "TFR", 19: "TFC", 20: "TBL", 21: "TBR", 22: "TBC", 25: "TC"}
LONGEST_BOX = 12 + 20 * 64


def without_layouts(file: BinaryIO, places: list[int]) -> Patched:
    """A file whose boxes of layouts, which have their names at these places, have another name."""
    return Patched(file, dict.fromkeys(places, HIDDEN))


def read_boxes(file: BinaryIO, places: list[int], channels: int) -> tuple[Layout | None, Order]:
    """What the first box that says something says of so many channels; as `read_layout` says it."""
    for place in places:
        file.seek(place)
        name = file.read(4)
        content = file.read(LONGEST_BOX)[4:]  # behind version and flags
        stated: tuple[Layout | None, Order] = (None, None)
        if name == b"chan" and len(content) >= 12:
            stated = core_audio_layout(content, channels)
        elif name == b"chnl" and len(content) >= 2 + channels and content[0] & 1 and content[1] == 0:
            stated = ordered([POSITIONS.get(position, "") for position in content[2 : 2 + channels]])
        if stated[0] is not None:
            return stated
    return None, None


__all__ = ["read_boxes", "without_layouts"]
