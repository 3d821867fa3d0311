# SPDX-License-Identifier: Apache-2.0
"""Commands in processes that a test kills."""

from __future__ import annotations

import gc
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import peft
import pytest
import torchaudio
from hub_client import point_at
from hub_server import WRITER
from interruption_child import save_for_ever
from transformers.utils import logging

from hubsep.cli import main
from hubsep.cli import separate as separate_command
from hubsep.conversion import conv_tasnet
from hubsep.pipelines.audioldm2 import pipeline as audioldm2
from hubsep.training.finetune import card as finetune_card
from hubsep.training.finetune import run as finetune


# what a run imports is imported once, before the processes fork
IMPORTED: Any = (
    matplotlib, peft, torchaudio, save_for_ever, separate_command, conv_tasnet, audioldm2, finetune, finetune_card
)  # fmt: skip
logging.disable_progress_bar()


def warm_up() -> None:
    """What would cost every process: what a command imports, and collecting that, which writes to all pages."""
    with redirect_stdout(io.StringIO()):
        main(["convert", "--help"])
    gc.collect()
    gc.freeze()


def command(arguments: list[str], hub: str, home: str) -> int:
    """Runs a command; with `hub`, an address, against the Hub there."""
    if hub:
        point_at(pytest.MonkeyPatch(), hub, Path(home), WRITER)
    return main(arguments)
