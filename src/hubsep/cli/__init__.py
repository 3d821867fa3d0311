# SPDX-License-Identifier: Apache-2.0
"""The `hubsep` command. PyTorch is imported inside the commands that need it, so that `--help` answers at once."""

from .main import main


__all__ = ["main"]
