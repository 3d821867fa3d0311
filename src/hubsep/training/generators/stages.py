# SPDX-License-Identifier: Apache-2.0
"""What the stages of AudioLDM 2's training share: their settings, what they read and write, what stays frozen.

Every stage is a run of `transformers.Trainer`, see `hubsep.training.trainer`, whose "model" is an `Objective`: the
components that learn, the frozen ones they need, and the loss. Decisions:

- Stages find each other's results side by side: a path in a recipe's `components` is relative to the folder that the
  stage's output lies in, for instance `vae: vae/model`.
- Only what learns is in a checkpoint. A frozen component is read again from where it came from.
- Noise, times and dropout come from torch's generator, which a checkpoint holds; items come from their number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...data.generation import Sound, SoundDataset, SoundSettings, heldout_sounds
from ...data.mixing import ClipSampler
from ...data.recordings import Clip, held_out, load_clips
from ...errors import DataError
from ...mel import MelSettings
from ...pipelines.audioldm2.loading.components import ANY_TOKENIZER
from ..recipe import load_recipe
from ..trainer import TrainingRecipe, run_training
from ..validation import CurveCallback, Judge


Item = dict[str, Tensor]


@dataclass
class GenerationRecipe(TrainingRecipe):
    """Settings of a stage; `model` has fields of what is made new, `mixing` is not used.

    Attributes:
        components: folders of what earlier stages made, by component, relative to the folder the output lies in; what
            the stage trains goes on from there if it is among them.
        sampling_rate: in Hz.
        seconds: of an excerpt.
        hop_length: samples of a frame of the mel spectrogram.
        num_mels: mel bins.
        views: how many different excerpts there are of a recording; 0 for a new one every time.
        speed_range: by how much excerpts are faster or slower at most.
        corpus_weights: how often a corpus is heard, by its name; 1 for those not named.
        class_weights: how often a class is heard among those of its corpus, by its label; 1 for those not named.
        validation_clips: held-out recordings that the curve is measured on.
        validation_batch: of these, that are looked at together.
    """

    components: dict[str, str] = field(default_factory=dict)
    sampling_rate: int = 16_000
    seconds: float = 5.12
    hop_length: int = 160
    num_mels: int = 64
    views: int = 4
    speed_range: float = 0.08
    corpus_weights: dict[str, float] = field(default_factory=dict)
    class_weights: dict[str, float] = field(default_factory=dict)
    validation_clips: int = 64
    validation_batch: int = 16

    @property
    def samples(self) -> int:
        """Of an excerpt: whole frames."""
        return round(self.seconds * self.sampling_rate / self.hop_length) * self.hop_length

    @property
    def mel(self) -> MelSettings:
        """The mel spectrogram, as the pipeline makes it for a vocoder of this hop."""
        return MelSettings.of(self)


class Objective(nn.Module):
    """Components that learn, frozen ones that they need, and in a subclass's `forward` the loss.

    Args:
        trained: components by name.
        frozen: components by name; they stay as they are, without dropout.
    """

    def __init__(self, trained: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.trained, self.frozen = nn.ModuleDict(trained), nn.ModuleDict(frozen or {})
        self.frozen.requires_grad_(False)
        self.train()

    @property
    def device(self) -> torch.device:
        """Where the components are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Objective:
        """Training mode for what learns."""
        super().train(mode)
        self.frozen.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Of what learns, each tensor once."""
        whole = super().state_dict(*args, **kwargs)
        every = self.named_parameters(remove_duplicate=False)
        fixed = {name for name, parameter in every if not parameter.requires_grad}
        seen: set[int] = set()
        kept = {}
        for name, tensor in whole.items():
            if name not in fixed and not name.startswith("frozen.") and tensor.data_ptr() not in seen:
                kept[name] = tensor
                seen.add(tensor.data_ptr() or id(tensor))
        return kept

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes what `state_dict` gives; what does not learn is not missing."""
        keys = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in keys.missing_keys if name in self.state_dict()]
        if strict and (missing or keys.unexpected_keys):
            raise DataError(f"a checkpoint lacks {missing} and holds {keys.unexpected_keys} besides")
        return type(keys)(missing, keys.unexpected_keys)

    def save_pretrained(self, folder: Path) -> None:
        """Writes what learns: one component as the folder itself, several in folders of their names."""
        for name, component in self.trained.items():
            saved: Any = component
            saved.save_pretrained(folder if len(self.trained) == 1 else folder / name)


def load_parts(recipe: GenerationRecipe, output: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """Components that earlier stages made, in float32.

    Raises:
        DataError: if the recipe does not say where one is, or it is not there.
        CheckpointError: if it cannot be loaded.
    """
    from ...pipelines.audioldm2.loading.folder import load_component

    components: dict[str, Any] = {}
    for name in needed:
        if name not in recipe.components:
            raise DataError(f"this stage needs {name}: say in components where an earlier stage wrote it")
        folder = output.resolve().parent / recipe.components[name]
        if not folder.is_dir():
            raise DataError(f"components: {name} is {recipe.components[name]}, but {folder} does not exist")
        library, kind = CLASSES[name]
        components[name] = load_component(folder, library, kind, dtype=torch.float32, strict=True)
    return components


# as the pipeline's folder names them
CLASSES = {
    "vae": ("diffusers", "AutoencoderKL"),
    "vocoder": ("transformers", "SpeechT5HifiGan"),
    "audio_mae": ("hubsep", "AudioMAEModel"),
    "unet": ("audioldm2", "AudioLDM2UNet2DConditionModel"),
    "projection_model": ("audioldm2", "AudioLDM2ProjectionModel"),
    "language_model": ("transformers", "GPT2Model"),
    "text_encoder": ("transformers", "ClapModel"),
    "tokenizer": ("transformers", ANY_TOKENIZER),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer_2": ("transformers", ANY_TOKENIZER),
    "feature_extractor": ("transformers", "ClapFeatureExtractor"),
}


def load_sounds(recipe: GenerationRecipe, data: Path) -> tuple[SoundDataset, list[Sound]]:
    """Training items, and sounds of other sources and speakers for validation.

    Raises:
        DataError: if nothing is left for either.
    """
    folders = [data / name for name in recipe.folders]
    clips = load_clips(folders, recipe.sampling_rate, commercial_only=recipe.commercial_only)
    clips = [clip for clip in clips if clip.samples.any()]
    training, heldout = held_out(clips, data, recipe.validation_fraction, commercial_only=recipe.commercial_only)
    settings = SoundSettings(recipe.sampling_rate, recipe.samples, recipe.views, recipe.speed_range)
    sampler = ClipSampler(training, recipe.corpus_weights, recipe.class_weights)
    sounds = SoundDataset(sampler, settings, recipe.steps * recipe.batch_size, recipe.seed)
    return sounds, heldout_sounds(chosen_for_validation(heldout, recipe.validation_clips))


def chosen_for_validation(clips: list[Clip], count: int) -> list[Clip]:
    """So many of the clips, of the classes in turn: a corpus of speech does not crowd out the rest."""
    rng = random.Random(0)
    classes: dict[str, list[Clip]] = {}
    for clip in rng.sample(clips, len(clips)):
        classes.setdefault(clip.labels[0], []).append(clip)
    turns = [(turn, label) for label, rows in classes.items() for turn in range(len(rows))]
    return [classes[label][turn] for turn, label in sorted(turns)[:count]]


def explained_db(loss: float, reference: float = 1.0) -> float:
    """How far a loss is below a reference, in dB."""
    return round(-10 * math.log10(max(loss, 1e-12) / reference), 4)


def batches(items: list[Item], size: int, device: torch.device) -> list[Item]:
    """Items in batches on a device."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [{name: torch.stack([item[name] for item in part]).to(device) for name in part[0]} for part in parts]


def validator(items: list[Item], size: int) -> Callable[[Any], dict[str, float]]:
    """Judges an objective by its mean loss over fixed items, with the same noise and times each time."""

    @torch.no_grad()
    def validate(objective: Any) -> dict[str, float]:
        device = objective.device
        devices = [device] if device.type == "cuda" else []
        total: dict[str, float] = {}
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            for batch in batches(items, size, device):
                count = len(next(iter(batch.values())))
                for name, value in objective(**batch).items():
                    total[name] = total.get(name, 0.0) + float(value) * count
        means = {name: round(value / len(items), 6) for name, value in total.items()}
        return {"explained_db": explained_db(means["loss"]), **means}

    return validate


def read_recipe(kind: type[Any], config: Path | None, overrides: dict[str, Any]) -> Any:
    """The recipe of a stage; from here on torch's generator is the recipe's."""
    recipe = load_recipe(kind, config, **overrides)
    torch.manual_seed(recipe.seed)
    return recipe


def train_stage(
    recipe: GenerationRecipe,
    objective: Objective,
    dataset: Dataset[Item],
    fixed: list[Item],
    title: str,
    output: Path,
    *,
    data: Path,
) -> dict[str, float]:
    """Runs a stage; `output` holds its checkpoints, curve, `best` and `model`.

    Args:
        recipe: the settings.
        objective: what is trained.
        dataset: training items.
        fixed: validation items.
        title: of the curve, whose measure is the loss in dB below 1.
        output: of the run.
        data: folder of the recordings.

    Returns:
        The last point of the curve.
    """
    judge = Judge(validator(fixed, recipe.validation_batch), "explained_db", title)
    model: Any = objective
    torch.manual_seed(recipe.seed)
    return run_training(model, recipe, dataset, CurveCallback(model, judge, recipe, output), output, data=data)


__all__ = [
    "GenerationRecipe", "Item", "Objective", "chosen_for_validation", "explained_db",
    "load_parts", "load_sounds", "read_recipe", "train_stage", "validator",
]  # fmt: skip
