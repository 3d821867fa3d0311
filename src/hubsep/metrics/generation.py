# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated audio over any embedding: Frechet audio distance, KL divergence of classes, CLAP score.

An embedding is a function of a waveform and its rate, so the classifier or the tower behind it is the caller's choice:
a figure means something only beside its name, and never beside a figure of another one. All is double precision. The
Frechet distance takes the trace of a root of two covariances from singular values of the centred embeddings, which is
exact with fewer recordings than numbers in an embedding, where the usual matrix root of a singular product is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError


# a waveform (channels, samples) and its rate in Hz to embeddings (frames or 1, size)
Embedding = Callable[[Tensor, int], Tensor]

KL_FLOOR = 1e-6  # added to what the generated recording is taken for, as AudioLDM's evaluation does


def embed(waveforms: Iterable[Tensor], sampling_rate: int, embedding: Embedding) -> Tensor:
    """Embeds recordings one by one.

    Args:
        waveforms: (channels, samples) each.
        sampling_rate: of all of them, in Hz.
        embedding: gives one or several embeddings of a recording, (size,) or (frames, size).

    Returns:
        All of them one after the other, (count, size), float64 on the CPU.

    Raises:
        DataError: if there are no recordings, or an embedding has another rank.
    """
    rows = []
    with torch.no_grad():
        for waveform in waveforms:
            row = embedding(waveform, sampling_rate)
            if row.ndim not in (1, 2):
                raise DataError(f"an embedding must be (size,) or (frames, size), got {tuple(row.shape)}")
            rows.append(torch.atleast_2d(row).double().cpu())
    if not rows:
        raise DataError("there are no recordings to embed")
    return torch.cat(rows)


def frechet_distance(embeddings: Tensor, references: Tensor) -> float:
    """Squared Frechet distance of the normal distributions that two sets of embeddings have (1812.08466).

    It is biased upwards by about (traces of both covariances) / count: compare sets of the same size only. With fewer
    embeddings than numbers in one it is defined all the same, and the bias is large.

    Args:
        embeddings: of what was generated, (count, size), at least two.
        references: of real recordings, (count, size), at least two.

    Raises:
        DataError: if there are fewer, sizes differ, or there are NaN or infinities.
    """
    for name, rows in (("embeddings", embeddings), ("references", references)):
        _check_rows(name, rows)
    if embeddings.shape[1] != references.shape[1]:
        raise DataError(f"embeddings have {embeddings.shape[1]} numbers, references {references.shape[1]}")
    mean, root = _normal(embeddings)
    other_mean, other_root = _normal(references)
    # the trace of the root of a product of covariances A'A and B'B is the sum of the singular values of A B'
    shared = torch.linalg.svdvals(root @ other_root.T).sum()
    distance = (mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum() - 2 * shared
    return max(float(distance), 0.0)


def _check_rows(name: str, rows: Tensor) -> None:
    if rows.ndim != 2 or len(rows) < 2:
        raise DataError(f"{name} must be (count, size) with a count of 2 or more, got {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise DataError(f"{name} hold NaN or infinities")


def _normal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (size,), and A of at most `size` rows with A'A the unbiased covariance."""
    rows = rows.double().cpu()
    mean = rows.mean(dim=0)
    centred = (rows - mean) / (len(rows) - 1) ** 0.5
    return mean, torch.linalg.qr(centred, mode="r").R if len(rows) > rows.shape[1] else centred


def frechet_audio_distance(
    generated: Iterable[Tensor], references: Iterable[Tensor], sampling_rate: int, embedding: Embedding
) -> float:
    """`frechet_distance` of recordings, (channels, samples) each, all of one rate in Hz."""
    return frechet_distance(embed(generated, sampling_rate, embedding), embed(references, sampling_rate, embedding))


def class_divergence(logits: Tensor, references: Tensor, *, several_labels: bool = False) -> Tensor:
    """KL divergence of what a classifier takes each generated recording for from what it takes the real one for.

    As AudioLDM's evaluation computes it: the softmax of the real one's logits against that of the generated one's,
    with 1e-6 added to the latter; the published figure is the mean over the pairs.

    Args:
        logits: of the generated recordings, (count, classes).
        references: of the real recording of the same text each, (count, classes).
        several_labels: sigmoids in place of the softmax, summed over the classes (its "KL_Sigmoid", which leaves the
            classes' absence out and may be negative).

    Returns:
        One divergence a pair in nats, (count,), float64.

    Raises:
        DataError: if the shapes differ, or there are NaN or infinities.
    """
    if logits.ndim != 2 or logits.shape != references.shape:
        raise DataError(
            f"logits must be (count, classes) like those of the references, got {tuple(logits.shape)} and "
            f"{tuple(references.shape)}"
        )
    if not (logits.isfinite().all() and references.isfinite().all()):
        raise DataError("logits hold NaN or infinities")
    logits, references = logits.double(), references.double()
    estimate, target = (x.sigmoid() if several_labels else x.softmax(dim=1) for x in (logits, references))
    return (torch.xlogy(target, target) - target * (estimate + KL_FLOOR).log()).sum(dim=1)


def clap_score(audio_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """Cosine between each recording and its text in a joint space; publications give the mean, often in percent.

    Args:
        audio_embeddings: (count, size), of any length.
        text_embeddings: of the text of each recording, (count, size).

    Returns:
        In [-1, 1], (count,), float64.

    Raises:
        DataError: if the shapes differ, or an embedding is zero or not finite.
    """
    if audio_embeddings.ndim != 2 or audio_embeddings.shape != text_embeddings.shape:
        raise DataError(
            f"audio and text embeddings must be (count, size) alike, got {tuple(audio_embeddings.shape)} and "
            f"{tuple(text_embeddings.shape)}"
        )
    audio, text = audio_embeddings.double(), text_embeddings.double()
    lengths = audio.norm(dim=1) * text.norm(dim=1)
    if not (lengths.isfinite().all() and (lengths > 0).all()):
        raise DataError("an embedding is zero, or holds NaN or infinities: it has no direction")
    return ((audio * text).sum(dim=1) / lengths).clamp(-1, 1)


def audiomae_embedding(model: Any, extractor: Any) -> Embedding:
    """What an `AudioMAEModel` makes of a mono recording: the mean over the patches that it fills, (1, size).

    Args:
        model: the encoder.
        extractor: its `AudioMAEFeatureExtractor`; a longer recording than it takes is an error.
    """

    def of(waveform: Tensor, sampling_rate: int) -> Tensor:
        config = model.config
        features = extractor(waveform.mean(dim=0), sampling_rate, num_frames=config.num_frames)["input_features"]
        hidden = model(features.to(model.device)).last_hidden_state[0, 1:]
        frames = extractor.frames_of(waveform.shape[-1])
        filled = -(-frames // config.patch_size) * config.grid[1]
        return hidden[:filled].float().mean(dim=0, keepdim=True)

    return of


def clap_audio_embedding(model: Any, extractor: Any) -> Embedding:
    """What transformers' `ClapModel` makes of a mono recording at the rate of its feature extractor, (1, size)."""

    def of(waveform: Tensor, sampling_rate: int) -> Tensor:
        mono = waveform.mean(dim=0).cpu().numpy()
        inputs = extractor(mono, sampling_rate=sampling_rate, return_tensors="pt")
        return model.get_audio_features(**inputs.to(model.device)).pooler_output

    return of


def clap_text_embeddings(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """What transformers' `ClapModel` makes of texts, (count, size)."""
    with torch.no_grad():
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt").to(model.device)
        return model.get_text_features(**tokens).pooler_output


__all__ = [
    "Embedding",
    "audiomae_embedding",
    "clap_audio_embedding",
    "clap_score",
    "clap_text_embeddings",
    "class_divergence",
    "embed",
    "frechet_audio_distance",
    "frechet_distance",
]
