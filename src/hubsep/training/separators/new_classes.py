# SPDX-License-Identifier: Apache-2.0
"""Teaches the query classifier of an AudioSep the words for a sound it had no class for.

A classifier taught earlier answers "anything else" to such words, and the separator is then silent. Decisions: only
the row of the new class learns, what the classifier said of other classes stays, so a known sound can lose no
more than what the new class takes from it; words of all known classes and of other sounds are there to keep it from
that. As when the classifier was taught, noise on the embeddings fills the space between phrases.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.prompts import catalogue, phrases
from ...models.audiosep.classes_audiosep import add_query_classes
from .query_classes import ELSE, embed


def sounds_without_class(model: Any, labels: Sequence[str]) -> list[str]:
    """Labels the query network has no class for; none if it has no classes at all."""
    classes = set(model.config.query_classes)
    return [label for label in labels if label not in classes] if classes else []


def teach_new_classes(
    model: Any, processor: Any, labels: Sequence[str], *, steps: int = 600, noise: float = 0.8, seed: int = 0
) -> float:
    """Gives a model classes for sounds, in place, and teaches it their words.

    Args:
        model: an AudioSep with `query_classes`.
        processor: its processor.
        labels: the sounds; the catalogue may know more words for them.
        steps: of 128 phrases each, half of them of the new sounds.
        noise: largest length of the random vector added to an embedding of unit length.
        seed: decides sentences, batches and noise.

    Returns:
        The share of sentences about the new sounds that are given their class.
    """
    known_classes = list(model.config.query_classes)
    add_query_classes(model, labels)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    texts, classes = _sentences(known_classes, labels, rng)
    embeds, targets = embed(model, processor, texts).to(model.device), torch.tensor(classes, device=model.device)
    new = (targets >= len(known_classes)).float()
    weight = new / new.sum() + (1 - new) / (1 - new).sum().clamp_min(1)
    network = model.query_network
    linear = network.linear2
    row = linear.weight[len(known_classes) :].detach().clone().requires_grad_()
    bias = torch.zeros_like(linear.bias[len(known_classes) :]).requires_grad_()
    optimizer = torch.optim.AdamW([row, bias], lr=2e-2, weight_decay=0.01)
    with torch.no_grad():
        bound = linear.weight[: len(known_classes)].norm(dim=1).mean() / linear.in_features**0.5
        row.copy_(bound * torch.randn(row.shape, generator=generator).to(row))

    def logits(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = F.leaky_relu(network.linear1(network.norm(inputs)), 0.01)
            before = F.linear(hidden, linear.weight[: len(known_classes)], linear.bias[: len(known_classes)])
        return torch.cat([before, F.linear(hidden, row, bias)], dim=-1)

    for _ in range(steps):
        batch = torch.multinomial(weight.cpu(), 128, replacement=True, generator=generator)
        inputs = embeds[batch]
        direction = F.normalize(torch.randn(inputs.shape, generator=generator), dim=-1).to(inputs)
        length = noise * torch.rand(len(inputs), 1, generator=generator).to(inputs)
        F.cross_entropy(logits(F.normalize(inputs + length * direction, dim=-1)), targets[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        linear.weight[len(known_classes) :], linear.bias[len(known_classes) :] = row, bias
        right = network.classify(embeds).argmax(dim=-1) == targets
    return right[new.bool()].float().mean().item()


def _sentences(known_classes: Sequence[str], labels: Sequence[str], rng: random.Random) -> tuple[list[str], list[int]]:
    """Sentences about the new sounds, the known ones and others, and the number of the class of each."""
    words = catalogue()
    frames, number = words["templates"], {name: index for index, name in enumerate([*known_classes, *labels])}
    rows = [(frame.format(phrase), number[label]) for label in labels for phrase in phrases(label)[:12] for frame in
            ["{}", *rng.sample(frames, 7)]]  # fmt: skip
    for sound in words["sounds"]:
        if sound in number and sound not in labels:
            rows += _some(phrases(sound), number[sound], 8, frames, rng)
    for group, wordings in words["groups"].items():
        if f"any {group}" in number:
            rows += _some(wordings, number[f"any {group}"], 8, frames, rng)
    if ELSE in number:
        for other in [*words["others"], *(sound for sound in words["sounds"] if sound not in number)]:
            if other not in labels:
                rows += _some(phrases(other), number[ELSE], 2, frames, rng)
    return [text for text, _ in rows], [place for _, place in rows]


def _some(wordings: Sequence[str], number: int, count: int, frames: Sequence[str], rng: random.Random) -> Any:
    return [(rng.choice(frames).format(p), number) for p in rng.sample(list(wordings), min(count, len(wordings)))]


__all__ = ["sounds_without_class", "teach_new_classes"]
