# SPDX-License-Identifier: Apache-2.0
"""Trains the classifier of sounds with which generated ones are judged, on the recordings generators are trained on.

Held out is what every training holds out: sources and speakers, not recordings. Decisions:

- Classes of few recordings are left out; the others are heard equally often.
- An item is an excerpt of one recording, or of two laid over each other in any proportion, whose label is that
  proportion (mixup, 1710.09412, of powers as sounds in air add up). It is moved in time, stretched, shifted by mel
  bins, filtered, and parts of it are hidden (SpecAugment, 1904.08779). Its floor is raised by any amount, so that the
  classifier rests on what is loud: a generator is not to be recognised by what it leaves 60 dB below.
- An item depends on the seed and its number alone. Spectrograms of whole recordings are computed once.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from ...data.generation import SoundDataset, SoundSettings, heldout_sounds
from ...data.mixing import ClipSampler, SeededDataset
from ...data.recordings import Clip, held_out, load_clips
from ...errors import DataError
from ...hub.manifest import write_whole
from ...models.sound_classifier.configuration_sound_classifier import SoundClassifierConfig
from ...models.sound_classifier.modeling_sound_classifier import SoundClassifier, measured_from_the_top, spectrogram
from ..recipe import load_recipe
from ..trainer import TrainingRecipe, run_training
from ..validation import CurveCallback, Judge


SILENT = -11.5  # log of a magnitude of 1e-5, which is where spectrograms end
HIDDEN_FRAMES, HIDDEN_BINS = 0.1, 0.12  # of an excerpt, at most; two of each


@dataclass
class ClassifierRecipe(TrainingRecipe):
    """Settings of the classifier; `mixing` and `model_type` are not used.

    Attributes:
        least_recordings: classes of fewer are left out.
        mixed: part of the items that are two recordings.
        shift_bins: by how many mel bins an excerpt is moved at most.
        stretch: by how much an excerpt is faster or slower at most.
        tilt_nepers: how much a random filter changes the ends of the spectrum at most.
        most_validated: held-out recordings of a class that the curve is measured on.
    """

    least_recordings: int = 20
    mixed: float = 0.5
    shift_bins: int = 3
    stretch: float = 0.12
    tilt_nepers: float = 1.0
    most_validated: int = 20
    folders: list[str] = field(default_factory=lambda: ["."])


class ExcerptDataset(SeededDataset[dict[str, Tensor]]):
    """`length` items: `input_features` (num_frames, num_mels), `labels` (classes), the part of each class.

    Args:
        spectrograms: of whole recordings, (frames, num_mels) each, by class in the order of the configuration.
        config: of the classifier.
        recipe: how items are made.
    """

    def __init__(self, spectrograms: list[list[Tensor]], config: SoundClassifierConfig, recipe: ClassifierRecipe):
        super().__init__(recipe.steps * recipe.batch_size, recipe.seed)
        self.spectrograms, self.config, self.recipe = spectrograms, config, recipe

    def make(self, rng: random.Random) -> dict[str, Tensor]:
        """Draws an excerpt, or two of them mixed."""
        labels = torch.zeros(len(self.spectrograms))
        number, mel = self._excerpt(rng)
        labels[number] = 1.0
        if rng.random() < self.recipe.mixed:
            other, second = self._excerpt(rng)
            part = rng.betavariate(0.5, 0.5)
            weights = torch.tensor([part, 1 - part]).clamp(min=1e-6).log() / 2  # of powers
            mel = torch.logaddexp(2 * (mel + weights[0]), 2 * (second + weights[1])) / 2
            labels *= part
            labels[other] += 1 - part
        return {"input_features": self._heard(mel, rng), "labels": labels}

    def _excerpt(self, rng: random.Random) -> tuple[int, Tensor]:
        """A class and (num_frames, num_mels) of one of its recordings, its loudest place at 0."""
        number = rng.randrange(len(self.spectrograms))
        whole = rng.choice(self.spectrograms[number]).float()
        wanted = round(self.config.num_frames * (1 + rng.uniform(-self.recipe.stretch, self.recipe.stretch)))
        mel = cut(whole, wanted, rng)
        mel = F.interpolate(mel.T[None], size=self.config.num_frames, mode="linear", align_corners=False)[0].T
        mel = shifted(mel, rng.randint(-self.recipe.shift_bins, self.recipe.shift_bins))
        mel = mel + filtered(mel.shape[1], self.recipe.tilt_nepers, rng)
        return number, mel - mel.max()

    def _heard(self, mel: Tensor, rng: random.Random) -> Tensor:
        """As the classifier takes it, with a floor anywhere and parts hidden."""
        span = self.config.range_nepers
        features = measured_from_the_top(mel, rng.uniform(0.45, 1.0) * span, span)
        frames, bins = features.shape
        for axis, size, share in ((0, frames, HIDDEN_FRAMES), (1, bins, HIDDEN_BINS)):
            for _ in range(2):
                width = rng.randint(0, int(share * size))
                features.narrow(axis, rng.randint(0, size - width), width).fill_(-1.0)
        return features.contiguous()


def cut(mel: Tensor, frames: int, rng: random.Random) -> Tensor:
    """So many frames from anywhere; a shorter recording is put anywhere, with silence around it."""
    spare = len(mel) - frames
    if spare > 0:
        means = mel.amax(dim=1)
        for _ in range(6):
            start = rng.randint(0, spare)
            if means[start : start + frames].max() > means.max() - 2:
                break
        return mel[start : start + frames]
    before = rng.randint(0, -spare)
    return F.pad(mel, (0, 0, before, -spare - before), value=SILENT)


def shifted(mel: Tensor, bins: int) -> Tensor:
    """Moved up in frequency by so many mel bins; what comes in repeats the edge."""
    if not bins:
        return mel
    places = (torch.arange(mel.shape[1]) - bins).clamp(0, mel.shape[1] - 1)
    return mel[:, places]


def filtered(bins: int, nepers: float, rng: random.Random) -> Tensor:
    """What a random smooth filter adds to log magnitudes, (bins,)."""
    knots = torch.tensor([[[rng.uniform(-nepers, nepers) for _ in range(4)]]])
    return F.interpolate(knots, size=bins, mode="linear", align_corners=True)[0, 0]


def classes_of(training: Sequence[Clip], heldout: Sequence[Clip], least: int) -> list[str]:
    """Labels of at least so many recordings some of which are held out.

    Raises:
        DataError: if there are fewer than two.
    """
    counts: dict[str, int] = defaultdict(int)
    for clip in (*training, *heldout):
        counts[clip.labels[-1]] += 1
    kept = {clip.labels[-1] for clip in heldout}
    names = sorted(name for name, count in counts.items() if count >= least and name in kept)
    if len(names) < 2:
        raise DataError(
            f"a classifier needs two classes of at least {least} recordings, some of them held out; of "
            f"{len(counts)} classes {len(names)} are: record more, or lower least_recordings"
        )
    return names


def spectrograms_of(clips: Sequence[Clip], config: SoundClassifierConfig) -> list[list[Tensor]]:
    """Of whole recordings by class, float16; what is shorter than a frame's window is left out."""
    spectrograms: list[list[Tensor]] = [[] for _ in config.class_names]
    for clip in tqdm([c for c in clips if c.labels[-1] in config.class_names], desc="spectrograms", leave=False):
        waveform = torch.from_numpy(clip.waveform())
        if len(waveform) > 4 * config.hop_length:
            waveform = waveform / waveform.abs().max().clamp(min=1e-6) / 2
            number = list(config.class_names).index(clip.labels[-1])
            spectrograms[number].append(spectrogram(waveform[None], config)[0].half())
    return spectrograms


def excerpts(clips: Sequence[Clip], config: Any, most: int = 0) -> tuple[Tensor, Tensor]:
    """One excerpt of each recording whose class the classifier knows, as generators are shown them.

    Args:
        clips: recordings at the classifier's rate.
        config: of the classifier.
        most: of each class, chosen by chance but the same ones each time; 0 for all.

    Returns:
        Waveforms (count, samples) and the numbers of their classes (count,).
    """
    names = list(config.class_names)
    usable = [clip for clip in clips if clip.labels[-1] in names and clip.samples.any()]
    counts: dict[str, int] = defaultdict(int)
    chosen = []
    for clip in random.Random(0).sample(sorted(usable, key=lambda clip: clip.path), len(usable)):
        counts[clip.labels[-1]] += 1
        if not most or counts[clip.labels[-1]] <= most:
            chosen.append(clip)
    chosen.sort(key=lambda clip: names.index(clip.labels[-1]))
    sounds = SoundDataset(ClipSampler(chosen, {}), SoundSettings(config.sampling_rate, config.samples), 1)
    waveforms = torch.stack([sounds.waveform(sound) for sound in heldout_sounds(chosen)])
    return waveforms, torch.tensor([names.index(clip.labels[-1]) for clip in chosen])


@torch.no_grad()
def accuracies(model: SoundClassifier, features: Tensor, labels: Tensor) -> dict[str, Any]:
    """Part of the recordings given their class: `accuracy`, the mean of `classes`, which is by name; and `loss`."""
    parts = [model(batch) for batch in features.to(model.device).split(32)]
    logits = torch.cat([part.logits.float().cpu() for part in parts])
    right = logits.argmax(dim=1) == labels
    names = model.config.class_names
    by_class = {names[n]: round(right[labels == n].float().mean().item(), 4) for n in labels.unique().tolist()}
    loss = F.cross_entropy(logits, labels).item()
    return {"accuracy": round(sum(by_class.values()) / len(by_class), 4), "loss": round(loss, 4), "classes": by_class}


def main(config: Path | None, data: Path, output: Path, **overrides: Any) -> dict[str, Any]:
    """Trains, going on from the newest checkpoint under `output`, and saves the classifier in `output/model`.

    Args:
        config: a YAML file of `ClassifierRecipe` settings.
        data: the folder that `folders` of the recipe are relative to.
        output: checkpoints, curve and `model`; `accuracy.json` beside it holds what is returned.

    Returns:
        `accuracy` on recordings held out of training, over all and by class, of the last weights: none were chosen by
        it.
    """
    recipe = load_recipe(ClassifierRecipe, config, **overrides)
    torch.manual_seed(recipe.seed)
    rate = recipe.model.get("sampling_rate", SoundClassifierConfig().sampling_rate)
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, rate, commercial_only=recipe.commercial_only)
    clips = [clip for clip in clips if clip.samples.any()]
    training, heldout = held_out(clips, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)
    names = classes_of(training, heldout, recipe.least_recordings)
    model = SoundClassifier(SoundClassifierConfig(class_names=names, **recipe.model))
    model.to(memory_format=torch.channels_last)  # a step in 0.6 of the time
    dataset = ExcerptDataset(spectrograms_of(training, model.config), model.config, recipe)
    waveforms, labels = excerpts(heldout, model.config, recipe.most_validated)
    span = model.config.range_nepers
    features = torch.cat([measured_from_the_top(spectrogram(w, model.config), span, span) for w in waveforms.split(8)])
    measure = partial(accuracies, features=features, labels=labels)
    title = "accuracy (recordings held out, mean over classes)"
    judge = Judge(lambda model: {n: v for n, v in measure(model).items() if n != "classes"}, "accuracy", title)
    torch.manual_seed(recipe.seed)
    run_training(model, recipe, dataset, CurveCallback(model, judge, recipe, output), output, data=data)
    trained = SoundClassifier.from_pretrained(output / "model").eval()
    result = measure(trained)
    write_whole(output / "accuracy.json", json.dumps(result, indent=1))
    return result


__all__ = ["ClassifierRecipe", "ExcerptDataset", "accuracies", "classes_of", "excerpts", "main"]
