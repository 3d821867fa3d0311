# SPDX-License-Identifier: Apache-2.0
"""What a pipeline does around the model: one recording's way there and back, channels, kinds of input, file names.

A recording keeps its rate, channels and length. Reading runs ahead of the model, so the mixture waits here until its
sources arrive; what waits is at most a batch of segments. The residual is taken from the float32 sources that are
handed out, so that all of them add up to the mixture.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from hubsep.audio import StreamResampler, open_audio
from hubsep.errors import AudioError, CheckpointError


Waveform = NDArray[np.float32]

# Zeros that follow the sources into the resampler, to be cut off again: rates that do not divide each other lose up to
# one sample on the way to the model and one on the way back.
_MARGIN = 64


class Track:
    """The state of one recording in one call.

    Args:
        source: anything `open_audio` reads.
        model_rate: sampling rate of the model in Hz.
        num_sources: sources the model returns.
        residual: whether the residual follows as one more source.
        sampling_rate: of a bare array, in Hz.
        on_short: "raise" or "warn" when a file holds less than it claims.
    """

    def __init__(
        self,
        source: Any,
        model_rate: int,
        num_sources: int,
        *,
        residual: bool,
        sampling_rate: int | None = None,
        on_short: str = "raise",
    ):
        self.reader = open_audio(source, sampling_rate=sampling_rate, on_short=on_short)
        self.sampling_rate: int = self.reader.sampling_rate
        self.channels: int = self.reader.channels
        self.total_samples: int | None = self.reader.claimed_samples
        self.done_samples = 0
        self.model_rate = model_rate
        self.num_sources = num_sources
        self.residual = residual
        self._waiting: deque[Waveform] = deque()
        self._backward = StreamResampler(model_rate, self.sampling_rate, num_sources * self.channels)
        self._ahead = np.zeros((num_sources, self.channels, 0), np.float32)
        self._energies = np.zeros(num_sources + residual)
        self._mixture_energy = 0.0
        self._presence: Tensor | None = None

    def blocks(self) -> Iterator[Tensor]:
        """The mixture at the model's rate, (channels, samples) each, and at least one sample of it."""
        forward = StreamResampler(self.sampling_rate, self.model_rate, self.channels)
        empty = True
        with self.reader as reader:
            for block in reader.blocks():
                self._waiting.append(block)
                resampled = forward.push(block)
                empty = empty and resampled.shape[1] == 0
                yield torch.from_numpy(resampled)
        resampled = forward.finish()
        if empty and resampled.shape[1] == 0:
            resampled = np.zeros((self.channels, 1), np.float32)
        yield torch.from_numpy(resampled)

    def restore(self, sources: Tensor, presence: Tensor | None, *, last: bool) -> Waveform:
        """Brings a block of sources back to the recording's rate and adds the residual.

        Args:
            sources: (num_sources, channels, samples) at the model's rate.
            presence: logits that each source is in this segment, (num_sources,), of models that say so.
            last: whether these are the last samples; then the total is exactly the recording's.

        Returns:
            (num_sources, channels, samples), with the residual one source more.
        """
        flat = sources.reshape(-1, sources.shape[-1]).numpy()
        parts = [self._ahead, self._unflat(self._backward.push(flat))]
        if last:
            margin = np.zeros((flat.shape[0], _MARGIN), np.float32)
            parts += [self._unflat(self._backward.push(margin)), self._unflat(self._backward.finish())]
        restored = np.concatenate(parts, axis=-1)
        mixture = self._mixture(None if last else restored.shape[-1])
        samples = mixture.shape[-1]
        restored, self._ahead = restored[..., :samples], restored[..., samples:].copy()
        if self.residual:
            rest = mixture - restored.sum(axis=0, dtype=np.float64)
            restored = np.concatenate([restored, rest[None].astype(np.float32)])
        self._measure(mixture, restored, presence)
        return restored

    def scores(self) -> list[float]:
        """For each source, from 0 to 1, whether it is there at all.

        What the model says about its most certain segment, if it has a presence head. Otherwise, and always for the
        residual, the source's share of the mixture's energy.
        """
        shares = np.clip(self._energies / (self._mixture_energy or 1.0), 0.0, 1.0).tolist()
        if self._presence is None:
            return shares
        return torch.sigmoid(self._presence).tolist() + shares[self.num_sources :]

    def _unflat(self, flat: Waveform) -> Waveform:
        return flat.reshape(self.num_sources, self.channels, flat.shape[-1])

    def _mixture(self, samples: int | None) -> Waveform:
        """Takes at most `samples` of what waits, or all of it."""
        taken: list[Waveform] = [np.zeros((self.channels, 0), np.float32)]
        missing = samples
        while self._waiting and missing != 0:
            block = self._waiting.popleft()
            if missing is not None:
                if block.shape[1] > missing:
                    self._waiting.appendleft(block[:, missing:])
                    block = block[:, :missing]
                missing -= block.shape[1]
            taken.append(block)
        return np.concatenate(taken, axis=1)

    def _measure(self, mixture: Waveform, sources: Waveform, presence: Tensor | None) -> None:
        self.done_samples += mixture.shape[-1]
        self._mixture_energy += float(np.square(mixture, dtype=np.float64).sum())
        self._energies += np.square(sources, dtype=np.float64).sum(axis=(1, 2))
        if presence is not None:
            self._presence = presence if self._presence is None else torch.maximum(self._presence, presence)


def join(blocks: deque[Waveform]) -> list[Waveform]:
    """Empties blocks (num_sources, channels, n) into one array (channels, samples) a source.

    The blocks are freed while the arrays fill, so the peak is the result and not twice the result.
    """
    num_sources, channels, _ = blocks[0].shape
    samples = sum(block.shape[-1] for block in blocks)
    joined = [np.empty((channels, samples), np.float32) for _ in range(num_sources)]
    start = 0
    while blocks:
        block = blocks.popleft()
        for waveform, part in zip(joined, block, strict=True):
            waveform[:, start : start + part.shape[1]] = part
        start += block.shape[-1]
    return joined


def many(inputs: Any) -> Iterable[Any] | None:
    """The recordings of a list, dataset or generator; None if `inputs` is one recording."""
    if isinstance(inputs, str | bytes | bytearray | memoryview | Mapping) or hasattr(inputs, "read"):
        return None
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        return (inputs[index] for index in range(len(inputs)))  # type: ignore[arg-type]
    return inputs if isinstance(inputs, Sequence | Iterator | IterableDataset) else None


def to_rows(mixture: Tensor, model_channels: int) -> Tensor:
    """Lays a batch of mixtures (batch, channels, samples) out for a model: (rows, model_channels, samples).

    A mono model gets every channel as a row. A model with more channels gets recordings with as many; a mono recording
    is given to each of its channels.

    Raises:
        AudioError: if the recording has another number of channels.
    """
    channels = mixture.shape[1]
    if model_channels == 1:
        return mixture.reshape(-1, 1, mixture.shape[-1])
    if channels not in (1, model_channels):
        raise AudioError(f"this model separates recordings with 1 or {model_channels} channels, got {channels}")
    return mixture.expand(-1, model_channels, -1)


def from_rows(sources: Tensor, batch: int, channels: int) -> Tensor:
    """Undoes `to_rows` on sources (rows, num_sources, model_channels, samples).

    The result is (batch, num_sources, channels, samples). A mono recording gets the mean of the channels of a model
    that has several.
    """
    if sources.shape[2] == 1:
        return sources.unflatten(0, (batch, channels)).squeeze(3).transpose(1, 2)
    return sources if sources.shape[2] == channels else sources.mean(dim=2, keepdim=True)


def check_output(sources: Tensor, shape: tuple[int, ...]) -> None:
    """Refuses what no pipeline may hand out.

    Raises:
        CheckpointError: if the sources have another shape than the configuration says, or hold NaN or infinity.
    """
    if tuple(sources.shape) != shape:
        raise CheckpointError(f"the model returned sources of shape {tuple(sources.shape)}, expected {shape}")
    if not torch.isfinite(sources).all():
        raise CheckpointError(
            "the model returned NaN or infinite samples; load it with dtype=torch.float32, and if that does not help "
            "its weights are damaged"
        )


def output_paths(
    source: Any, name: str, labels: Sequence[str], output: str | Path | Mapping[str, str | Path], template: str
) -> list[Path]:
    """Where the sources of a recording are written, in the order of `labels`.

    Args:
        source: the recording; none of the paths may be it.
        name: of the recording, for the template.
        labels: of the sources.
        output: folder, or a dict of labels and paths.
        template: file name with {name} and {label}.

    Raises:
        AudioError: if a label has no path, two have the same, or a path is the recording itself.
    """
    if isinstance(output, Mapping):
        if set(output) != set(labels):
            raise AudioError(f"output must have a path for each of {', '.join(labels)}; got {', '.join(output)}")
        paths = [Path(output[label]) for label in labels]
    else:
        try:
            names = [template.format(name=file_name(name), label=file_name(label)) for label in labels]
        except (KeyError, IndexError) as error:
            raise AudioError(f"the template may hold {{name}} and {{label}}, got {template!r}") from error
        paths = [Path(output) / name for name in names]
    if len({path.resolve() for path in paths}) < len(paths):
        raise AudioError(f"two sources would be written to one file: {', '.join(map(str, paths))}; name them apart")
    origin = Path(source).resolve() if isinstance(source, str | Path) else None
    if origin in [path.resolve() for path in paths]:
        raise AudioError(f"{origin} is the recording itself; write its sources somewhere else")
    return paths


def file_name(label: str) -> str:
    """A label as part of a file name: letters, digits and hyphens stay, everything else is an underscore."""
    return re.sub(r"[^\w-]+", "_", label.strip())[:100]


__all__ = ["Track", "Waveform", "check_output", "file_name", "from_rows", "join", "many", "output_paths", "to_rows"]
