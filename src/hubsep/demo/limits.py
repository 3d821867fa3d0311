# SPDX-License-Identifier: Apache-2.0
"""What a public demo accepts, and the model that its owner chose.

The defaults suit the free size of a Space, two cores and 16 GB. Whoever runs a demo on something larger raises them by
environment variables, one a field: HUBSEP_DEMO_MAX_SECONDS=900.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import AudioError, CheckpointError
from ..hub.resolve import resolve_folder, task_of
from ..registry import TASK, TEXT_TO_AUDIO


PREFIX = "HUBSEP_DEMO_"
PAGES = {TASK: "spaces/separation", TEXT_TO_AUDIO: "spaces/text-to-audio"}


@dataclass(frozen=True)
class DemoLimits:
    """Bounds of a demo.

    Attributes:
        max_upload_mb: size of one upload in MiB, all its files together, and of a file again when it is read.
        max_seconds: of a recording.
        max_channels: of a recording.
        max_values: samples times channels of a recording; 80 million are 320 MB in memory.
        max_queries: asked for at once.
        decode_memory_mb: address space of the process that decodes, in MiB.
        decode_cpu_seconds: processor time it may take.
        decode_seconds: time on the clock it may take.
        queue_size: people who may wait; the next is told that the queue is full.
        keep_seconds: how long uploads and results stay on the disk; uploads of those who wait stay longer.
        generated_seconds: of a sound that is made.
        generated_steps: of the solver.
        candidates: of one prompt.
        prompt_characters: of a prompt.
    """

    max_upload_mb: int = 50
    max_seconds: int = 300
    max_channels: int = 8
    max_values: int = 80_000_000
    max_queries: int = 6
    decode_memory_mb: int = 2_048
    decode_cpu_seconds: int = 30
    decode_seconds: int = 60
    queue_size: int = 20
    keep_seconds: int = 600
    generated_seconds: int = 20
    generated_steps: int = 100
    candidates: int = 4
    prompt_characters: int = 300

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> DemoLimits:
        """The defaults, with what the environment says instead.

        Raises:
            AudioError: if a variable is no whole number above 0.
        """
        environment = os.environ if environment is None else environment
        values = {}
        for field in fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is None:
                continue
            if not text.isdecimal() or int(text) < 1:
                raise AudioError(f"{PREFIX}{field.name.upper()} must be a whole number above 0, got {text!r}")
            values[field.name] = int(text)
        return cls(**values)


def chosen_model(name: str, task: str) -> Path:
    """The folder of the model that HUBSEP_MODEL names.

    Args:
        name: what the variable says.
        task: of the page, as `pipeline` calls it.

    Raises:
        CheckpointError: if there is no such model, or it is for the other page.
    """
    folder = resolve_folder(name)
    purpose = task_of(folder)
    if purpose in PAGES and purpose != task:
        raise CheckpointError(
            f"HUBSEP_MODEL is {name!r}, a model for {purpose}, and this page is for {task}: set it for "
            f"{PAGES[purpose]}, and leave it out here"
        )
    return folder


__all__ = ["DemoLimits", "chosen_model"]
