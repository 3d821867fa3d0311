# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of AudioSep's inference.

`python benchmarks/audiosep_speed.py [--seconds 10] [--threads N] [--model published|small] [--memory]`

Speed: the model as `hubsep` runs it, in float32 and in bfloat16, against the same weights in a plain network (one
module after the other, whole maps, channels first), and four queries in one call against four calls. The variants take
turns, so that other work on the machine meets all of them; the figures are medians. `published` has the published
size and random weights, `small` is the model that comes with the package.

Memory (`--memory`): the peak of a fresh process, torch and weights included, for one call, and for `separate_file` on
one and on sixty minutes with a tiny model.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ClapConfig

from hubsep import AudioSepConfig, AudioSepForAudioSeparation
from hubsep.audio import AudioWriter
from hubsep.auto import AutoModelForAudioSeparation
from hubsep.metrics import si_sdr
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.shipped import SHIPPED


QUERIES = 4
Run = Callable[[], Tensor]


class PlainUNet(nn.Module):
    """The U-Net's modules one after the other on contiguous maps, nothing fused."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        self.presence = unet.presence

    def forward(self, x: Tensor, condition: Tensor, stem: Any) -> tuple[Tensor, Tensor | None]:
        unet, skips, presence = self.unet, [], None
        x = stem(x.contiguous())
        for block in unet.encoder:
            skips.append(self.residual(block.block, x, condition))
            x = block.pool(skips[-1])
        x = self.residual(unet.bottleneck, x, condition)
        if self.presence is not None:
            presence = self.presence(nn.functional.leaky_relu(x, 0.01).mean(dim=(2, 3)))[:, 0]
        for block in unet.decoder:
            x = block.upsample(block.film(x, condition))
            x = self.residual(block.block, torch.cat([x, skips.pop()], dim=1), condition)
        return unet.head(x), presence

    @staticmethod
    def residual(block: Any, x: Tensor, condition: Tensor) -> Tensor:
        hidden = block.conv1(block.film1(x, condition))
        return block.shortcut(x) + block.conv2(block.film2(hidden, condition))


def little_query_encoder(size: int) -> ClapConfig:
    """The query encoder is no part of what is timed."""
    text = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sound = {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1]}
    heads = {"num_attention_heads": [2, 2], "num_hidden_layers": 2, "window_size": 4}
    return ClapConfig(text_config=text | {"intermediate_size": 16}, audio_config=sound | heads, projection_dim=size)


def load(name: str) -> AudioSepForAudioSeparation:
    torch.manual_seed(0)
    if name == "small":
        return AutoModelForAudioSeparation.from_pretrained(SHIPPED["audiosep-small"]).eval()
    if name == "tiny":
        fourier = {"sampling_rate": 8_000, "n_fft": 64, "hop_length": 32, "segment_samples": 65_536}
        sizes = {"stem_channels": 4, "encoder_channels": [4, 8], "encoder_strides": [[2, 2], [1, 2]]}
        config = AudioSepConfig(query_config=little_query_encoder(16), overlap_samples=8_192, **fourier, **sizes)
    else:
        config = AudioSepConfig() if name == "whole" else AudioSepConfig(query_config=little_query_encoder(512))
    return AudioSepForAudioSeparation(config).eval()


def noise(model: Any, seconds: float) -> Tensor:
    samples = round(seconds * model.config.sampling_rate)
    return 0.1 * torch.randn(1, model.config.num_channels, samples, generator=torch.Generator().manual_seed(1))


def embeddings(model: Any) -> Tensor:
    embeds = torch.randn(QUERIES, model.config.condition_size, generator=torch.Generator().manual_seed(2))
    return nn.functional.normalize(embeds, dim=-1)


def measure(runs: dict[str, Run], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds on the clock and of the processor, after a warm-up, the runs taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if turn:
                taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: (statistics.median(clock for clock, _ in times), statistics.median(cpu for _, cpu in times))
        for name, times in taken.items()
    }


@torch.inference_mode()
def speed(name: str, seconds: float, repeats: int) -> None:
    model = load(name)
    plain, half = copy.deepcopy(model), copy.deepcopy(model).to(torch.bfloat16)
    plain.unet = PlainUNet(plain.unet)  # type: ignore[assignment]
    mixture, embeds = noise(model, seconds), embeddings(model)

    def run(variant: Any, queries: Tensor) -> Run:
        return lambda: variant(mixture, query_embeds=queries).sources

    runs = {"plain float32": run(plain, embeds[:1]), "float32": run(model, embeds[:1])}
    runs["bfloat16"] = run(half, embeds[:1])
    runs[f"float32, {QUERIES} queries"] = run(model, embeds)
    reference = runs["plain float32"]()
    times = measure(runs, repeats)
    print(f"{name}, {seconds:g} s of audio, {torch.get_num_threads()} threads, medians of {repeats}")
    print(f"{'':24}{'clock':>9}{'CPU':>9}{'faster, clock':>15}{'CPU':>8}{'error/peak':>12}{'SI-SDR':>10}")
    for label, (clock, processor) in times.items():
        ratios = (plain / ours for plain, ours in zip(times["plain float32"], (clock, processor), strict=True))
        figures = f"{clock:8.2f}s{processor:8.2f}s" + "{:13.2f} x{:6.2f} x".format(*ratios)
        if label in ("float32", "bfloat16"):
            estimate = runs[label]()
            error = ((estimate - reference).abs().max() / reference.abs().max()).item()
            figures += f"{error:12.1e}{si_sdr(estimate.double(), reference.double()).min().item():7.1f} dB"
        print(f"{label:24}{figures}")
    together, alone = times[f"float32, {QUERIES} queries"], times["float32"]
    clock, processor = (both / (QUERIES * one) for both, one in zip(together, alone, strict=True))
    print(f"{QUERIES} queries in one call take {clock:.2f} of {QUERIES} calls (CPU: {processor:.2f})")


def peak_megabytes() -> float:
    """Of this process since it started; `getrusage` would count what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@torch.inference_mode()
def one_call(name: str, dtype: str, seconds: float) -> None:
    model = load(name).to(getattr(torch, dtype))
    before = peak_megabytes()
    model(noise(model, seconds), query_embeds=embeddings(model)[:1])
    print(f"{before:.0f} {peak_megabytes():.0f}")


def one_file(minutes: float) -> None:
    pipe = AudioSeparationPipeline(model=load("tiny"))
    rate, generator = pipe.model.config.sampling_rate, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "mixture.wav"
        with AudioWriter(source, rate, 1, subtype="PCM_16") as writer:
            for _ in range(round(minutes * 60)):
                writer.write(generator.uniform(-0.1, 0.1, (1, rate)).astype(np.float32))
        before = peak_megabytes()
        outputs = Path(place) / "separated"
        pipe.separate_file(source, outputs, query_embeds=embeddings(pipe.model)[:1], residual=True, clip="clamp")
    print(f"{before:.0f} {peak_megabytes():.0f}")


def child(*arguments: str | float) -> tuple[int, int]:
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--child", *map(str, arguments)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(answer[-2]), int(answer[-1])


def memory(seconds: float) -> None:
    print(f"{'peak of a fresh process':54}{'loaded':>9}{'in all':>9}")
    names = {"published": "published size, no query encoder", "whole": "published size", "small": "small"}
    for name, what in names.items():
        for dtype in ("float32", "bfloat16"):
            loaded, total = child("call", name, dtype, seconds)
            print(f"{f'{what}, {dtype}, {seconds:g} s':54}{loaded:6} MB{total:6} MB", flush=True)
    for minutes in (1, 60):
        loaded, total = child("file", minutes)
        print(f"{f'tiny, separate_file, {minutes} min':54}{loaded:6} MB{total:6} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio a call")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant after the warm-up")
    parser.add_argument("--model", choices=("published", "small"), default="published")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child and options.child[0] == "call":
        one_call(options.child[1], options.child[2], float(options.child[3]))
    elif options.child:
        one_file(float(options.child[1]))
    elif options.memory:
        memory(options.seconds)
    else:
        speed(options.model, options.seconds, options.repeats)


if __name__ == "__main__":
    main()
