# SPDX-License-Identifier: Apache-2.0
"""What a separator of speakers does where it is not easy: nobody, a lone speaker, two women, rooms, something else.

Mixtures go through a pipeline, as anyone does it: its scores say how many speak, and its levels are what comes out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.effects import filtered, room_response, steady_noise
from ..data.mixing import excerpt, rms
from ..data.recordings import Clip
from ..data.speech import by_speaker, speech_excerpt
from ..metrics.separation import interval, separation_scores, si_snr
from ..pipelines.separation.scores import ACTIVE_SCORE


LEVEL = 0.1  # root mean square of a mixture
HUM_DB = -60.0  # of the noise that is all there is where nobody speaks


@dataclass(frozen=True)
class Talk:
    """A mixture (samples,), and the speakers in it (speakers, samples)."""

    mixture: Tensor
    speakers: Tensor


@dataclass(frozen=True)
class People:
    """Held-out speakers by who they are, other sounds if there are any, and how mixtures of them are made."""

    speakers: dict[str, list[Clip]]
    noises: Sequence[Clip]
    sampling_rate: int
    samples: int

    def kind(self, name: str) -> str:
        """Either "man", "woman", "child", or "" where nobody said."""
        clip = self.speakers[name][0]
        if "a child talking" in clip.labels:
            return "child"
        return {"m": "man", "f": "woman"}.get(clip.gender, "")

    def choose(self, kinds: Sequence[str], rng: random.Random) -> list[np.ndarray] | None:
        """Different speakers of these kinds, any adult or unknown one for "", each at unit level; None if too few."""
        chosen: list[str] = []
        for kind in kinds:
            names = [n for n in self.speakers if n not in chosen and (self.kind(n) == kind if kind else True)]
            if not names:
                return None
            chosen.append(rng.choice(names))
        waveforms = [speech_excerpt(self.speakers[name], self.samples, rng) for name in chosen]
        return [waveform / rms(waveform) for waveform in waveforms]


def talk(speakers: Sequence[np.ndarray], other: np.ndarray | None = None) -> Talk:
    """Speakers, and what is none, added up at the level of a mixture."""
    mixture = np.sum(speakers, axis=0) + (0 if other is None else other)
    gain = LEVEL / rms(mixture)
    return Talk(torch.from_numpy(mixture * gain).float(), torch.from_numpy(np.stack(speakers) * gain).float())


Make = Callable[[People, random.Random], "Talk | None"]


def of(*kinds: str) -> Make:
    """Speakers of these kinds, equally loud."""

    def make(people: People, rng: random.Random) -> Talk | None:
        chosen = people.choose(kinds, rng)
        return None if chosen is None else talk(chosen)

    return make


def nobody(people: People, rng: random.Random) -> Talk | None:
    """The hum of a room in which nobody speaks."""
    hum = steady_noise(rng, people.samples) * 10 ** (HUM_DB / 20)
    return Talk(torch.from_numpy(hum).float(), torch.zeros(0, people.samples))


def beside_a_sound(people: People, rng: random.Random) -> Talk | None:
    """Two speakers, and another sound 5 dB below both."""
    chosen = people.choose(("", ""), rng)
    if chosen is None or not people.noises:
        return None
    noise = excerpt(rng.choice(people.noises), people.samples, rng)
    return talk(chosen, noise * (rms(np.sum(chosen, axis=0)) / rms(noise) * 10**-0.25))


def in_a_room(people: People, rng: random.Random) -> Talk | None:
    """Two speakers, each from a place of its own in a room; with the echo they are what is asked for."""
    chosen = people.choose(("", ""), rng)
    if chosen is None:
        return None
    far = [filtered(voice.astype(np.float32), response=room_response(rng, people.sampling_rate)) for voice in chosen]
    return talk([voice / rms(voice) for voice in far])


CONDITIONS: dict[str, Make] = {
    "nobody, a hum": nobody,
    "a lone speaker": of(""),
    "two women": of("woman", "woman"),
    "two men": of("man", "man"),
    "a woman and a man": of("woman", "man"),
    "two speakers, another sound 5 dB below": beside_a_sound,
    "two speakers in a room": in_a_room,
}


def judge(separator: Any, item: Talk, sampling_rate: int) -> dict[str, float]:
    """One mixture: whether the scores `counted` its speakers, and how well they came out.

    Of several speakers the improvement `si_snri` and `sdri`; of a lone one the SI-SNR of the better output, `kept`.
    """
    entries = separator({"array": item.mixture.numpy()[None], "sampling_rate": sampling_rate})
    row = {"counted": float(sum(entry["score"] > ACTIVE_SCORE for entry in entries) == len(item.speakers))}
    outputs = torch.stack([torch.from_numpy(entry["audio"][0]) for entry in entries])
    if len(item.speakers) == 1:
        row["kept"] = max(si_snr(output, item.speakers[0]).item() for output in outputs)
    elif len(item.speakers):
        scores = separation_scores(outputs, item.speakers, item.mixture)
        row.update({name: scores[name].mean().item() for name in ("si_snri", "sdri")})
    return row


def evaluate_conditions(
    separator: Any, clips: Sequence[Clip], noises: Sequence[Clip], sampling_rate: int, *, count: int = 40,
    seconds: float = 4.0, seed: int = 1,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Every condition's figures, by its name; those the speakers do not allow are left out.

    Args:
        separator: a pipeline of a model of unordered speakers.
        clips: recordings of speakers no training heard.
        noises: other sounds, if there are any.
        sampling_rate: of the recordings, in Hz.
        count: mixtures of each condition.
        seconds: length of a mixture.
        seed: decides speakers and excerpts.

    Returns:
        For each `mixtures`; `counted`, the share in which as many outputs as speak have a score above a half; means of
        `si_snri` and `sdri` in dB with the interval `si_snri_ci`, or of `kept`, the SI-SNR of a lone speaker.
    """
    people = People(by_speaker(list(clips)), noises, sampling_rate, int(seconds * sampling_rate))
    result: dict[str, dict[str, Any]] = {}
    for name, make in CONDITIONS.items():
        rows = [judge(separator, item, sampling_rate) for item in _made(make, people, name, count, seed)]
        if rows:
            result[name] = {"mixtures": len(rows)}
            for figure, digits in (("si_snri", 2), ("sdri", 2), ("kept", 2), ("counted", 4)):
                values = [row[figure] for row in rows if figure in row]
                if values:
                    result[name][figure] = round(mean(values), digits)
            gains = [row["si_snri"] for row in rows if "si_snri" in row]
            if gains:
                result[name]["si_snri_ci"] = interval(gains)
    return result


def _made(make: Make, people: People, name: str, count: int, seed: int) -> Iterator[Talk]:
    for number in range(count):
        item = make(people, random.Random(f"{seed}/{name}/{number}"))
        if item is not None:
            yield item


__all__ = ["CONDITIONS", "People", "Talk", "evaluate_conditions", "judge"]
