# SPDX-License-Identifier: Apache-2.0
"""Stages of AudioLDM 2's training in a process that may be killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from stages_audioldm2 import LOA, SCHEDULER, UNET, VAE, VOCODER, run
from transformers.utils import logging

from hubsep.training.generators import autoencoder, diffusion, joint, loa, lora, vocoder


WORDS = {name: f"text/{name}" for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
HEARD = {"audio_mae": "audiomae", "vae": "vae"}
LEARNT = {name: f"loa/{name}" for name in ("projection_model", "language_model")}
STAGES: dict[str, tuple[Any, type[Any], dict[str, Any]]] = {
    "autoencoder": (autoencoder, autoencoder.AutoencoderRecipe, {"model": VAE}),
    "vocoder": (vocoder, vocoder.VocoderRecipe, {"model": VOCODER, "adversarial_weight": 0.1}),
    "diffusion": (diffusion, diffusion.DiffusionRecipe, {"model": UNET, "components": HEARD, "scheduler": SCHEDULER}),
    "loa": (loa, loa.LoaRecipe, {**LOA, "components": {**WORDS, **HEARD}, "train_text_encoder_2": True}),
    "joint": (
        joint,
        joint.JointRecipe,
        {**LOA, "components": {**WORDS, **HEARD, **LEARNT, "unet": "unet"}, "scheduler": SCHEDULER},
    ),
    "lora": (lora, lora.LoraRecipe, {"pipeline": "", "seconds": 0.08, "views": 1, "learning_rate": 0.01}),
}

logging.disable_progress_bar()


def train(stage: str, data: str, output: str, kill_before: str = "") -> dict[str, float]:
    """Run a stage beside what earlier ones made; kill this process before it writes a file whose path ends so."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if writing and isinstance(arguments[0], str) and arguments[0].endswith(kill_before):
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_before:
        sys.addaudithook(hook)
    module, kind, fields = STAGES[stage]
    place = Path(output)
    if "pipeline" in fields:
        fields = {**fields, "pipeline": str(place.parent / "pipeline")}
    return run(module, kind, Path(data), place, **fields)
