# SPDX-License-Identifier: Apache-2.0
"""`hubsep evaluate --dataset prompts`: asks a generator for every class of a folder, and hands the sounds to the ears.

The classes are those the classifier knows and of which the folder has recordings on both sides of the split that every
training run makes. The tower that `audiosep-small` finds sounds by is asked as well; what hubsep itself trains to make
sounds has it as its own text encoder, which is why its figures are called `own`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..audio.reader import resample, write_audio
from ..data.recordings import load_clips, split_clips
from ..errors import DataError
from ..metrics.generation import Embedding
from ..models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
from ..models.audiosep.processing_audiosep import AudioSepProcessor
from ..models.sound_classifier.modeling_sound_classifier import SoundClassifier
from ..plotting.evaluations import plot_confusion, plot_pairs
from ..shipped import DEFAULT_MODEL, SHIPPED
from ..training.generators.classifier import excerpts
from .report import Request
from .sounds import Ears, Sounds, evaluate_sounds, make_sounds, unseen_prompts


BATCH = 8
STEPS, GUIDANCE = 25, 3.5
COLUMNS = (
    "sounds", "accuracy", "accuracy_top3", "accuracy_unseen", "recordings", "accuracy_real", "accuracy_real_top3",
    "class_fad", "class_fad_training", "class_fad_others", "class_fad_noise", "kl", "kl_training", "kl_others",
    "own_clap", "own_clap_real", "level_db", "level_db_real", "rolloff_hz", "rolloff_hz_real",
)  # fmt: skip
TRAIN = "hubsep train classifier --config src/hubsep/training/recipes/classifier.yaml --data DATA --output FOLDER"


def run(request: Request) -> dict[str, Any]:
    """Generates, listens, prints the table, and writes pictures and sounds to `request.output`.

    Raises:
        DataError: if there is no classifier, or it and the folder have no class in common.
    """
    if request.classifier is None:
        raise DataError(f"generated sounds are judged by a classifier: make one with `{TRAIN}`, pass FOLDER/model")
    if request.seconds or request.all_recordings:
        raise DataError("prompts takes neither --seconds nor --all-recordings: sounds and split are the classifier's")
    classifier = SoundClassifier.from_pretrained(request.classifier).eval()
    folders = [request.data / name for name in request.folder or (".",)]
    names, heldout, training = recordings(folders, classifier.config, request.per_class)
    pipe = generator_of(request.source)
    settings = {
        "num_inference_steps": request.steps or STEPS,
        "guidance_scale": GUIDANCE if request.guidance is None else request.guidance,
    }
    prompts = [(name, number) for name in names for number in range(request.per_class)]
    unseen = unseen_prompts(names, request.per_class)
    waveforms = generate(pipe, [*prompts, *(p for _, p in unseen)], classifier.config, request.seed, settings)
    sounds = Sounds(
        names, classifier.config.sampling_rate, waveforms[: len(prompts)].unflatten(0, (len(names), -1)), heldout,
        training, waveforms[len(prompts) :] if unseen else None, torch.tensor([label for label, _ in unseen]),
    )  # fmt: skip
    result = evaluate_sounds(sounds, ears_of(classifier), seed=request.seed)
    result["measured_on"] = measured_on(result, classifier.config, settings)
    print(format_table(result))
    if request.output is not None:
        write_output(request.output, sounds, result)
    return result


def recordings(folders: Sequence[Path], config: Any, most: int) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """Names of the classes, and at most so many excerpts of held-out and of training recordings of each.

    Raises:
        DataError: if the classifier knows no class that has both.
    """
    clips = load_clips(folders, config.sampling_rate, commercial_only=True)
    training, heldout = split_clips([clip for clip in clips if clip.samples.any()])
    class_names = list(config.class_names)
    shared = [{clip.labels[-1] for clip in part} for part in (training, heldout)]
    names = [name for name in class_names if name in shared[0] & shared[1]]
    if not names:
        raise DataError(
            f"the classifier knows {', '.join(class_names[:5])}, ...; none of these is held out of {folders[0]}"
        )
    groups = []
    for part in (heldout, training):
        waveforms, labels = excerpts(part, config, most)
        groups.append([waveforms[labels == class_names.index(name)] for name in names])
    return names, groups[0], groups[1]


def generator_of(source: str) -> Any:
    """The pipeline, on the first accelerator if there is one, without bars of its own."""
    from ..pipelines.audioldm2.loading.devices import first_device
    from ..pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    pipe = AudioLDM2Pipeline.from_pretrained(source).to(first_device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: Any, prompts: Sequence[tuple[str, int]], config: Any, seed: int, settings: dict[str, Any]
) -> Tensor:
    """Sounds of the prompts at the classifier's rate, as long as its excerpts: (count, samples)."""
    seconds, parts = config.samples / config.sampling_rate, []
    with tqdm(total=len(prompts), desc="sounds") as bar:
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            waveforms = make_sounds(pipe, part, seconds, seed, **settings)
            if pipe.sampling_rate != config.sampling_rate:
                waveforms = torch.from_numpy(resample(waveforms.numpy(), pipe.sampling_rate, config.sampling_rate))
            parts.append(waveforms[:, : config.samples])
            bar.update(len(part))
    return torch.cat(parts)


def ears_of(classifier: Any) -> Ears:
    """The classifier, and both towers of the shipped model."""
    folder = SHIPPED[DEFAULT_MODEL]
    tower, processor = AudioSepForAudioSeparation.from_pretrained(folder), AudioSepProcessor.from_pretrained(folder)
    tower.eval()

    def classify(waveforms: Tensor) -> tuple[Tensor, Tensor]:
        heard = classifier.hear(waveforms)
        return heard.logits, heard.embeddings

    @torch.no_grad()
    def text(texts: Sequence[str]) -> Tensor:
        tokens = processor(text=list(texts))
        return tower.encode_text(tokens["input_ids"], tokens["attention_mask"])

    return Ears(classify, list(classifier.config.class_names), tower_embedding(tower, processor), text)


def tower_embedding(model: Any, processor: Any) -> Embedding:
    """What an AudioSep's audio tower makes of a mono recording, (1, size), of unit length."""

    def of(waveform: Tensor, sampling_rate: int) -> Tensor:
        inputs = processor(audio=waveform.mean(dim=0).numpy(), sampling_rate=sampling_rate)
        return model.encode_audio(inputs["input_features"])

    return of


def measured_on(result: dict[str, Any], config: Any, settings: dict[str, Any]) -> str:
    """What the figures are of."""
    each = result["sounds"] // len(result["classes"])
    return (
        f"{each} sounds of {config.samples / config.sampling_rate:g} s for each of {len(result['classes'])} classes, "
        f"of its name as the prompt, {settings['num_inference_steps']} steps, guidance "
        f"{settings['guidance_scale']:g}, none chosen; and as many in words no training saw. They are named by a "
        f"classifier of {len(config.class_names)} classes that was trained on real recordings alone and shares no "
        f"weights with the model; guessing is right {result['chance']:.1%} of the time. Beside it stands how often "
        f"it is right on {result['recordings']} recordings, of sources and speakers that neither it nor the model has "
        "heard."
    )


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a class and one of the means, and what is measured of all together."""
    shown = [name for name in COLUMNS if name in result]
    width = max(len(label) for label in result["classes"]) + 2
    lines = [" " * width + "  ".join(shown)]
    for label, row in [*result["classes"].items(), ("all", result)]:
        lines.append(f"{label:<{width}}" + "  ".join(f"{row.get(name, float('nan')):>{len(name)}}" for name in shown))
    pooled = [f"{name} {value}" for name, value in result.items() if name.startswith(("fad", "own_fad"))]
    low, high = result["accuracy_ci"]
    lines.append(f"accuracy {result['accuracy']} ({low} to {high}), chance {result['chance']}; " + ", ".join(pooled))
    return "\n".join(lines)


def write_output(folder: Path, sounds: Sounds, result: dict[str, Any]) -> None:
    """Spectrograms, confusions, and the first sound of every class."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {name: (sounds.made[n, 0], sounds.heldout[n][0]) for n, name in enumerate(sounds.names)}
    plot_pairs(pairs, sounds.sampling_rate, folder / "spectrograms.png")
    plot_confusion(result["confusion"], folder / "confusion.png")
    for name, (waveform, _) in pairs.items():
        write_audio(folder / f"{name.replace(' ', '_')}.wav", waveform.numpy()[None], sounds.sampling_rate)


__all__ = ["ears_of", "format_table", "generate", "recordings", "run", "tower_embedding"]
