# SPDX-License-Identifier: Apache-2.0
"""Components of AudioLDM 2: the configuration, weights, tokenizer or scheduler of one of them changed.

The others were loaded before, so that a case is about one. What is asked: a refusal, or a pipeline that makes a sound
that is finite and as long as it should be.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_audioldm2 import SAMPLES, SECONDS, tiny_audio_mae, tiny_components

from fuzz.cases import Action, Case, Kind, expect
from fuzz.folders import CANARY, change_json_file, link, spoiled, try_to
from fuzz.hostile_keys import PROCESSOR_KEYS, REDIRECTIONS
from fuzz.tensors import change_weights
from hubsep.pipelines.audioldm2 import AudioLDM2Pipeline


TEXTS = ("tokenizer", "tokenizer_2", "feature_extractor")
KEYS: dict[str, list[Any]] = {
    **REDIRECTIONS,
    "num_train_timesteps": [400_000_000, 0, -1, 1, 10**12],
    "layers_per_block": [1_000, 0, -1, [1, 2], 10**9],
    "n_layer": [1_024, 0, 10**6],
    "block_out_channels": [[2**20, 2**20], [], [32], [0, 0], [31, 64]],
    "beta_start": [float("nan"), -1, 2, "x"],
    "beta_end": [float("nan"), float("inf"), 0],
    "beta_schedule": ["x", "linear", "squaredcos_cap_v2"],
    "trained_betas": [[0.1], [0.1] * 1_000, ["x"], [float("nan")] * 1_000],
    "prediction_type": ["v_prediction", "sample", "x"],
    "timestep_spacing": ["x", "trailing"],
    "steps_offset": [10**9, -5],
    "clip_sample": [True],
    "thresholding": [True],
    "rescale_betas_zero_snr": [True],
    "attention_head_dim": [0, 3, 10**6, None, [8, 8], [10**6, 1]],
    "cross_attention_dim": [16, 10**6, [16, 32], []],
    "sample_size": [10**9, -1, 0],
    "norm_num_groups": [0, 7, 10**9],
    "act_fn": ["x", "gelu"],
    "scaling_factor": [0, float("nan"), -1, 1e30],
    "upsample_rates": [[0, 4], [10**6, 4], [5], [], [5, 4, 2]],
    "upsample_kernel_sizes": [[10**6, 8], [0, 0]],
    "resblock_kernel_sizes": [[10**6], [0], [4, 5], []],
    "resblock_dilation_sizes": [[[10**9]], [], [[1]] * 2],
    "leaky_relu_slope": [float("nan"), 1e30],
    "model_in_dim": [10**6, 0],
    "down_block_types": [["Evil"], ["DownBlock2D"] * 500, []],
    "transformer_layers_per_block": [0, 10**4, [1, 200]],
    "spec_size": [10**6, 0],
    "patch_size": [0, 10**6],
    "window_size": [0, 3, 10**6],
    "depths": [[1_000, 1], [0], []],
    "num_attention_heads": [0, 3, [0, 0]],
    "vocab_size": [10**9, 1, 0],
    "max_position_embeddings": [10**9, 1],
    "n_positions": [10**9, 1, 2],
    "n_head": [0, 3],
    "pad_token_id": [-1, 10**9, 41],
    "eos_token_id": [10**9, -1],
    "relative_attention_num_buckets": [0, 10**9],
    "relative_attention_max_distance": [0, -1],
    "feed_forward_proj": ["x", "gated-gelu", "evil-gelu"],
    "hidden_act": ["x", 3],
    "layer_norm_epsilon": [float("nan"), -1],
    "max_new_tokens": [10**9, -1, 0],
    "projection_dim": [10**9, 1],
    "text_config": [None, {}, 3],
    "audio_config": [None, {}],
    "initializer_factor": [float("nan")],
    "tie_word_embeddings": [True],
    "_class_name": ["Evil", "DDPMScheduler", None],
    "_diffusers_version": ["x", 3],
    "_use_default_values": [["beta_start"], 3],
    "dynamic_thresholding_ratio": [2],
    "lower_order_final": [3],
    "solver_order": [10**6],
    "norm_eps": [float("nan"), -1],
    "mid_block_type": ["x", None],
    "num_class_embeds": [10**9],
    "time_embedding_dim": [10**9],
    "conv_in_kernel": [10**6, 0, 2],
    "extra_film_condition_dim": [10**9],
}
SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "Evil",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)

_components: dict[str, Any] = {}


def prepare(place: Path) -> None:
    """A folder in diffusers' layout, whose components are loaded once."""
    parts = {**tiny_components(), "audio_mae": tiny_audio_mae()}
    AudioLDM2Pipeline(**parts).save_pretrained(place / "with_mae")
    whole = AudioLDM2Pipeline.from_pretrained(place / "with_mae")
    generate(whole)
    _components.update(whole.components)
    generate(load(place / "with_mae", "unet", on_demand=True))


def make(case: Case) -> Action:
    """One component changed, and a sound made with it."""
    name = case.choose({entry: entry for entry in _components})
    folder = copied(case, name, case.templates)
    for _ in range(case.random.choice([1, 1, 1, 2])):
        change_component(folder, name, case)
    on_demand = case.chance(0.2)
    case.note(f"on_demand={on_demand}")
    return lambda: generate(load(folder, name, on_demand=on_demand))


def copied(case: Case, name: str, templates: Path) -> Path:
    """A folder that holds one component; those of the others are empty, as they are not loaded."""
    source, folder = templates / "with_mae", case.folder / "folder"
    shutil.copytree(source / name, folder / name)
    shutil.copytree(source / name, case.outside, dirs_exist_ok=True)
    for other in _components:
        (folder / other).mkdir(exist_ok=True)
    shutil.copy(source / "model_index.json", folder)
    (folder / name / "evil.py").write_text(CANARY.format(str(case.outside / "canary")))
    return folder


def change_component(folder: Path, name: str, case: Case) -> None:
    """Changes a file of a component, or what the index says of it."""
    files = sorted(path.name for path in (folder / name).glob("*.json") if path.is_file())
    roll = case.random.random()
    if roll < 0.05 or not files:
        case.note("as it was")
    elif roll < 0.7:
        keys = PROCESSOR_KEYS if name in TEXTS else KEYS
        change_json_file(folder / name / case.random.choice(files), case, keys)
    elif roll < 0.8 and list((folder / name).glob("*.safetensors")):
        try_to(case, change_weights, next((folder / name).glob("*.safetensors")))
    elif roll < 0.9:
        change_index(folder / "model_index.json", name, case)
    else:
        try_to(case, case.random.choice([link, spoiled]), folder / name)


def change_index(path: Path, name: str, case: Case) -> None:
    """Changes the class of a component, or anything else in the index."""
    index = json.loads(path.read_text())
    if case.chance(0.5):
        entry = index.get(name) or ["diffusers", "x"]
        classes = {
            "evil": ["evil", "Evil"],
            "os": ["os", "system"],
            "builtins": ["builtins", "exec"],
            "none": [None, None],
            "text": "x",
            "one": [entry[0]],
            "number": [entry[0], 3],
            "pipeline": ["diffusers", "DiffusionPipeline"],
            "scheduler": ["diffusers", case.random.choice(SCHEDULERS)],
            "outside": ["..outside", "Evil"],
        }
        index[name] = case.choose(classes)
        path.write_text(json.dumps(index))
    else:
        change_json_file(
            path,
            case,
            {
                "_class_name": ["Evil"],
                "x": [["evil", "Evil"]],
                "custom_pipelines": ["evil"],
                "_name_or_path": ["{outside}"],
            },
        )


def load(folder: Path, name: str, *, on_demand: bool) -> Any:
    """The pipeline with one component from the folder and the others as they were."""
    others = {other: part for other, part in _components.items() if other != name}
    return AudioLDM2Pipeline.from_pretrained(folder, on_demand=on_demand, **others)


@torch.no_grad()
def generate(pipe: Any) -> str:
    """Makes a sound in one step; where there is an ear, it is used."""
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "num_inference_steps": 1,
        "audio_length_in_s": SECONDS,
        "generator": torch.Generator().manual_seed(0),
    }
    made = pipe("dog barking", num_waveforms_per_prompt=2, **options).audios
    expect(made.shape[-1] == SAMPLES, f"{made.shape[-1]} of {SAMPLES} samples came out")
    expect(np.isfinite(made).all(), "NaN or infinities came out")
    return "made"


COMPONENTS = Kind(prepare, make)


__all__ = ["COMPONENTS", "copied", "generate", "load"]
