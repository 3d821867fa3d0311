# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2 as its authors published it, to a folder of ours and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubsep.registry import face


if TYPE_CHECKING:
    from .converter import check, check_back, convert, convert_clap, convert_scheduler, source_file

face(
    __name__,
    {
        ".converter": "check check_back convert convert_clap convert_scheduler source_file",
    },
)

__all__ = ["check", "check_back", "convert", "convert_clap", "convert_scheduler", "source_file"]
