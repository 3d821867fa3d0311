# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md is what the code is: its picture shows the imports, its walks name what runs, in that order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import published_conv_tasnet
import pytest
import soundfile as sf
from architecture import CONTENTS, PAGE, PICTURE, Walk, faults, picture, traced, walks
from imports import LEVELS
from promises_pipeline import recording
from speakers import speakers
from tiny_audioldm2 import tiny_components
from tiny_audiosep import tiny_audiosep_with_presence
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.cards import finetuned_card, read_card, write_card
from hubsep.cli import main
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.audioldm2 import AudioLDM2Pipeline
from hubsep.shipped import SHIPPED


SEPFORMER = {
    "sampling_rate": 8_000, "encoder_kernel_size": 16, "encoder_stride": 8, "encoder_channels": 16, "hidden_size": 8,
    "num_blocks": 1, "num_intra_layers": 1, "num_inter_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "chunk_size": 20,
}  # fmt: skip


def a_mixture() -> list[str]:
    model, processor = tiny_audiosep_with_presence()
    AudioSeparationPipeline(model=model, processor=processor, device="cpu").save_pretrained("model")
    sf.write("street.wav", recording(9_000)[0] / 8, 8_000, subtype="PCM_16")
    return ["separate", "street.wav", "--model", "model", "-q", "rain", "--residual", "-o", "separated"]


def a_prompt() -> list[str]:
    AudioLDM2Pipeline(**tiny_components()).save_pretrained("model")
    return ["generate", "rain", "--model", "model", "--steps", "2", "--device", "cpu", "-o", "rain.wav"]


def a_checkpoint() -> list[str]:
    published_conv_tasnet.write(Path("pytorch_model.bin"), "asteroid")
    return ["convert", "conv_tasnet", "pytorch_model.bin", "model", "--licence", "cc-by-sa-4.0"]


def a_recipe() -> list[str]:
    speakers(Path("data/speech"))
    settings = {
        "model_type": "sepformer", "model": SEPFORMER, "folders": ["speech"], "mixing": {"seconds": 0.25},
        "batch_size": 2,
        "validation_fraction": 0.3, "validation_mixtures": 2, "validation_seconds": 0.5, "steps": 1, "save_every": 1,
        "eval_every": 1, "warmup_steps": 1, "bf16": False,
    }  # fmt: skip
    Path("recipe.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return ["train", "speech", "--config", "recipe.yaml", "--data", "data", "--output", "run"]


def a_result() -> list[str]:
    speakers(Path("speech"), count=4, clips=1)
    tiny_conv_tasnet()[0].save_pretrained("model")
    base = read_card(SHIPPED["conv-tasnet-small"])
    facts = {"data": [], "licence": "CC0-1.0", "commercial": True, "training": "Not trained.", "commands": []}
    write_card(Path("model"), finetuned_card(base, name="model", **facts))  # type: ignore[arg-type]
    size = ["--all-recordings", "--mixtures", "1", "--seconds", "0.5"]
    return ["evaluate", "model", "--data", "speech", *size, "--write-card"]


RUNS: dict[str, Callable[[], list[str]]] = {
    "A mixture": a_mixture, "A prompt": a_prompt, "A checkpoint": a_checkpoint, "A recipe": a_recipe,
    "A result": a_result,
}  # fmt: skip


def test_the_picture_shows_the_imports():
    (shown,) = PICTURE.findall(PAGE.read_text(encoding="utf-8"))
    assert shown == picture(), "write it again with `python tests/support/architecture.py`"
    assert set(CONTENTS) == set(LEVELS)


def test_every_function_of_the_page_exists():
    for walk in walks().values():
        assert walk.functions
        assert all(function.line for function in walk.functions)
    assert set(walks()) == set(RUNS)


@pytest.mark.parametrize("title", RUNS)
def test_a_walk_is_what_a_run_does(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    walk, command = walks()[title], RUNS[title]()
    with traced(walk) as results:
        assert main(command) == 0
    assert not faults(walk, results)
    swapped = Walk(title, [(entry, calls[::-1]) for entry, calls in walk.entries])
    several = [entry.name for entry, calls in walk.entries if len(calls) > 1]
    assert len([fault for fault in faults(swapped, results) if "earlier" in fault]) >= len(several)
