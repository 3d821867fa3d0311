# SPDX-License-Identifier: Apache-2.0
"""Measures a generator of sounds: is what it makes of a class's name taken for that class by somebody else's ear?

That ear is a classifier of `hubsep train classifier`, which shares nothing with the generator but the recordings both
were trained on, and which is itself measured on recordings that neither has heard. Decisions:

- A prompt is the name of a class; the same again in words no training saw, where the catalogue has such. A sound
  depends on the prompt, its number, the seed and the settings alone.
- The Frechet distance is biased by the number of recordings, so every set compared has the same one, class by class,
  and beside it stand three of what can be expected: of real recordings that training heard, of white noise, and of
  recordings of other classes. All are against the same held-out recordings.
- The embedding of that distance is the classifier's own, and a second one that is given. Where that is the tower the
  generator was trained with, agreement with it is no proof: such fields are called `own`.
- Recordings are taken as training takes them, without offset and with a peak of 0.5; generated sounds as they come.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data.prompts import heldout_phrases
from ..errors import DataError
from ..metrics.generation import Embedding, clap_score, class_divergence, embed, frechet_distance


TOP = 3
SETS = ("made", "training", "noise", "others")


@dataclass
class Sounds:
    """What is compared, all at one rate.

    Attributes:
        names: of the classes, in the order of the labels.
        sampling_rate: in Hz.
        made: generated of each class's name, (classes, count, samples).
        unseen: generated of words no training saw, (count, samples), with their `unseen_labels` (count,).
        heldout: recordings of each class that no training has heard, (count, samples) each.
        training: recordings of each class that training has heard, (count, samples) each.
    """

    names: list[str]
    sampling_rate: int
    made: Tensor
    heldout: list[Tensor]
    training: list[Tensor]
    unseen: Tensor | None = None
    unseen_labels: Tensor | None = None


@dataclass(frozen=True)
class Ears:
    """Who listens.

    Attributes:
        classify: logits (batch, classes known) and embeddings (batch, size) of waveforms (batch, samples).
        known: names of the classes.
        own_audio: the embedding of the tower the generator was trained with, if there is one.
        own_text: what that tower makes of texts, (count, size).
    """

    classify: Callable[[Tensor], tuple[Tensor, Tensor]]
    known: list[str]
    own_audio: Embedding | None = None
    own_text: Callable[[Sequence[str]], Tensor] | None = None


@dataclass
class Heard:
    """What the ears make of one set of recordings: logits and embeddings by their name, (count, ...)."""

    logits: Tensor
    embeddings: dict[str, Tensor] = field(default_factory=dict)

    def part(self, rows: Sequence[int]) -> Heard:
        """Of some of the recordings."""
        index = torch.tensor(list(rows), dtype=torch.long)
        return Heard(self.logits[index], {name: rows[index] for name, rows in self.embeddings.items()})


def seed_of(seed: int, prompt: str, number: int) -> int:
    """The seed of one sound, whatever else is made beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt}/{number}".encode()).digest()[:7], "big")


def make_sounds(pipe: Any, prompts: Sequence[tuple[str, int]], seconds: float, seed: int, **settings: Any) -> Tensor:
    """Generates one sound a prompt and number, (count, samples).

    Args:
        pipe: an `AudioLDM2Pipeline`.
        prompts: each with the number of the sound of it.
        seconds: length of each.
        seed: with prompt and number decides the noise.
        **settings: those of the pipeline.
    """
    generators = [torch.Generator().manual_seed(seed_of(seed, *prompt)) for prompt in prompts]
    texts = [prompt for prompt, _ in prompts]
    return pipe(texts, seconds=seconds, generator=generators, output_type="pt", **settings).audios.float().cpu()


def unseen_prompts(names: Sequence[str], count: int) -> list[tuple[int, tuple[str, int]]]:
    """Numbers of classes, each with one of `count` prompts in words no training saw; none of classes without such."""
    prompts = []
    for label, name in enumerate(names):
        phrases = heldout_phrases(name)
        prompts += [(label, (phrases[n % len(phrases)], n)) for n in range(count if phrases else 0)]
    return prompts


def hear(waveforms: Tensor, ears: Ears, sampling_rate: int) -> Heard:
    """What the ears make of recordings, (count, samples)."""
    parts = [ears.classify(part) for part in waveforms.split(32)]
    logits, embeddings = (torch.cat(rows).float().cpu() for rows in zip(*parts, strict=True))
    heard = Heard(logits, {"classifier": embeddings})
    if ears.own_audio is not None:
        heard.embeddings["own"] = embed(waveforms[:, None], sampling_rate, ears.own_audio)
    return heard


def evaluate_sounds(sounds: Sounds, ears: Ears, *, seed: int = 0) -> dict[str, Any]:
    """Everything that is measured of generated sounds.

    Args:
        sounds: generated and real ones.
        ears: classifier and tower.
        seed: decides the noise, and which recordings of other classes a class is compared with.

    Returns:
        `summarise` over all and as `classes` by name; `confusion`, how often each class was taken for which; `chance`,
        the accuracy of guessing; `accuracy_ci`, the 95 % interval of the accuracy.

    Raises:
        DataError: if the classifier does not know a class, or one has no recordings.
    """
    unknown = [name for name in sounds.names if name not in ears.known]
    if unknown or not all(len(rows) for rows in (*sounds.heldout, *sounds.training)):
        raise DataError(f"every class must be known to the classifier and have recordings; {unknown} are not known")
    number = [ears.known.index(name) for name in sounds.names]
    rate = sounds.sampling_rate
    made = [hear(rows, ears, rate) for rows in sounds.made]
    real = [hear(rows, ears, rate) for rows in sounds.heldout]
    seen = [hear(rows, ears, rate) for rows in sounds.training]
    generator = torch.Generator().manual_seed(seed)
    count = max(len(rows) for rows in sounds.heldout)
    noise = hear(0.1 * torch.randn(count, sounds.made.shape[-1], generator=generator), ears, rate)
    unseen = hear(sounds.unseen, ears, rate) if sounds.unseen is not None else None
    rng = random.Random(seed)
    rows, pools = {}, []
    for label, name in enumerate(sounds.names):
        row = recognised(made[label].logits, real[label].logits, number[label])
        if unseen is not None and sounds.unseen_labels is not None:
            mine = (sounds.unseen_labels == label).nonzero()[:, 0].tolist()
            if mine:
                row["accuracy_unseen"] = part_right(unseen.logits[mine], number[label])
        pool = same_size(label, made, real, seen, noise, rng)
        pools.append(pool)
        row |= class_distances(pool) | divergences(pool)
        row |= own_scores(name, made[label], real[label], ears)
        row |= levels("", sounds.made[label], rate) | levels("_real", sounds.heldout[label], rate)
        rows[name] = row
    overall = summarise(list(rows.values())) | pooled_distances(pools)
    taken = {name: taken_for(heard.logits, ears.known) for name, heard in zip(sounds.names, made, strict=True)}
    right = round(overall["accuracy"] * overall["sounds"])
    extra = {"chance": round(1 / len(ears.known), 4), "accuracy_ci": wilson(right, overall["sounds"])}
    return {"task": "text-to-audio", **overall, **extra, "classes": rows, "confusion": taken}


def recognised(logits: Tensor, real: Tensor, number: int) -> dict[str, Any]:
    """Parts of generated and of held-out recordings that are given their class, first and among the first three."""
    return {
        "sounds": len(logits),
        "accuracy": part_right(logits, number),
        "accuracy_top3": part_right(logits, number, TOP),
        "recordings": len(real),
        "accuracy_real": part_right(real, number),
        "accuracy_real_top3": part_right(real, number, TOP),
    }


def part_right(logits: Tensor, number: int, top: int = 1) -> float:
    """How many (count, classes) have the class among the `top` likeliest."""
    hits = logits.topk(min(top, logits.shape[1]), dim=1).indices == number
    return round(hits.any(dim=1).float().mean().item(), 4)


def taken_for(logits: Tensor, known: Sequence[str]) -> dict[str, int]:
    """How often recordings were taken for each class, the most frequent first."""
    counts = torch.bincount(logits.argmax(dim=1), minlength=len(known)).tolist()
    return {known[n]: counts[n] for n in sorted(range(len(known)), key=lambda n: -counts[n]) if counts[n]}


def same_size(
    label: int, made: list[Heard], real: list[Heard], seen: list[Heard], noise: Heard, rng: random.Random
) -> dict[str, Heard]:
    """As many of each set of `SETS`, and of the class's held-out recordings as `real`."""
    size = min(len(made[label].logits), len(real[label].logits), len(seen[label].logits))
    strangers = [
        (other, row) for other in range(len(real)) if other != label for row in range(len(real[other].logits))
    ]
    chosen = [real[other].part([row]) for other, row in rng.sample(strangers, min(size, len(strangers)))]
    return {
        "real": real[label].part(range(size)),
        "made": made[label].part(range(size)),
        "training": seen[label].part(rng.sample(range(len(seen[label].logits)), size)),
        "noise": noise.part(range(size)),
        "others": joined(chosen),
    }


def joined(parts: Sequence[Heard]) -> Heard:
    """Several as one."""
    names = parts[0].embeddings
    embeddings = {name: torch.cat([part.embeddings[name] for part in parts]) for name in names}
    return Heard(torch.cat([part.logits for part in parts]), embeddings)


def class_distances(pool: dict[str, Heard]) -> dict[str, float]:
    """`class_fad` of each set from the class's held-out recordings, in the classifier's embedding."""
    if min(len(heard.logits) for heard in pool.values()) < 2:
        return {}
    real = pool["real"].embeddings["classifier"]
    return {
        "class_fad" + suffix(name): round(frechet_distance(pool[name].embeddings["classifier"], real), 3)
        for name in SETS
    }


def pooled_distances(pools: Sequence[dict[str, Heard]]) -> dict[str, float]:
    """`fad` of all classes together from all held-out recordings, `own_fad` in the embedding of the own tower."""
    real = joined([pool["real"] for pool in pools])
    distances = {}
    for prefix, kind in (("fad", "classifier"), ("own_fad", "own")):
        for name in SETS[:3] if kind in real.embeddings and len(real.logits) > 1 else ():
            rows = joined([pool[name] for pool in pools]).embeddings[kind]
            distances[prefix + suffix(name)] = round(frechet_distance(rows, real.embeddings[kind]), 4)
    return distances


def divergences(pool: dict[str, Heard]) -> dict[str, float]:
    """`kl` of each set: mean divergence of its classes from those of held-out recordings, pair by pair, in nats."""
    size = min(len(heard.logits) for heard in pool.values())
    real = pool["real"].logits[:size]
    return {
        "kl" + suffix(name): round(class_divergence(pool[name].logits[:size], real).mean().item(), 3) for name in SETS
    }


def suffix(name: str) -> str:
    """Of the fields of a set; those of what was generated have none."""
    return "" if name == "made" else f"_{name}"


def own_scores(name: str, made: Heard, real: Heard, ears: Ears) -> dict[str, float]:
    """Mean cosine of generated and of real recordings with the class's name, by the tower the generator knows."""
    if ears.own_text is None or ears.own_audio is None:
        return {}
    text = ears.own_text([name]).double().cpu()
    return {
        key: round(clap_score(heard.embeddings["own"], text.expand(len(heard.logits), -1)).mean().item(), 3)
        for key, heard in (("own_clap", made), ("own_clap_real", real))
    }


def levels(end: str, waveforms: Tensor, sampling_rate: int) -> dict[str, float]:
    """Medians: level in dB below full scale, and the frequency in Hz that 95 % of the energy lies below."""
    power = waveforms.double().square().mean(dim=1)
    spectrum = torch.fft.rfft(waveforms.double()).abs().square().cumsum(dim=1)
    places = (spectrum < 0.95 * spectrum[:, -1:]).sum(dim=1)
    hertz = places * sampling_rate / waveforms.shape[1]
    return {
        f"level_db{end}": round(10 * power.clamp(min=1e-12).log10().median().item(), 1),
        f"rolloff_hz{end}": round(hertz.double().median().item()),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over classes, each counting the same; sums of `sounds` and `recordings`."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    sums = ("sounds", "recordings")
    return {name: sum(v) if name in sums else round(sum(v) / len(v), 4) for name, v in columns.items()}


def wilson(right: int, count: int, z: float = 1.96) -> list[float]:
    """Wilson's interval of a proportion, which a bootstrap does not give where everything is right."""
    part, shrink = right / count, 1 + z**2 / count
    centre, half = part + z**2 / (2 * count), z * (part * (1 - part) / count + z**2 / (4 * count**2)) ** 0.5
    return [round(bound / shrink, 4) for bound in (centre - half, centre + half)]


__all__ = ["Ears", "Heard", "Sounds", "evaluate_sounds", "make_sounds", "unseen_prompts", "wilson"]
