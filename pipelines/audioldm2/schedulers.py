# SPDX-License-Identifier: Apache-2.0
"""Which schedulers of diffusers may solve an AudioLDM 2, and how one is told its steps.

diffusers has fifty classes with that ending. Some have other methods (flow matching, masked tokens, a network more),
some the same methods and another noise than the model learnt, which makes a sound of nothing. They all load, and fail,
or not, when a prompt has been encoded. So a class is taken because it was tried: a test makes a sound with each. A
class of the user's own counts as the one it is made from.
"""

from __future__ import annotations

from typing import Any

import torch

from hubsep.errors import QueryError


SCHEDULERS = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# what diffusers raises of a number of steps that a solver cannot do: PNDM needs four, unless it is told otherwise
STEP_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)


def check_scheduler(scheduler: object) -> None:
    """Refuses a scheduler that was not tried, before it fails in the middle of a call.

    Args:
        scheduler: of the pipeline, as it is when a call begins.

    Raises:
        QueryError: naming its class, and those that are accepted.
    """
    kinds = type(scheduler).__mro__
    if not any(kind.__name__ in SCHEDULERS and kind.__module__.startswith("diffusers.") for kind in kinds):
        raise QueryError(
            f"the scheduler of this pipeline is {type(scheduler).__name__}, which does not solve an AudioLDM 2; "
            f"accepted are {', '.join(SCHEDULERS)} of diffusers. Set one: "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
        )


def set_timesteps(scheduler: Any, steps: int, device: torch.device) -> None:
    """Tells a solver how many steps it has.

    Args:
        scheduler: of one call.
        steps: of the call.
        device: of the latents.

    Raises:
        QueryError: if it cannot do so many or so few.
    """
    try:
        scheduler.set_timesteps(steps, device=device)
    except STEP_ERRORS as error:
        reason = " ".join(str(error).split())
        raise QueryError(
            f"{type(scheduler).__name__} cannot do num_inference_steps={steps} ({reason[:200]}); choose another "
            'number, or pass solver="dpm"'
        ) from error


__all__ = ["SCHEDULERS", "check_scheduler", "set_timesteps"]
