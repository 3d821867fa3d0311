# SPDX-License-Identifier: Apache-2.0
"""Does a speaker stay on one output? AudioSlots by stitching and in sequential mode, on conversations of minutes.

`python benchmarks/audioslots_identity.py MODEL [MODEL ...] --data FOLDER [--minutes M] [--count N] [--json FILE]`

MODEL is a folder: one of a model that is stitched, one of a model in sequential mode, or one alone. Each separates the
same conversations of held-out speakers, every other one of one gender, in four ways:

- pipeline: as users get it, in segments; in sequential mode slots go on from segment to segment.
- stitched: the whole conversation in one call, neighbouring chunks put in order by what they share.
- as they come: chunks stay in the order of their slots, which in sequential mode is the model's own.
- by the truth: each chunk in the order that is best for it. What is still wrong then happened within a chunk.

Printed are means over the conversations: the SI-SNR improvement over the whole of each, how often outputs swap in a
minute of speech, and how many of the spoken seconds are on the wrong output.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from hubsep.data.conversations import Conversation, conversation
from hubsep.data.recordings import load_clips, split_clips
from hubsep.evaluation.speech import swap_rate
from hubsep.metrics import match_outputs, si_snr
from hubsep.pipelines import pipeline


MEASURES = ("si_snri", "swaps_per_minute", "wrong_seconds")


def conversations(data: Path, sampling_rate: int, count: int, minutes: float, people: int) -> list[Conversation]:
    """Conversations of speakers held out of training, of one gender and of both in turn."""
    heldout = split_clips(load_clips([data], sampling_rate, commercial_only=True))[1]
    kinds = [number % 2 == 0 for number in range(count)]
    return [
        conversation(heldout, sampling_rate, minutes=minutes, num_sources=people, one_gender=kind, seed=seed)
        for seed, kind in enumerate(kinds, 1)
    ]


def scored(sources: Tensor, talk: Conversation) -> dict[str, float]:
    """Improvement in dB, and swaps, of outputs (num_sources, samples)."""
    ordered = sources[match_outputs(sources, talk.sources)]
    gain = si_snr(ordered, talk.sources) - si_snr(talk.mixture.expand_as(talk.sources), talk.sources)
    swaps = swap_rate(sources, talk.sources, talk.sampling_rate)
    return {"si_snri": gain.mean().item(), **{name: swaps[name] for name in MEASURES[1:]}}


@contextmanager
def matched_by_chunk(model: Any) -> Iterator[None]:
    """In sequential mode labels are matched with all chunks at once; here with each, while slots still go on."""
    sequential = model.config.sequential
    model.config.sequential = False
    try:
        yield
    finally:
        model.config.sequential = sequential


@torch.no_grad()
def separated(separator: Any, talk: Conversation) -> dict[str, dict[str, float]]:
    """The measures of one conversation, by way of separating it."""
    model, mixture = separator.model, talk.mixture[None, None]
    entries = separator(mixture[0].numpy(), sampling_rate=talk.sampling_rate)
    found = {"pipeline": torch.stack([torch.from_numpy(entry["audio"][0]) for entry in entries])}
    on_device = mixture.to(model.device)
    for way, stitching in (("stitched", "overlap"), ("as they come", "none")):
        found[way] = model(on_device, stitching=stitching).sources[0, :, 0].float().cpu()
    labels = talk.sources[None, :, None].to(model.device)
    with matched_by_chunk(model):
        found["by the truth"] = model(on_device, labels=labels, stitching="labels").sources[0, :, 0].float().cpu()
    return {way: scored(sources, talk) for way, sources in found.items()}


def measured(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Means over the conversations, by way of separating them."""
    separator = pipeline(model=str(folder), device=options.device)
    config = separator.model.config
    if config.model_type != "audioslots" or config.num_sources < 2 or config.loss != "matching":
        raise SystemExit(f"{folder} must hold an AudioSlots of two or more sources that was trained with labels")
    talks = conversations(options.data, config.sampling_rate, options.count, options.minutes, 2)
    rows = []
    for number, talk in enumerate(talks, 1):
        rows.append(separated(separator, talk))
        print(f"{folder.name}, conversation {number} of {len(talks)}:", json.dumps(rows[-1]), flush=True)
    return {way: {name: mean(row[way][name] for row in rows) for name in MEASURES} for way in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="folder of speech with metadata.csv")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers")
    options = parser.parse_args()
    results = {}
    for folder in options.models:
        results[str(folder)] = measured(folder, options)
    print(f"{'model':<32}{'way':<16}{'SI-SNRi, dB':>14}{'swaps/min':>12}{'wrong, %':>12}")
    for name, ways in results.items():
        for way, row in ways.items():
            numbers = f"{row['si_snri']:>14.2f}{row['swaps_per_minute']:>12.2f}{100 * row['wrong_seconds']:>12.1f}"
            print(f"{Path(name).name[-31:]:<32}{way:<16}{numbers}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
