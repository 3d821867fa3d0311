# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of `AudioLDM2Pipeline` against diffusers' components as its own pipeline runs them, in float32.

`python benchmarks/audioldm2.py [--size tiny|published] [--dtype bfloat16] [--rounds 5] [--threads N]
[--parts gpt2 step vae vocoder] [--channels-last]`

Both sides have the same random weights and a process each, which take turns, so that other work on the machine meets
both; the figures are medians and the peak memory of each process. `step` is one step with guidance at the model's own
length (10.24 s at the published size), 16 tokens of text; `gpt2` makes the 8 tokens of language of audio. The last
line puts the parts together as both sides do by default: 200 steps and 25.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel


PARTS = ("gpt2", "step", "vae", "vocoder")
TOKENS, TEXT = 8, 16
STEPS = {"diffusers": 200, "hubsep": 25}
SIZES: dict[str, dict[str, Any]] = {
    "published": {
        "loa": 768,
        "text": 1_024,
        "unet": {"block_out_channels": (128, 256, 384, 640), "layers_per_block": 2, "sample_size": 256, "channels": 8},
        "vae": (128, 256, 512),
        "vocoder": {},
        "gpt2": {},
    },
    "tiny": {
        "loa": 32,
        "text": 48,
        "unet": {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 64, "channels": 4},
        "vae": (32, 64),
        "vocoder": {"model_in_dim": 16, "upsample_initial_channel": 64},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0},
    },
}


def build(size: str, part: str) -> Any:
    """One component of a size with random weights."""
    torch.manual_seed(0)
    given = SIZES[size]
    if part == "step":
        return build_unet(given)
    if part == "vae":
        levels = len(given["vae"])
        return diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=given["vae"],
            layers_per_block=2,
            latent_channels=given["unet"]["channels"],
        )
    if part == "vocoder":
        settings = {
            "model_in_dim": 64,
            "sampling_rate": 16_000,
            "upsample_initial_channel": 1_024,
            "upsample_rates": [5, 4, 2, 2, 2],
            "upsample_kernel_sizes": [16, 16, 8, 4, 4],
            "normalize_before": False,
            **given["vocoder"],
        }
        return transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**settings))
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**given["gpt2"]))


def build_unet(given: dict[str, Any]) -> Any:
    """The U-Net: attention everywhere but at the full resolution, heads of width 32 as in the original."""
    settings = dict(given["unet"])
    channels, levels = settings.pop("channels"), len(settings["block_out_channels"])
    return AudioLDM2UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        cross_attention_dim=[[None, given["loa"], given["text"]]] * levels,
        attention_head_dim=[width // 32 for width in settings["block_out_channels"]],
        **settings,
    )


def theirs(size: str, part: str, model: Any) -> Callable[[], Any]:
    """One part as diffusers' pipeline runs it."""
    given, unet = SIZES[size], SIZES[size]["unet"]
    latents = torch.randn(1, unet["channels"], unet["sample_size"], unet["sample_size"] // 16)
    if part == "step":
        loa, text = torch.randn(2, TOKENS, given["loa"]), torch.randn(2, TEXT, given["text"])
        mask = torch.ones(2, TEXT, dtype=torch.long)
        mask[0, 1:] = 0
        return lambda: model(
            torch.cat([latents] * 2), 500, loa, encoder_hidden_states_1=text, encoder_attention_mask_1=mask
        )
    if part == "vae":
        return lambda: model.decode(latents)
    if part == "vocoder":
        frames = unet["sample_size"] * 2 ** (len(given["vae"]) - 1)
        return lambda: model(torch.randn(1, frames, model.config.model_in_dim))

    def gpt2() -> None:  # keys and values kept, but logits of the whole vocabulary as well
        step, cache = torch.randn(1, TEXT + 5, given["loa"]), None
        for _ in range(TOKENS):
            output = model(inputs_embeds=step, past_key_values=cache, use_cache=True, output_hidden_states=True)
            step, cache = output.hidden_states[-1][:, -1:], output.past_key_values

    return gpt2


def ours(size: str, part: str, model: Any, dtype: torch.dtype, channels_last: bool) -> Callable[[], Any]:
    """One part as this package's pipeline runs it."""
    from hubsep.pipelines.audioldm2_attention import constant_contexts
    from hubsep.pipelines.audioldm2_prompts import Conditions, PromptMixin
    from hubsep.pipelines.audioldm2_sampling import Guide

    given, unet = SIZES[size], SIZES[size]["unet"]
    model = model.to(dtype)
    if channels_last and part in ("step", "vae"):
        model = model.to(memory_format=torch.channels_last)
    latents = torch.randn(1, unet["channels"], unet["sample_size"], unet["sample_size"] // 16)
    if part == "step":
        loa, text = torch.randn(1, TOKENS, given["loa"]), torch.randn(1, TEXT, given["text"])
        told = Conditions(loa, text, torch.ones(1, TEXT)).to(torch.device("cpu"), dtype)
        away = Conditions(torch.zeros_like(told.loa), told.text[:, :1], torch.ones(1, 1))
        guide = Guide(told, away, 3.5, (0.0, 1.0))
        constant_contexts(model, guide.contexts()).__enter__()  # for the life of this process
        return lambda: guide.predict(model, latents, torch.tensor(500), 0.5)
    if part == "vae":
        return lambda: model.decode(latents.to(dtype))
    if part == "vocoder":
        frames = unet["sample_size"] * 2 ** (len(given["vae"]) - 1)
        return lambda: model(torch.randn(1, frames, model.config.model_in_dim, dtype=dtype))
    reader = PromptMixin()
    reader.language_model = model
    embeds, mask = torch.randn(1, TEXT + 5, given["loa"]), torch.ones(1, TEXT + 5, dtype=torch.long)
    return lambda: reader.generate_loa(embeds, mask, TOKENS)


def worker(side: str, options: argparse.Namespace) -> None:
    """Runs the parts it is asked for on its input, one a line, and answers with seconds."""
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    runs = {}
    for part in options.parts:
        model = build(options.size, part).eval()
        runs[part] = (
            theirs(options.size, part, model)
            if side == "diffusers"
            else ours(options.size, part, model, dtype, options.channels_last)
        )
    print("ready", flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            start = time.perf_counter()
            runs[line.strip()]()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps([time.perf_counter() - start, peak / 1e6]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--side", choices=sorted(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        worker(options.side, options)
        return
    seconds, peaks = compare(options)
    print(f"{options.size}, {options.threads} threads, hubsep in {options.dtype}, diffusers in float32")
    print("| part | diffusers, s | hubsep, s | ratio |\n| --- | ---: | ---: | ---: |")
    for part in options.parts:
        before, after = seconds["diffusers"][part], seconds["hubsep"][part]
        print(f"| {part} | {before:.4f} | {after:.4f} | {before / after:.2f} |")
    if set(options.parts) == set(PARTS):
        whole = {
            side: sum(seconds[side][part] * (STEPS[side] if part == "step" else 1) for part in PARTS) for side in STEPS
        }
        ratio = whole["diffusers"] / whole["hubsep"]
        print(f"| all, {STEPS} steps | {whole['diffusers']:.2f} | {whole['hubsep']:.2f} | {ratio:.1f} |")
    print(f"peak memory of the process, GB: {', '.join(f'{side} {peak:.2f}' for side, peak in peaks.items())}")


def compare(options: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Median seconds of each part on each side, after one round that does not count, and the peak memory of both."""
    children = {
        side: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--side", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in STEPS
    }
    for child in children.values():
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
    seconds: dict[str, dict[str, float]] = {side: {} for side in STEPS}
    peaks = dict.fromkeys(STEPS, 0.0)
    for part in options.parts:
        taken: dict[str, list[float]] = {side: [] for side in STEPS}
        for _ in range(options.rounds + 1):
            for side, child in children.items():
                assert child.stdin is not None
                assert child.stdout is not None
                print(part, file=child.stdin, flush=True)
                spent, peaks[side] = json.loads(child.stdout.readline())
                taken[side].append(spent)
        for side in STEPS:
            seconds[side][part] = statistics.median(taken[side][1:])
    for child in children.values():
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    return seconds, peaks


if __name__ == "__main__":
    main()
