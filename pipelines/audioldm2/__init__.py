# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2: a sentence goes in, a sound comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubsep.registry import face


if TYPE_CHECKING:
    from .codec import AudioLDM2Output
    from .pipeline import AudioLDM2Pipeline

face(
    __name__,
    {
        ".codec": "AudioLDM2Output",
        ".pipeline": "AudioLDM2Pipeline",
    },
)

__all__ = ["AudioLDM2Output", "AudioLDM2Pipeline"]
