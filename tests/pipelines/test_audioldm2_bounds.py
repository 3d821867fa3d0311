# SPDX-License-Identifier: Apache-2.0
"""Configurations of AudioLDM 2's components that ask for too much: refused before memory or time is spent on them."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_audioldm2 import tiny_components
from torch import nn

from hubsep import AudioLDM2Pipeline
from hubsep.errors import AudioError, CheckpointError, QueryError
from hubsep.hub.budget import budget
from hubsep.hub.config import memory_errors
from hubsep.pipelines.audioldm2.loading.bounds import check_component
from hubsep.pipelines.audioldm2.loading.components import empty_component, load_component
from hubsep.pipelines.audioldm2.loading.folder import read_index
from hubsep.pipelines.audioldm2.schedulers import SCHEDULERS
from hubsep.pipelines.audioldm2.settings import Sampling


MEGABYTES = 300  # of memory that a refusal may take; the issue of each case was seconds or gigabytes
SECONDS = 30  # of the processor: without a bound it is more than a minute, or all memory
BIG = 2**20
Fields = dict[str, Any]

TOO_MUCH: list[tuple[str, Fields]] = [
    ("scheduler", {"num_train_timesteps": 400_000_000}),
    ("scheduler", {"num_train_timesteps": "1000"}),
    ("scheduler", {"num_train_timesteps": -1}),
    ("scheduler", {"beta_start": float("nan")}),
    ("scheduler", {"beta_end": 5.0}),
    ("scheduler", {"beta_end": float("inf")}),
    ("scheduler", {"trained_betas": [0.1, float("nan")]}),
    ("scheduler", {"steps_offset": 10**9}),
    ("scheduler", {"prediction_type": "nothing"}),
    ("scheduler", {"timestep_spacing": 3}),
    ("scheduler", {"a_field_of_tomorrow": 10**12}),
    ("scheduler", {"auto_map": {"a": "evil.Evil"}}),
    ("unet", {"layers_per_block": 1000}),
    ("unet", {"layers_per_block": 60}),
    ("unet", {"layers_per_block": [1, 60]}),
    ("unet", {"transformer_layers_per_block": 60}),
    ("unet", {"block_out_channels": [BIG, BIG]}),
    ("unet", {"block_out_channels": [4096, 8192]}),
    ("unet", {"block_out_channels": [32] * 1000}),
    ("unet", {"cross_attention_dim": [[16] * 60, [16] * 60]}),
    ("unet", {"attention_head_dim": 0}),
    ("unet", {"attention_head_dim": 1_000}),
    ("unet", {"norm_num_groups": 2**40}),
    ("unet", {"norm_eps": float("nan")}),
    ("unet", {"in_channels": BIG}),
    ("unet", {"sample_size": 2**40}),
    ("vae", {"block_out_channels": [BIG, 64]}),
    ("vae", {"layers_per_block": 1000}),
    ("vae", {"layers_per_block": 64}),
    ("vae", {"latent_channels": BIG}),
    ("vae", {"scaling_factor": 0.0}),
    ("vae", {"scaling_factor": float("nan")}),
    ("vae", {"scaling_factor": "x"}),
    ("vocoder", {"upsample_rates": [64, 65]}),
    ("vocoder", {"upsample_rates": [BIG, 4]}),
    ("vocoder", {"upsample_rates": 5}),
    ("vocoder", {"upsample_kernel_sizes": [BIG, 8]}),
    ("vocoder", {"resblock_dilation_sizes": [[BIG, 3, 5]] * 2}),
    ("vocoder", {"resblock_dilation_sizes": [[1] * 64] * 2}),
    ("vocoder", {"upsample_initial_channel": BIG}),
    ("vocoder", {"model_in_dim": BIG}),
    ("vocoder", {"sampling_rate": 1}),
    ("vocoder", {"leaky_relu_slope": float("inf")}),
    ("language_model", {"n_layer": 1024}),
    ("language_model", {"n_layer": 64, "n_embd": 4096}),
    ("language_model", {"n_positions": BIG}),
    ("language_model", {"n_embd": BIG}),
    ("language_model", {"n_head": 0}),
    ("language_model", {"vocab_size": 2**40}),
    ("language_model", {"max_new_tokens": 10**9}),
    ("language_model", {"layer_norm_epsilon": float("nan")}),
    ("text_encoder_2", {"num_layers": 1024}),
    ("text_encoder_2", {"d_model": 8192, "d_ff": 65536}),
    ("text_encoder_2", {"d_kv": BIG}),
    ("text_encoder_2", {"relative_attention_num_buckets": BIG}),
    ("text_encoder_2", {"vocab_size": -1}),
    ("text_encoder_2", {"dropout_rate": float("nan")}),
    ("text_encoder", {"text_config": {"num_hidden_layers": 1024}}),
    ("text_encoder", {"text_config": {"vocab_size": 2**40}}),
    ("text_encoder", {"text_config": {"max_position_embeddings": BIG}}),
    ("text_encoder", {"audio_config": {"window_size": 4096}}),
    ("text_encoder", {"audio_config": {"depths": [1000, 1]}}),
    ("text_encoder", {"audio_config": {"spec_size": BIG}}),
    ("text_encoder", {"audio_config": {"num_mel_bins": BIG}}),
    ("text_encoder", {"audio_config": {"patch_stride": [4, 4, 4, 4]}}),
    ("text_encoder", {"audio_config": {"patch_stride": [4]}}),
    ("text_encoder", {"audio_config": {"depths": [1, 1, 1]}}),
    ("text_encoder", {"audio_config": {"hidden_act": "evil"}}),
    ("text_encoder", {"text_config": {"pad_token_id": "x"}}),
    ("text_encoder", {"projection_dim": BIG}),
    ("projection_model", {"text_encoder_dim": BIG}),
    ("projection_model", {"use_learned_position_embedding": True, "max_seq_length": BIG}),
    ("projection_model", {"max_seq_length": "x"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipeline") / "audioldm2"
    AudioLDM2Pipeline(**tiny_components()).save_pretrained(place)
    return place


def changed(folder: Path, place: Path, name: str, fields: Fields) -> tuple[Path, str, str]:
    """A copy of a component with other fields; library and class of it."""
    component = Path(shutil.copytree(folder / name, place / name))
    path = component / ("scheduler_config.json" if name == "scheduler" else "config.json")
    content = json.loads(path.read_text())
    for field, value in fields.items():
        content[field] = {**content.get(field, {}), **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    return (component, *read_index(folder)[name])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


@pytest.mark.parametrize(("name", "fields"), TOO_MUCH, ids=[f"{name}: {fields}"[:70] for name, fields in TOO_MUCH])
def test_a_component_that_asks_for_too_much_is_refused_at_once(
    folder: Path, tmp_path: Path, name: str, fields: Fields
) -> None:
    source = changed(folder, tmp_path, name, fields)
    ways = [load_component, empty_component] if name != "scheduler" else [load_component]
    for way in ways:
        options: dict[str, Any] = {"strict": True} if way is load_component else {}
        before, start = peak(), time.process_time()
        with pytest.raises(CheckpointError, match=f"'{name}'"):
            way(*source, dtype=torch.float32, **options)
        assert time.process_time() - start < SECONDS
        assert peak() - before < MEGABYTES


def test_the_whole_pipeline_refuses_what_a_component_may_not_ask_for(folder: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    path = whole / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_train_timesteps": 400_000_000}))
    for on_demand in (False, True):
        with pytest.raises(CheckpointError, match=r"'scheduler': scheduler_config\.json: 'num_train_timesteps'"):
            AudioLDM2Pipeline.from_pretrained(whole, on_demand=on_demand)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = AudioLDM2Pipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("output_type", ["np", "pt", "latent"])
def test_weights_that_overflow_are_an_error_and_no_sound(pipe: Any, output_type: str) -> None:
    projection = pipe.projection_model.projection_1.weight
    whole = projection.detach().clone()
    try:
        with torch.no_grad():
            projection[0, 0] = 3e38
        with pytest.raises(CheckpointError, match="NaN or infinite samples"):
            pipe("rain", num_inference_steps=2, audio_length_in_s=0.05, output_type=output_type)
        with pytest.raises(CheckpointError, match="NaN or infinite samples"):
            list(pipe.stream("rain", num_inference_steps=2, seconds=0.05))
    finally:
        with torch.no_grad():
            projection.copy_(whole)


@pytest.mark.parametrize(("field", "value"), [("feature_size", 64), ("truncation", "fusion"), ("hop_length", 16)])
def test_a_feature_extractor_of_another_clap_is_named(pipe: Any, field: str, value: Any) -> None:
    """It was an error of torch in the middle of the tower, after the sounds were made."""
    before = getattr(pipe.feature_extractor, field)
    setattr(pipe.feature_extractor, field, value)
    try:
        with pytest.raises(CheckpointError, match=r"the feature extractor: .* the audio tower takes"):
            pipe("rain", num_inference_steps=1, audio_length_in_s=0.05, num_waveforms_per_prompt=2)
    finally:
        setattr(pipe.feature_extractor, field, before)


def with_scheduler(folder: Path, place: Path, name: Any) -> Path:
    """The folder with a scheduler of another class."""
    whole = Path(shutil.copytree(folder, place / "whole"))
    for path, fields in (("model_index.json", {"scheduler": ["diffusers", name]}),
                         ("scheduler/scheduler_config.json", {"_class_name": name})):  # fmt: skip
        (whole / path).write_text(json.dumps({**json.loads((whole / path).read_text()), **fields}))
    return whole


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_scheduler_that_is_accepted_makes_a_sound(name: str, folder: Path, tmp_path: Path, pipe: Any) -> None:
    whole = with_scheduler(folder, tmp_path, name)
    assert read_index(whole)["scheduler"] == ("diffusers", name)
    pipe.scheduler = load_component(whole / "scheduler", "diffusers", name, dtype=torch.float32, strict=True)
    sounds = pipe("rain", num_inference_steps=4, audio_length_in_s=0.05, solver="scheduler", output_type="pt").audios
    assert torch.isfinite(sounds).all()
    assert sounds.abs().max() > 0


def test_other_schedulers_are_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    others = [name for name in dir(diffusers) if name.endswith("Scheduler") and name not in SCHEDULERS]
    assert {"KarrasVeScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"} < set(others)
    for number, name in enumerate((*others, "EvilScheduler", "Scheduler", ["DDIMScheduler"], None, 5)):
        whole = tmp_path / str(number)
        whole.mkdir()
        index = json.loads((folder / "model_index.json").read_text())
        (whole / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
        for part in index:
            (whole / part).mkdir(exist_ok=True) if not part.startswith("_") else None
        with pytest.raises(CheckpointError, match=r"scheduler is .*; accepted are DDIMScheduler, "):
            read_index(whole)


def test_a_scheduler_that_is_set_is_looked_at_when_a_call_begins(pipe: Any) -> None:
    class Mine(diffusers.DDIMScheduler):
        pass

    pipe.scheduler = Mine()
    assert np.isfinite(pipe("rain", num_inference_steps=1, audio_length_in_s=0.05).audios).all()
    for other in (diffusers.KarrasVeScheduler(), diffusers.FlowMatchEulerDiscreteScheduler(), None):
        pipe.scheduler = other
        for solver in (None, "dpm", "scheduler"):
            with pytest.raises(QueryError, match=r"is \w+, which does not solve an AudioLDM 2; accepted are DDIM"):
                pipe("rain", num_inference_steps=1, audio_length_in_s=0.05, solver=solver)


def test_steps_that_a_scheduler_cannot_do_are_one_error(pipe: Any) -> None:
    pipe.scheduler = diffusers.PNDMScheduler()
    for steps in (1, 2, 3):
        with pytest.raises(QueryError, match=f"PNDMScheduler cannot do num_inference_steps={steps}"):
            pipe("rain", num_inference_steps=steps, audio_length_in_s=0.05)


@pytest.mark.parametrize(
    "value", [10**400, -(10**5_000), float("nan"), float("inf"), True, "1", [1], None], ids=lambda value: "value"
)
def test_a_number_that_no_float_holds_is_one_error(value: Any, pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="scale must be a finite number, got "):
        pipe.load_lora_weights(tmp_path, scale=value)
    for name in ("guidance_scale", "eta"):
        with pytest.raises(QueryError, match=f"{name} must be a number from .*, got "):
            Sampling(**{name: value})
    with pytest.raises(AudioError, match="a length must be a number of seconds, got "):
        pipe.latent_frames(value)


PUBLISHED: dict[str, Fields] = {
    "scheduler": {
        "beta_end": 0.0195, "beta_schedule": "scaled_linear", "beta_start": 0.0015, "clip_sample": False,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": False, "steps_offset": 1,
        "trained_betas": None, "timestep_spacing": "leading", "_class_name": "DDIMScheduler",
    },
    "unet, large": {
        "act_fn": "silu", "attention_head_dim": [8, 16, 24, 40], "block_out_channels": [128, 256, 384, 640],
        "cross_attention_dim": [[None, 768, 1024, None]] * 4, "layers_per_block": 2, "norm_eps": 1e-05,
        "norm_num_groups": 32, "sample_size": 256, "transformer_layers_per_block": 2, "num_attention_heads": None,
    },
    "vae": {
        "block_out_channels": [128, 256, 512], "layers_per_block": 2, "latent_channels": 8, "sample_size": 1024,
        "scaling_factor": 0.4110932946205139,
    },
    "vocoder, 48 kHz": {
        "model_in_dim": 256, "sampling_rate": 48000, "upsample_initial_channel": 1536,
        "upsample_rates": [6, 5, 4, 2, 2], "upsample_kernel_sizes": [12, 10, 8, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11, 15], "resblock_dilation_sizes": [[1, 3, 5]] * 4, "leaky_relu_slope": 0.1,
    },
    "language_model": {
        "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257,
        "n_inner": None, "max_new_tokens": 8, "layer_norm_epsilon": 1e-05, "initializer_range": 0.02,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    },
    "text_encoder_2, flan-t5-large": {
        "d_model": 1024, "d_ff": 2816, "d_kv": 64, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 16,
        "vocab_size": 32128, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "n_positions": 512, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
    },
    "text_encoder": {
        "logit_scale_init_value": 14.285714285714285, "projection_dim": 512, "hidden_size": 768,
        "text_config": {"vocab_size": 50265, "num_hidden_layers": 12, "max_position_embeddings": 514},
        "audio_config": {
            "depths": [2, 2, 12, 2], "num_attention_heads": [4, 8, 16, 32], "mlp_ratio": 4.0, "spec_size": 256,
            "window_size": 8, "patch_stride": [4, 4], "num_classes": 527, "hidden_size": 1024, "num_mel_bins": 64,
        },
    },
    "text_encoder_2, VITS": {
        "vocab_size": 183, "hidden_size": 192, "num_hidden_layers": 6, "ffn_dim": 768, "speaker_embedding_size": 0,
        "num_speakers": 1, "upsample_rates": [8, 8, 2, 2], "spectrogram_bins": 513, "sampling_rate": 16000,
        "duration_predictor_tail_bound": 5.0, "noise_scale": 0.667, "wavenet_dilation_rate": 1, "window_size": 4,
    },
    "projection_model": {
        "text_encoder_dim": 512, "text_encoder_1_dim": 1024, "langauge_model_dim": 768, "max_seq_length": 310,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_inside_the_bounds(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "component"
    folder.mkdir()
    file = "scheduler_config.json" if name == "scheduler" else "config.json"
    (folder / file).write_text(json.dumps(PUBLISHED[name]))
    check_component(folder)


def test_a_budget_ends_building_at_the_first_tensor_too_many() -> None:
    built: list[nn.Module] = []
    with pytest.raises(CheckpointError, match="'thing': its configuration describes"), budget("'thing'", 1, 100):
        built.extend(nn.Linear(2, 2) for _ in iter(int, 1))  # without end
    with pytest.raises(CheckpointError, match="do not belong together"), budget("'thing'", 1, 100):
        nn.Linear(100_000, 100_000, device="meta")
    nn.Linear(100, 1000)  # nothing is counted any more
    with budget("'thing'", 2, 6):
        nn.Linear(2, 2)


MEMORY = [MemoryError(), torch.OutOfMemoryError("out of memory"), RuntimeError("cpu: can't allocate memory: 8 bytes")]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_is_said_in_one_sentence(error: Exception) -> None:
    with pytest.raises(CheckpointError, match="there is not enough memory for it"), memory_errors("'model'"):
        raise error
    with pytest.raises(RuntimeError, match="something else"), memory_errors("'model'"):
        raise RuntimeError("something else")
