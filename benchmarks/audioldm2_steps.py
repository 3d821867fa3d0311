# SPDX-License-Identifier: Apache-2.0
"""How far fewer steps end from many, with a trained AudioLDM 2.

`python benchmarks/audioldm2_steps.py FOLDER [--prompts "a dog barking" rain ...] [--seeds 2] [--seconds S]
[--reference 500] [--threads N]`

From the same noise, every setting is compared with DDIM of 200 steps, which is the default of diffusers, and of 500.
What the first of them is away from the second is the yardstick: a setting that is no farther from 500 steps than the
200 are has lost nothing. "latents" is the root mean square of the difference over that of the reference; "mel" that of
the decoded log mel spectrograms in dB, down to 80 dB below the loudest. Figures are means over prompts and seeds;
"passes" is how many predictions of the U-Net one sound takes.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor

from hubsep import AudioLDM2Pipeline


PROMPTS = ("a dog barking", "rain", "a helicopter", "a rooster crows")
SLOW = 200
FLOOR = 80.0  # dB below the loudest
DECIBELS = 20 / math.log(10)
DDIM: dict[str, Any] = {"solver": "scheduler"}
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"{steps} steps": {"num_inference_steps": steps} for steps in (10, 15, 20, 25, 50)},
    **{f"DDIM, {steps} steps": {"num_inference_steps": steps, **DDIM} for steps in (25, 50)},
    **{
        f"{steps} steps, {name}": {"num_inference_steps": steps, **settings}
        for steps in (20, 25)
        for name, settings in {
            "guidance_every=2": {"guidance_every": 2},
            "guidance_every=3": {"guidance_every": 3},
            "guided 0 to 0.8": {"guidance_interval": (0.0, 0.8)},
            "guided 0 to 0.6": {"guidance_interval": (0.0, 0.6)},
            "guided 0.1 to 0.9": {"guidance_interval": (0.1, 0.9)},
        }.items()
    },
}


class Tried:
    """Latents of a setting for every prompt and seed, their spectrograms, and the passes of the U-Net."""

    def __init__(self, pipe: Any, options: argparse.Namespace, **settings: Any):
        passes: list[int] = []
        hook = pipe.unet.register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
        made = [
            pipe(
                prompt,
                seconds=options.seconds,
                generator=torch.Generator().manual_seed(seed),
                output_type="latent",
                **settings,
            ).audios
            for prompt in options.prompts
            for seed in range(options.seeds)
        ]
        hook.remove()
        self.latents = torch.cat(made).float()
        self.mel = DECIBELS * torch.cat([spectrum(pipe, latents) for latents in made])
        self.passes = sum(passes) / len(made)

    def away(self, other: Tried) -> tuple[float, float]:
        """Relative distance of latents, and of spectrograms in dB."""
        axes = (1, 2, 3)
        apart = (self.latents - other.latents).square().mean(axes).sqrt() / other.latents.square().mean(axes).sqrt()
        floor = other.mel.amax((1, 2), keepdim=True) - FLOOR
        heard = (torch.maximum(each.mel, floor) for each in (self, other))
        first, second = heard
        return apart.mean().item(), (first - second).square().mean((1, 2)).sqrt().mean().item()


@torch.no_grad()
def spectrum(pipe: Any, latents: Tensor) -> Tensor:
    return torch.cat(list(pipe.decode_mel(latents, pipe.windows())), dim=1)


def row(name: str, tried: Tried, references: list[Tried]) -> None:
    numbers = [number for reference in references for number in tried.away(reference)]
    print(f"  {name:28}{tried.passes:8.0f}" + "".join(f"{number:10.3f}" for number in numbers), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--reference", type=int, default=500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = AudioLDM2Pipeline.from_pretrained(options.folder)
    pipe.set_progress_bar_config(disable=True)
    many = Tried(pipe, options, num_inference_steps=options.reference, **DDIM)
    slow = Tried(pipe, options, num_inference_steps=SLOW, **DDIM)
    print(f"{len(options.prompts)} prompts, {options.seeds} seeds; distance from DDIM of so many steps")
    print(f"  {'':36}{options.reference:>20}{SLOW:>20}")
    print(f"  {'':28}{'passes':>8}" + f"{'latents':>10}{'mel, dB':>10}" * 2)
    row(f"DDIM, {SLOW} steps", slow, [many, slow])
    for name, settings in SETTINGS.items():
        row(name, Tried(pipe, options, **settings), [many, slow])
    half = AudioLDM2Pipeline.from_pretrained(options.folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    exact = Tried(pipe, options, num_inference_steps=25)
    rounded = Tried(half, options, num_inference_steps=25)
    row("25 steps in bfloat16", rounded, [many, slow])
    latents, mel = rounded.away(exact)
    print(f"25 steps in bfloat16 and in float32 are {latents:.4f} apart in latents, {mel:.3f} dB in mel")


if __name__ == "__main__":
    main()
