# SPDX-License-Identifier: Apache-2.0
"""Pictures of recordings, of evaluations, of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from .spectrograms import Picture, picture_format, picture_of, plot_recordings, plot_separation, save_figure

face(
    __name__,
    {
        ".spectrograms": "Picture picture_format picture_of plot_recordings plot_separation save_figure",
    },
)

__all__ = ["Picture", "picture_format", "picture_of", "plot_recordings", "plot_separation", "save_figure"]
