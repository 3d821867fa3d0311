# SPDX-License-Identifier: Apache-2.0
"""Trains the audio tower of a small CLAP against its frozen text tower, so that a sound can be the query.

The text tower knows more words than the recordings can teach; locking it and teaching the audio tower to meet it
(Zhai et al., 2022) keeps that. The loss is CLAP's, with every recording of the same class counted as a match.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from ...data.prompts import random_prompt
from ...data.recordings import Clip, held_out, load_clips
from ...hub.manifest import write_whole
from ...models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from ...models.audiosep.processing_audiosep import AudioSepProcessor
from ..recipe import load_recipe


@dataclass
class AudioTowerRecipe:
    """Settings of the audio tower's training; `model` is the AudioSep folder whose audio tower is trained."""

    model: str = ""
    folders: list[str] = field(default_factory=lambda: ["."])
    commercial_only: bool = True
    most_per_class: int = 60
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 5e-4
    temperature: float = 0.05
    seed: int = 0


def features_of(clips: list[Clip], processor: Any, sampling_rate: int) -> Tensor:
    """Log-mel spectrograms of clips, (clips, 1, frames, mel bins); those over ten seconds are cut there."""
    longest = processor.feature_extractor.nb_max_samples * sampling_rate // processor.feature_extractor.sampling_rate
    spectrograms = []
    for clip in tqdm(clips, desc="spectrograms", leave=False):
        waveform = clip.waveform(0, longest)[None]
        spectrograms.append(processor(audio=waveform, sampling_rate=sampling_rate)["input_features"])
    return torch.cat(spectrograms)


def augment(features: Tensor, generator: torch.Generator) -> Tensor:
    """Rolls in time, changes the level, hides a band and a moment: (batch, 1, frames, mel bins), in dB."""
    batch, _, frames, bins = features.shape
    shift = int(torch.randint(frames, (1,), generator=generator))
    features = features.roll(shift, dims=2) + 6 * torch.randn(batch, 1, 1, 1, generator=generator)
    for axis, size in ((2, frames), (3, bins)):
        start = int(torch.randint(size - size // 8, (1,), generator=generator))
        features.narrow(axis, start, size // 8).fill_(features.mean())
    return features


def balanced(clips: list[Clip], most: int, rng: random.Random) -> list[Clip]:
    """At most `most` clips of every class, drawn at random."""
    shuffled = rng.sample(clips, len(clips))
    counts: dict[str, int] = {}
    kept = []
    for clip in shuffled:
        counts[clip.labels[-1]] = counts.get(clip.labels[-1], 0) + 1
        if counts[clip.labels[-1]] <= most:
            kept.append(clip)
    return kept


def contrastive_loss(audio: Tensor, text: Tensor, same: Tensor, temperature: float) -> Tensor:
    """CLAP's symmetric cross entropy between recordings and prompts; all pairs of one class share the target."""
    scores = audio @ text.T / temperature
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


@torch.no_grad()
def zero_shot_accuracy(
    model: AudioSepForAudioSeparation, processor: Any, features: Tensor, labels: list[str]
) -> float:
    """Share of recordings whose nearest class name is their own."""
    names = sorted(set(labels))
    tokens = processor(text=names)
    text = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    nearest = (model.encode_audio(features) @ text.T).argmax(dim=1)
    return sum(names[i] == label for i, label in zip(nearest, labels, strict=True)) / len(labels)


def meet(
    model: AudioSepForAudioSeparation, processor: Any, clips: list[Clip], features: Tensor, recipe: AudioTowerRecipe
) -> None:
    """Trains the audio tower to put every clip near the prompts of its class."""
    rng, generator = random.Random(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    tower = [*model.query_encoder.audio_model.parameters(), *model.query_encoder.audio_projection.parameters()]
    for parameter in tower:
        parameter.requires_grad = True
    model.query_encoder.audio_model.train()
    optimizer = torch.optim.AdamW(tower, lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    bar = tqdm(range(recipe.steps), desc="audio tower", mininterval=10)
    for step in bar:
        chosen = rng.sample(range(len(clips)), recipe.batch_size)
        labels = [rng.choice(clips[i].labels) for i in chosen]
        tokens = processor(text=[random_prompt(label, rng) for label in labels])
        with torch.no_grad():
            text = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            audio = model.encode_audio(augment(features[chosen], generator))
        same = torch.tensor([[float(a == b) for b in labels] for a in labels])
        loss = contrastive_loss(audio, text, same, recipe.temperature)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, float]:
    """Trains the audio tower of `recipe.model` and writes the whole model and its processor to `output`.

    Args:
        config: a YAML file of `AudioTowerRecipe` settings.
        data: the folder that `folders` of the recipe are relative to.
        output: where the model goes.

    Returns:
        `zero_shot_accuracy` on recordings held out of training.
    """
    recipe = load_recipe(AudioTowerRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model = AudioSepForAudioSeparation.from_pretrained(recipe.model, dtype=torch.float32)
    processor = AudioSepProcessor.from_pretrained(recipe.model)
    rate = model.config.sampling_rate
    folders = [data / name for name in recipe.folders]
    recordings = load_clips(folders, rate, commercial_only=recipe.commercial_only)
    training, heldout = held_out(recordings, data, commercial_only=recipe.commercial_only)
    training, heldout = (balanced(clips, recipe.most_per_class, rng) for clips in (training, heldout))
    features, unseen = (features_of(clips, processor, rate) for clips in (training, heldout))

    meet(model, processor, training, features, recipe)
    model.eval()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    report = {"zero_shot_accuracy": zero_shot_accuracy(model, processor, unseen, [c.labels[-1] for c in heldout])}
    write_whole(output / "audio_tower.json", json.dumps({"recipe": vars(recipe), "result": report}, indent=1))
    return report


__all__ = ["AudioTowerRecipe", "main"]
