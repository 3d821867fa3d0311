# SPDX-License-Identifier: Apache-2.0
"""The record of a batch, for programs that read it (`batch/manifest.py`)."""

from ..batch.manifest import read_manifest


__all__ = ["read_manifest"]
