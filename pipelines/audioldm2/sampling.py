# SPDX-License-Identifier: Apache-2.0
"""The one sampling loop that all of AudioLDM 2's methods share: from noise, from a recording, around what is known.

Decisions:

- Latents, guidance and the solver are float32 whatever the precision of the U-Net; noise is drawn in float32 on the
  generator's device, so a seed means the same sound in every precision.
- The default solver is DPM-Solver++ (2211.01095) of second order with the folder's own noise schedule, in 25 steps,
  where the folder has the published DDIM. Any other scheduler that solves an AudioLDM 2 is taken as it is.
- Each call has a scheduler of its own, made from the configuration, so that calls do not disturb each other.
- Latents longer than a window are denoised window by window in every step; what the windows predict is cross-faded.
  What is known, as in inpainting, is put in after every step at that step's noise.

Also here: guidance: what AudioLDM 2's U-Net predicts with the prompt, led away from what it predicts without.

A guided step is two predictions, which go through the U-Net as one batch. Two settings save the second one: outside
`guidance_interval`, a share of the steps, there is no guidance; with `guidance_every=2`, every second step inside it
takes over what guidance added in the step before. Both are off unless asked for, since they change the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import shown

from .attention import Contexts, as_mask, constant_contexts
from .bfloat16.unet import on_processor
from .codec import shares_of, spans_of
from .conditions import Conditions
from .parts import Scheduler
from .prompts import Prompts
from .schedulers import check_scheduler, set_timesteps
from .settings import FAST_STEPS, SLOW_STEPS, Generator, Sampling, check_attention


@dataclass
class Guide:
    """What the U-Net is told, and with it the prediction of a step.

    Attributes:
        positive: the conditions.
        negative: what guidance leads away from, None for no guidance.
        scale: of guidance.
        interval: which share of the steps is guided.
        every: in which steps of these what guidance adds is worked out.
    """

    positive: Conditions
    negative: Conditions | None
    scale: float
    interval: tuple[float, float]
    every: int = 1
    both: Conditions = field(init=False)
    masks: tuple[Tensor | None, Tensor | None] = field(init=False)
    _added: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.both = self.positive if self.negative is None else Conditions.joined(self.negative, self.positive)
        self.masks = as_mask(self.positive.weights), as_mask(self.both.weights)

    def contexts(self) -> Contexts:
        """What is the same in every step."""
        contexts = Contexts()
        for conditions in (self.positive, self.both):
            contexts.add(conditions.loa)
            contexts.add(conditions.text, conditions.weights)
        return contexts

    def predict(
        self, unet: Any, latents: Tensor, timestep: Tensor, share: float, *, index: int = 0, window: int = 0
    ) -> Tensor:
        """What the U-Net predicts, guided, in float32.

        Args:
            unet: the network.
            latents: of one window, at the noise of this step.
            timestep: of the schedule.
            share: of the steps that are behind.
            index: of this step.
            window: where the window begins.
        """
        guided = self.negative is not None and self.interval[0] <= share <= self.interval[1]
        anew = guided and (window not in self._added or index % self.every == 0)
        conditions = self.both if anew else self.positive
        inputs = torch.cat([latents] * 2) if anew else latents
        predicted = (
            unet(
                inputs.to(unet.dtype),
                timestep,
                encoder_hidden_states=conditions.loa,
                encoder_hidden_states_1=conditions.text,
                encoder_attention_mask_1=self.masks[anew],
                return_dict=False,
            )[0]
            .float()
            .contiguous()
        )
        if anew:
            without, predicted = predicted.chunk(2)
            self._added[window] = predicted - without
            return without + self.scale * self._added[window]
        return predicted + (self.scale - 1) * self._added[window] if guided else predicted


@dataclass(frozen=True)
class Known:
    """Latents that are given: `latents` without noise, `mask` 1 where they are kept, `noise` they appear under."""

    latents: Tensor
    mask: Tensor
    noise: Tensor

    def put_in(self, latents: Tensor, scheduler: Scheduler, timestep: Tensor | None) -> Tensor:
        """The latents with what is known at this step's noise; without any at the end."""
        known_latents = self.latents
        if timestep is not None:
            known_latents = scheduler.add_noise(
                known_latents, self.noise, timestep.reshape(1).expand(len(known_latents))
            )
        return self.mask * known_latents + (1 - self.mask) * latents


class Sampler(Prompts):
    """The rung that samples."""

    _interrupt: bool = False

    @property
    def interrupt(self) -> bool:
        """Set to True, for instance by a callback, it ends sampling after the current step."""
        return self._interrupt

    def solver_of(self, sampling: Sampling) -> tuple[Scheduler, int]:
        """A new scheduler for one call, and its number of steps.

        Raises:
            QueryError: if the pipeline has a scheduler that does not solve an AudioLDM 2.
        """
        import diffusers

        check_scheduler(self.scheduler)
        base = self.scheduler
        fast = sampling.solver == "dpm" or (sampling.solver is None and isinstance(base, diffusers.DDIMScheduler))
        if fast:
            kept = {name: base.config[name] for name in base.config if not name.startswith("_")}
            kept = {name: value for name, value in kept.items() if name in DPM_KEYS}
            scheduler = diffusers.DPMSolverMultistepScheduler.from_config(kept, **DPM_SETTINGS)
        else:
            scheduler = type(base).from_config(base.config)
        slow = isinstance(scheduler, diffusers.DDIMScheduler)
        return scheduler, sampling.num_inference_steps or (SLOW_STEPS if slow else FAST_STEPS)

    def noise(self, batch: int, frames: int, generator: Generator) -> Tensor:
        """Gaussian noise of the shape of latents, in float32.

        Raises:
            QueryError: if there are several generators, but not one for each item.
        """
        from diffusers.utils.torch_utils import randn_tensor

        if isinstance(generator, list) and len(generator) != batch:
            raise QueryError(f"there are {batch} sounds to make and {len(generator)} generators; pass one for each")
        shape = (batch, self.unet.config.in_channels, frames, self._latent_bands())
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def sample(
        self,
        positive: Conditions,
        negative: Conditions | None,
        sampling: Sampling,
        noise: Tensor,
        *,
        start: Tensor | None = None,
        strength: float = 1.0,
        known: Known | None = None,
    ) -> Tensor:
        """Latents for a batch of conditions.

        Args:
            positive: conditions of each item.
            negative: what guidance leads away from.
            sampling: the settings.
            noise: (batch, channels, latent frames, latent bands).
            start: latents without noise to begin with, of which `strength` is made anew.
            strength: above 0, at most 1; how much of `start` is made anew.
            known: what is given.
        """
        device = self._execution_device
        scheduler, steps = self.solver_of(sampling)
        set_timesteps(scheduler, steps, device)
        skipped = 0 if start is None else min(steps - 1, steps - max(1, round(steps * strength)))
        timesteps = scheduler.timesteps[skipped * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped * scheduler.order)
        if start is None or strength >= 1:
            latents = noise * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(start, noise, timesteps[:1].expand(len(noise)))
        if known is not None:
            known = replace(known, mask=known.mask.to(device), latents=known.latents.to(device))
            latents = known.put_in(latents, scheduler, timesteps[0])
        guide = Guide(
            positive.to(device, self.unet.dtype),
            negative.to(device, self.unet.dtype) if negative is not None and sampling.guidance_scale > 1 else None,
            sampling.guidance_scale,
            sampling.guidance_interval,
            sampling.guidance_every,
        )
        arguments = check_attention(self.unet, sampling.cross_attention_kwargs)
        with constant_contexts(self.unet, guide.contexts(), arguments), on_processor(self.unet, device):
            return self._steps(latents, guide, scheduler, timesteps, sampling, known)

    def _steps(
        self,
        latents: Tensor,
        guide: Guide,
        scheduler: Scheduler,
        timesteps: Tensor,
        sampling: Sampling,
        known: Known | None,
    ) -> Tensor:
        windows = self.windows(sampling.window_seconds)
        spans = spans_of(latents.shape[2], windows)
        shares = [share.to(latents.device)[:, None] for share in shares_of(spans, windows)]
        extra = settings_of_a_step(scheduler, sampling)
        self._interrupt = False
        with self.progress_bar(total=len(timesteps)) as bar:
            for index, timestep in enumerate(timesteps):
                inputs = scheduler.scale_model_input(latents, timestep)
                part = index / max(1, len(timesteps) - 1)
                if len(spans) == 1:
                    predicted = guide.predict(self.unet, inputs, timestep, part, index=index)
                else:
                    predicted = torch.zeros_like(latents)
                    for (first, stop), share in zip(spans, shares, strict=True):
                        piece = inputs[:, :, first:stop]
                        output = guide.predict(self.unet, piece, timestep, part, index=index, window=first)
                        predicted[:, :, first:stop] += output * share
                latents = scheduler.step(predicted, timestep, latents, **extra, return_dict=False)[0]
                if known is not None:
                    following = timesteps[index + 1] if index + 1 < len(timesteps) else None
                    latents = known.put_in(latents, scheduler, following)
                latents = self._call_back(sampling, index, timestep, latents)
                if (index + 1) % scheduler.order == 0 or index + 1 == len(timesteps):
                    sampling.tell(index // scheduler.order, timestep, latents)
                bar.update()
                if self._interrupt:
                    break
        return latents

    def _call_back(self, sampling: Sampling, index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        if sampling.callback_on_step_end is None:
            return latents
        tensors = {"latents": latents} if "latents" in sampling.callback_on_step_end_tensor_inputs else {}
        returned = sampling.callback_on_step_end(self, index, timestep, tensors)
        if not (returned is None or isinstance(returned, Mapping)):
            raise QueryError(f"callback_on_step_end must return a dict or None, it returned {shown(returned)}")
        changed = (returned or {}).get("latents", latents)
        if not isinstance(changed, Tensor) or changed.shape != latents.shape:
            actual = tuple(changed.shape) if isinstance(changed, Tensor) else shown(changed)
            raise QueryError(f"callback_on_step_end must return latents {tuple(latents.shape)}, it returned {actual}")
        return changed


def settings_of_a_step(scheduler: Scheduler, sampling: Sampling) -> dict[str, Any]:
    """What a solver is told in each step.

    Raises:
        QueryError: if it is to be random (`eta`), and cannot be.
    """
    accepted = inspect.signature(scheduler.step).parameters
    if sampling.eta and "eta" not in accepted:
        raise QueryError(
            f"eta={sampling.eta:g} is for DDIM, and this call is solved by {type(scheduler).__name__}; leave eta out, "
            'or pass solver="scheduler" if the folder\'s own scheduler is DDIM'
        )
    settings = {"eta": sampling.eta, "generator": sampling.generator}
    return {name: value for name, value in settings.items() if name in accepted}


# what DPM-Solver++ takes over from the folder's scheduler: the noise, not how another solver walks through it
DPM_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
DPM_SETTINGS: dict[str, Any] = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    # steps of equal size in the logarithm of signal to noise: for sounds that are normal with deviation 0.5, 25 steps
    # end 0.0044 from where they should, as 200 of DDIM do (0.0042); 25 steps of equal size in time, 0.054
    "use_lu_lambdas": True,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
}


__all__ = ["FAST_STEPS", "Generator", "Guide", "Known", "Sampler", "Sampling"]
