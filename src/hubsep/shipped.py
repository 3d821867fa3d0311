# SPDX-License-Identifier: Apache-2.0
"""The models inside the package: their names and folders."""

from __future__ import annotations

from pathlib import Path


CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHIPPED: dict[str, Path] = {
    name: CHECKPOINTS / name
    for name in (
        "audiosep-small",
        "conv-tasnet-small",
        "speech-separation-small",
        "conv-tasnet-live",
        "audioslots-small",
        "spleeter-small-2stems",
        "spleeter-small-4stems",
        "meta-tasnet-small",
        "audioldm2-tiny",
    )
}
DEFAULT_MODEL = "audiosep-small"
DEFAULT_GENERATOR = "audioldm2-tiny"
SEPARATORS = tuple(name for name in SHIPPED if name != DEFAULT_GENERATOR)


__all__ = ["CHECKPOINTS", "DEFAULT_GENERATOR", "DEFAULT_MODEL", "SEPARATORS", "SHIPPED"]
