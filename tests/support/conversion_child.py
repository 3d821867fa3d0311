# SPDX-License-Identifier: Apache-2.0
"""Conversions that a test kills, in a process of their own."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny import saved_tiny
from transformers.utils import logging

from hubsep.conversion import convert
from hubsep.registry import SYSTEMS, locate


logging.disable_progress_bar()
torch.set_num_threads(1)
# what is only slow the first time is done before the forks: 20 of them would pay for it
for system in SYSTEMS.values():
    if system.converter is not None:
        importlib.import_module(system.converter)
    if system.config is not None:
        locate(system.processor or system.config)
with tempfile.TemporaryDirectory() as place:
    saved_tiny(Path(place) / "tiny")


def convert_once(model_type: Any, source: str, output: str, overrides: dict[str, Any]) -> None:
    convert(model_type, source, output, licence="MIT", **overrides)


def convert_for_ever(model_type: Any, source: str, output: str, overrides: dict[str, Any]) -> None:
    """Convert until this process is killed, each time with another licence on the card."""
    while True:
        for licence in ("MIT", "Apache-2.0"):
            convert(model_type, source, output, licence=licence, **overrides)
