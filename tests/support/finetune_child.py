# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes that end early: killed after a step, or before a change to the disk that follows it, whatever that is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import peft
import tiny_conv_tasnet
from bells import BRIEF
from interruption_child import CHANGES, WRITING
from transformers.utils import logging

from hubsep.training.finetune import run as finetune
from hubsep.training.finetune.trainer import FineTuneCallback


IMPORTED = matplotlib, peft, tiny_conv_tasnet  # so that no forked process has to
logging.disable_progress_bar()
EVERY = 3  # steps between checkpoints
SETTINGS: dict[str, Any] = {
    **BRIEF, "mixing": {"seconds": 0.1}, "batch_size": 1, "validation_mixtures": 1, "validation_seconds": 0.1,
    "final_mixtures": 1, "save_every": EVERY, "patience": 0, "non_commercial": True,
}  # fmt: skip


def fine_tune(
    model: str, data: str, output: str, steps: int, lora: int, eval_every: int, after: int, change: int
) -> int:
    """Runs a fine-tune, or goes on with it, and kills this process.

    The number of every step that was taken is added to a file beside `output`.

    Args:
        model: folder of the model.
        data: folder of recordings.
        output: folder of the run.
        steps: of the whole run.
        lora: whether to train an adapter.
        eval_every: steps between validations.
        after: the step after which the process is killed; 0 for the start, -1 for never.
        change: to the disk, counted from then on, before which it is killed; 0 for at once.

    Returns:
        How many changes to the disk there were.
    """
    taken, count = Path(f"{output}.steps"), 0
    reached = after == 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            count += reached and str(arguments[0]) != str(taken)
            if reached and count == change:
                kill()

    class Counted(FineTuneCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            nonlocal reached
            with taken.open("a") as file:
                print(state.global_step, file=file)
            reached = reached or state.global_step == after
            if reached and change == 0:
                kill()
            super().on_step_end(args, state, control, model=model, **kwargs)

    finetune.FineTuneCallback = Counted  # type: ignore[misc]
    sys.addaudithook(hook)
    finetune.main(model, data, Path(output), lora=bool(lora), **{**SETTINGS, "steps": steps, "eval_every": eval_every})
    return count
