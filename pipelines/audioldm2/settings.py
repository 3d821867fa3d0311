# SPDX-License-Identifier: Apache-2.0
"""How latents are sampled: the further arguments of all methods of `AudioLDM2Pipeline`, by diffusers' names.

The methods take them as `**options`, so that each is described and checked once; `shows_options` lets
`inspect.signature`, and with it an editor or a notebook, see every one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

import torch
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import is_number, is_whole, shown
from hubsep.texts import did_you_mean


if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python has it from 3.11 on

Generator = torch.Generator | list[torch.Generator] | None
Callback = Callable[[int, Tensor, Tensor], object]
StepCallback = Callable[..., Mapping[str, Tensor] | None]
Unconditional = Literal["zeros", "generated"]
Method = TypeVar("Method", bound=Callable[..., Any])
FAST_STEPS, SLOW_STEPS = 25, 200
SOLVERS = ("dpm", "scheduler")
MOST_WAVEFORMS = 64  # of a prompt
STRONGEST = 1_000  # guidance; far beyond, float32 overflows
# what other packages, and people, call these options
SYNONYMS = {
    "steps": "num_inference_steps", "inference_steps": "num_inference_steps", "num_steps": "num_inference_steps",
    "ddim_steps": "num_inference_steps", "cfg": "guidance_scale", "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale", "scale": "guidance_scale", "sampler": "solver", "rng": "generator",
    "attention_kwargs": "cross_attention_kwargs", "on_progress": "callback_on_step_end",
    "seed": "generator", "negative": "negative_prompt", "text": "prompt", "prompts": "prompt",
    "duration": "seconds", "duration_s": "seconds", "length": "seconds", "audio_end_in_s": "seconds",
    "candidates": "num_waveforms_per_prompt", "n_candidate_gen_per_text": "num_waveforms_per_prompt",
    "num_images_per_prompt": "num_waveforms_per_prompt", "lyrics": "transcription", "sr": "sampling_rate",
}  # fmt: skip


class GuidanceOptions(TypedDict, total=False):
    """What guidance leads away from."""

    unconditional: Unconditional | None
    negative_prompt: str | Sequence[str] | None


class StepOptions(TypedDict, total=False):
    """How the steps are made: what a call takes beside arguments that it names itself."""

    num_inference_steps: int | None
    guidance_scale: float
    guidance_interval: tuple[float, float]
    guidance_every: int
    solver: str | None
    eta: float
    generator: Generator
    window_seconds: float | None
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    callback: Callback | None
    callback_steps: int
    cross_attention_kwargs: Mapping[str, object] | None


class SamplingOptions(GuidanceOptions, StepOptions, total=False):
    """The fields of `Sampling` as keyword arguments."""


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled.

    Attributes:
        unconditional: what guidance leads away from: "zeros" as the original, or "generated" by GPT-2 from the
            negative prompt as in diffusers; by default the second where there is a negative prompt.
        negative_prompt: what is not to be heard: one text, or one for each sound.
        num_inference_steps: by default 25, or 200 for the folder's own DDIM.
        guidance_scale: above 1 the prompt counts more; 1 or less is no guidance, in half of the time.
        guidance_interval: which share of the steps is guided, for instance (0.1, 0.8).
        guidance_every: what guidance adds is worked out in every n-th step, and kept until the next.
        solver: "dpm", "scheduler" for the folder's own, None for "dpm" where the folder has DDIM.
        eta: of DDIM, 0 to 1; the original used 1.
        generator: of the noise, or one for each item.
        window_seconds: longer sounds are made in windows of this length; by default what the model was trained on.
        callback_on_step_end: called as `callback(pipe, index, timestep, {"latents": ...})` after each step; what it
            returns replaces them.
        callback_on_step_end_tensor_inputs: which tensors the callback gets.
        callback: diffusers' older way: called as `callback(step, timestep, latents)`, and only looks.
        callback_steps: it is called in every n-th step.
        cross_attention_kwargs: handed to the attention processors of the U-Net that take them.
    """

    unconditional: Unconditional | None = None
    negative_prompt: str | Sequence[str] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_every: int = 1
    solver: str | None = None
    eta: float = 0.0
    generator: Generator = None
    window_seconds: float | None = None
    callback_on_step_end: StepCallback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    callback: Callback | None = None
    callback_steps: int = 1
    cross_attention_kwargs: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        if steps is not None and not is_whole(steps, 1_000):
            raise QueryError(f"num_inference_steps must be 1 to 1000, got {shown(steps)}")
        if not (is_number(self.guidance_scale) and abs(self.guidance_scale) <= STRONGEST):
            raise QueryError(
                f"guidance_scale must be a number from -{STRONGEST} to {STRONGEST}, got {shown(self.guidance_scale)}"
            )
        if not (self.solver is None or _among(self.solver, SOLVERS)):
            raise QueryError(f'solver must be "dpm", "scheduler" or None, got {shown(self.solver)}')
        if not (self.unconditional is None or _among(self.unconditional, get_args(Unconditional))):
            raise QueryError(f'unconditional must be "zeros" or "generated", got {shown(self.unconditional)}')
        if not _in_order(self.guidance_interval):
            raise QueryError(
                "guidance_interval must be two shares of the steps in order, for instance (0.1, 0.8), got "
                f"{shown(self.guidance_interval)}"
            )
        for name in ("guidance_every", "callback_steps"):
            if not is_whole(getattr(self, name)):
                raise QueryError(f"{name} must be a whole number from 1 on, got {getattr(self, name)!r}")
        if not (is_number(self.eta) and 0 <= self.eta <= 1):
            raise QueryError(f"eta must be a number from 0 to 1, got {shown(self.eta)}")
        generators = self.generator if isinstance(self.generator, list) else [self.generator]
        if self.generator is not None and not all(isinstance(each, torch.Generator) for each in generators):
            raise QueryError(
                "generator must be a torch.Generator, or a list of them, got "
                f"{self.generator!r}; torch.Generator().manual_seed(0) makes one"
            )
        for name in ("callback_on_step_end", "callback"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise QueryError(f"{name} must be a function, got {getattr(self, name)!r}")
        names = self.callback_on_step_end_tensor_inputs
        if not isinstance(names, list | tuple) or not all(_among(name, ("latents",)) for name in names):
            raise QueryError(f"callback_on_step_end_tensor_inputs may hold latents only, got {shown(names)}")
        if self.cross_attention_kwargs is not None and not isinstance(self.cross_attention_kwargs, Mapping):
            raise QueryError(f"cross_attention_kwargs must be a dict, got {shown(self.cross_attention_kwargs)}")

    @classmethod
    def of(cls, method: Callable[..., Any], **options: Unpack[SamplingOptions]) -> Sampling:
        """The settings that a method was called with.

        Args:
            method: takes them beside arguments of its own.
            **options: the settings.

        Raises:
            TypeError: if there is none of that name, naming the one that was meant.
            QueryError: if one is out of range.
        """
        for option in sorted(set(options) - {field.name for field in fields(cls)}):
            names = tuple(name for name in inspect.signature(method).parameters if name != "self")
            hint = did_you_mean(option, names, SYNONYMS)
            what = "a call" if method.__name__ == "__call__" else f"{method.__name__}()"
            raise TypeError(f"{what} has no option {option}.{hint} It takes {', '.join(names)}")
        return cls(**options)

    def tell(self, step: int, timestep: Tensor, latents: Tensor) -> None:
        """Calls `callback` where it is due."""
        if self.callback is not None and step % self.callback_steps == 0:
            self.callback(step, timestep, latents)


def shows_options(method: Method) -> Method:
    """Lets the signature of a method name the settings that it takes as `**options`."""
    shown = inspect.signature(method)
    settings = inspect.signature(Sampling).parameters.values()
    parameters = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    named = {each.name for each in parameters}
    parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in settings if each.name not in named]
    method.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
    return method


def check_attention(unet: Any, options: Mapping[str, object] | None) -> dict[str, object] | None:
    """`cross_attention_kwargs` for the U-Net; None if there are none.

    Raises:
        QueryError: if no attention processor of the U-Net takes one of them: diffusers would leave it out; or if the
            U-Net is compiled, with what its processors are told.
    """
    if not options:
        return None
    if isinstance(unet, torch._dynamo.eval_frame.OptimizedModule):
        raise QueryError("cross_attention_kwargs cannot be told to a compiled U-Net; leave them out, or compile later")
    names = {name for each in unet.attn_processors.values() for name in inspect.signature(each.__call__).parameters}
    unknown = [name for name in options if name not in names]
    if unknown:
        kinds = ", ".join(sorted({type(each).__name__ for each in unet.attn_processors.values()}))
        raise QueryError(
            f"cross_attention_kwargs: {unknown[0]!r} is taken by no attention processor of the U-Net ({kinds}); leave "
            "it out, or put one in that takes it with pipe.unet.set_attn_processor"
        )
    return dict(options)


def _among(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in names


def _in_order(interval: Any) -> bool:
    """Whether this is two shares, the first no larger than the second."""
    if not isinstance(interval, list | tuple) or len(interval) != 2 or not all(map(is_number, interval)):
        return False
    return bool(0 <= interval[0] <= interval[1] <= 1)


__all__ = [
    "FAST_STEPS",
    "MOST_WAVEFORMS",
    "SLOW_STEPS",
    "Generator",
    "Sampling",
    "SamplingOptions",
    "StepOptions",
    "Unconditional",
    "check_attention",
    "shows_options",
]
