# SPDX-License-Identifier: Apache-2.0
"""Models in folders and on the Hub: load, check, save, push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import face


if TYPE_CHECKING:
    from .atomic import atomic_folder, recover, verify_manifest
    from .checks import check_folder
    from .config import HubsepConfigMixin
    from .models import HubsepModelMixin
    from .resolve import checked_folder, resolve_folder

face(
    __name__,
    {
        ".atomic": "atomic_folder recover verify_manifest",
        ".checks": "check_folder",
        ".config": "HubsepConfigMixin",
        ".models": "HubsepModelMixin",
        ".resolve": "checked_folder resolve_folder",
    },
)

__all__ = [
    "HubsepConfigMixin",
    "HubsepModelMixin",
    "atomic_folder",
    "check_folder",
    "checked_folder",
    "recover",
    "resolve_folder",
    "verify_manifest",
]
