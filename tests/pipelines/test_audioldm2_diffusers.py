# SPDX-License-Identifier: Apache-2.0
"""Names of diffusers: whatever its pipelines offer works on ours, or is refused in one sentence of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_audioldm2 import CLOSE, SECONDS, diffusers_peer, published_folder, tiny_components
from torch import nn

from hubsep import AudioLDM2Pipeline
from hubsep.errors import CheckpointError, HubsepError, QueryError


SETTINGS: dict[str, Any] = {"seconds": SECONDS, "num_inference_steps": 2}


built = cache(tiny_components)


def fresh() -> Any:
    """A pipeline whose models are nobody else's."""
    parts: dict[str, Any] = {
        name: deepcopy(part) if isinstance(part, nn.Module) else part for name, part in built().items()
    }
    pipe = AudioLDM2Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sound(pipe: Any, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pipe("rain", generator=generator, **{**SETTINGS, **options}).audios


@pytest.fixture(scope="module")
def expected() -> Any:
    return sound(fresh())


class Louder(AttnProcessor2_0):
    """A user's processor: takes an argument of its own, and shows that it was called."""

    def __call__(self, attn: Any, states: Any, *args: Any, times: float = 1.0, **options: Any) -> Any:
        return super().__call__(attn, states, *args, **options) * times


WORKS: dict[str, Callable[[Any], Any]] = {
    "components": lambda pipe: AudioLDM2Pipeline(**pipe.components),
    "config": lambda pipe: pipe.config["unet"],
    "device": lambda pipe: pipe.device,
    "disable_attention_slicing": lambda pipe: pipe.disable_attention_slicing(),
    "disable_vae_slicing": lambda pipe: pipe.disable_vae_slicing(),
    "disable_vae_tiling": lambda pipe: pipe.disable_vae_tiling(),
    "disable_xformers_memory_efficient_attention": lambda pipe: pipe.disable_xformers_memory_efficient_attention(),
    "dtype": lambda pipe: pipe.dtype,
    "enable_attention_slicing": lambda pipe: pipe.enable_attention_slicing(),
    "enable_attention_slicing max": lambda pipe: pipe.enable_attention_slicing("max"),
    "enable_attention_slicing 1": lambda pipe: pipe.enable_attention_slicing(1),
    "enable_group_offload": lambda pipe: pipe.enable_group_offload("cpu", offload_type="leaf_level"),
    "enable_model_cpu_offload to the processor": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "enable_vae_slicing": lambda pipe: pipe.enable_vae_slicing(),
    "from_pipe": lambda pipe: AudioLDM2Pipeline.from_pipe(pipe),
    "from_pipe diffusers": lambda pipe: AudioLDM2Pipeline.from_pipe(diffusers.AudioLDM2Pipeline(**plain_parts(pipe))),
    "from_pipe of diffusers": lambda pipe: diffusers.AudioLDM2Pipeline.from_pipe(pipe),
    "maybe_free_model_hooks": lambda pipe: pipe.maybe_free_model_hooks(),
    "name_or_path": lambda pipe: pipe.name_or_path,
    "parameters": lambda pipe: pipe.parameters,
    "progress_bar": lambda pipe: list(pipe.progress_bar(["step"])),
    "remove_all_hooks": lambda pipe: pipe.remove_all_hooks(),
    "reset_device_map": lambda pipe: pipe.reset_device_map(),
    "set_attention_slice": lambda pipe: pipe.set_attention_slice(2),
    "set_progress_bar_config": lambda pipe: pipe.set_progress_bar_config(disable=True, leave=False),
    "set_use_memory_efficient_attention_xformers": lambda pipe: pipe.set_use_memory_efficient_attention_xformers(
        False
    ),
    "to": lambda pipe: pipe.to("cpu"),
    "to a precision": lambda pipe: pipe.to(torch.float32),
    "to nothing": lambda pipe: pipe.to(),
    "unet.set_attn_processor": lambda pipe: pipe.unet.set_attn_processor(Louder()),
    "unet.set_default_attn_processor": lambda pipe: pipe.unet.set_default_attn_processor(),
    "vae.fuse_qkv_projections": lambda pipe: pipe.vae.fuse_qkv_projections(),
}
REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "enable_attention_slicing 0": (lambda pipe: pipe.enable_attention_slicing(0), "slice_size must be"),
    "enable_attention_slicing -1": (lambda pipe: pipe.enable_attention_slicing(-1), "slice_size must be"),
    "enable_attention_slicing x": (lambda pipe: pipe.enable_attention_slicing("x"), "slice_size must be"),
    "enable_attention_slicing True": (lambda pipe: pipe.enable_attention_slicing(True), "slice_size must be"),
    "enable_attention_slicing 99": (lambda pipe: pipe.enable_attention_slicing(99), "slice_size=99 does not fit"),
    "from_pipe typo": (lambda pipe: AudioLDM2Pipeline.from_pipe(pipe, unett=None), "unett is no component"),
    "to nowhere": (lambda pipe: pipe.to("gpu"), "'gpu' is not there: this computer has cpu"),
    "register_for_auto_class": (lambda pipe: pipe.register_for_auto_class(), "names no code"),
    "download": (lambda pipe: pipe.download("./no/folder/here"), "no/folder/here"),
}
WITHOUT_CUDA: dict[str, tuple[Callable[[Any], Any], str]] = {
    "enable_xformers": (lambda pipe: pipe.enable_xformers_memory_efficient_attention(), "needs the package xformers"),
    "to cuda": (lambda pipe: pipe.to("cuda"), "is not there: this computer has cpu"),
    "to cuda and a precision": (lambda pipe: pipe.to("cuda", torch.float16), "is not there: this computer has cpu"),
    "to device": (lambda pipe: pipe.to(device="cuda:3"), "is not there: this computer has cpu"),
    "model": (lambda pipe: pipe.enable_model_cpu_offload(), "enable_model_cpu_offload moves .* on_demand=True"),
    "model gpu": (lambda pipe: pipe.enable_model_cpu_offload(gpu_id=1), "enable_model_cpu_offload moves"),
    "model cuda": (lambda pipe: pipe.enable_model_cpu_offload(device="cuda"), "is not there: this computer has cpu"),
    "sequential": (lambda pipe: pipe.enable_sequential_cpu_offload(), "enable_sequential_cpu_offload moves"),
}
# of images, or tested elsewhere: loading, saving, pushing
ELSEWHERE = {
    "config_name", "extract_init_dict", "from_config", "from_pretrained", "get_config_dict", "hf_device_map",
    "ignore_for_config", "has_compatibles", "load_config", "model_cpu_offload_seq", "numpy_to_pil", "push_to_hub",
    "register_modules", "register_to_config", "save_config", "save_pretrained", "to_json_file", "to_json_string",
}  # fmt: skip


def plain_parts(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if name != "audio_mae"}


def test_every_method_of_diffusers_pipelines_is_in_a_table() -> None:
    tried = {name.partition(" ")[0] for name in (*WORKS, *REFUSED)}
    tried |= {"enable_sequential_cpu_offload", "enable_xformers_memory_efficient_attention"}
    names = {name for name in dir(diffusers.DiffusionPipeline) if not name.startswith("_")}
    assert not names - tried - ELSEWHERE


@pytest.mark.parametrize("name", WORKS)
def test_a_call_after_a_switch_of_diffusers_makes_the_same(name: str, expected: Any) -> None:
    pipe = fresh()
    WORKS[name](pipe)
    np.testing.assert_allclose(sound(pipe), expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_pipeline_cannot_do_is_refused_in_one_sentence(name: str, expected: Any) -> None:
    call, words = REFUSED[name]
    pipe = fresh()
    with pytest.raises(HubsepError, match=words):
        call(pipe)
    np.testing.assert_array_equal(sound(pipe), expected)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("name", WITHOUT_CUDA)
def test_what_this_machine_cannot_do_is_refused_in_one_sentence(name: str) -> None:
    call, words = WITHOUT_CUDA[name]
    with pytest.raises(HubsepError, match=words):
        call(fresh())


def test_a_processor_of_attention_that_a_user_put_in_is_called() -> None:
    pipe, ours = fresh(), fresh()
    pipe.unet.set_attn_processor(Louder())
    plain = sound(ours)
    told = sound(pipe, cross_attention_kwargs={"times": 0.5})
    assert np.abs(told - plain).max() > 100 * CLOSE
    with pytest.raises(QueryError, match="'times' is taken by no attention processor"):
        sound(ours, cross_attention_kwargs={"times": 0.5})
    np.testing.assert_array_equal(sound(ours, cross_attention_kwargs={}), plain)


def test_components_on_demand_refuse_what_would_take_away_how_they_load(tmp_path: Path) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(published_folder(tmp_path / "folder"), on_demand=True)
    pipe.set_progress_bar_config(disable=True)
    before = sound(pipe)
    for refused in (pipe.remove_all_hooks, lambda: pipe.enable_group_offload("cpu"), pipe.enable_model_cpu_offload):
        with pytest.raises(CheckpointError, match="on demand"):
            refused()
    np.testing.assert_array_equal(sound(pipe), before)
    copy = AudioLDM2Pipeline.from_pipe(pipe)
    copy.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(sound(copy), before)


def test_signatures_show_every_name_of_diffusers() -> None:
    theirs = set(inspect.signature(diffusers.AudioLDM2Pipeline.__call__).parameters)
    ours = set(inspect.signature(AudioLDM2Pipeline.__call__).parameters)
    assert theirs <= ours
    assert "settings" not in ours
    for method in ("vary", "continue_audio", "inpaint", "super_resolve", "interpolate", "stream"):
        parameters = inspect.signature(getattr(AudioLDM2Pipeline, method)).parameters
        assert {"num_inference_steps", "guidance_scale", "generator", "eta", "callback"} <= set(parameters), method
        assert "options" not in parameters


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_callback_is_called_as_by_diffusers(steps: int) -> None:
    parts = tiny_components()
    calls: list[list[tuple[int, int, Any]]] = []
    pair: list[tuple[Any, dict[str, Any]]] = [
        (diffusers_peer(parts), {}),
        (AudioLDM2Pipeline(**parts), {"solver": "scheduler"}),
    ]
    for pipe, more in pair:
        pipe.set_progress_bar_config(disable=True)
        seen: list[tuple[int, int, Any]] = []
        calls.append(seen)
        pipe(
            "rain",
            num_inference_steps=5,
            audio_length_in_s=SECONDS,
            generator=torch.Generator().manual_seed(0),
            guidance_scale=1.0,
            callback=lambda step, time, latents, seen=seen: seen.append((step, int(time), latents.clone())),
            callback_steps=steps,
            **more,
        )
    theirs, ours = calls
    assert [call[:2] for call in ours] == [call[:2] for call in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one[2], other[2], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("tokens", [1, 8, None])
def test_generate_language_model_equals_diffusers(tokens: int | None) -> None:
    parts = tiny_components()
    read = torch.randn(2, 5, parts["language_model"].config.n_embd, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = diffusers_peer(parts).generate_language_model(
            read, attention_mask=torch.ones(2, 5), max_new_tokens=8 if tokens is None else tokens
        )
    pipe: Any = AudioLDM2Pipeline(**parts)
    torch.testing.assert_close(pipe.generate_language_model(read, tokens), theirs, atol=CLOSE, rtol=0)
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(QueryError, match="max_new_tokens must be"):
            pipe.generate_language_model(read, wrong)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"callback": 3}, "callback must be a function"),
    ({"callback_on_step_end": "x"}, "callback_on_step_end must be a function"),
    ({"callback_steps": 0}, "callback_steps must be"),
    ({"callback_steps": None}, "callback_steps must be"),
    ({"cross_attention_kwargs": ["scale"]}, "cross_attention_kwargs must be a dict"),
    ({"cross_attention_kwargs": {"scale": 1.0}}, "'scale' is taken by no attention processor"),
    ({"eta": 2.0}, "eta must be"),
    ({"eta": "much"}, "eta must be"),
    ({"eta": float("nan")}, "eta must be"),
    ({"eta": 1.0}, "eta=1 is for DDIM"),
    ({"generator": 3}, "generator must be a torch.Generator"),
    ({"generator": [0]}, "generator must be a torch.Generator"),
    ({"guidance_scale": float("inf")}, "guidance_scale must be"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_settings_under_diffusers_names_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(QueryError, match=words):
        fresh()("rain", **{**SETTINGS, **options})


@pytest.mark.parametrize(
    ("option", "meant"),
    [("steps", "num_inference_steps"), ("num_inference_step", "num_inference_steps"), ("seed", "generator"),
     ("guidance", "guidance_scale"), ("negativ_prompt", "negative_prompt"), ("duration", "seconds")],
)  # fmt: skip
def test_an_unknown_option_is_named_with_the_one_that_was_meant(option: str, meant: str) -> None:
    pipe = fresh()
    with pytest.raises(TypeError, match=rf"has no option {option}\. Did you mean {meant}\?"):
        pipe("rain", **{option: 1})
    with pytest.raises(TypeError, match=r"vary\(\) has no option strenght\. Did you mean strength"):
        pipe.vary(np.zeros(100), sampling_rate=16_000, strenght=0.5)
