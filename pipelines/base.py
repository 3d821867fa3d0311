# SPDX-License-Identifier: Apache-2.0
"""What any pipeline on recordings needs: saving and pushing, kinds of input, channels, checks and names of output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline, PreTrainedModel

from hubsep.adapters import load_adapter
from hubsep.errors import AudioError, CheckpointError
from hubsep.hub.arguments import check_device, check_saving
from hubsep.hub.cards import carry_card
from hubsep.hub.copies import is_named
from hubsep.hub.models import MAX_SHARD_SIZE, atomic_folder, check_folder, is_weights_of_model
from hubsep.hub.push import README, push_folder


class AudioPipeline(Pipeline):
    """Base of pipelines: a model in evaluation mode, with a processor if it takes more than waveforms.

    With `adapter`, a folder or repository, what a fine-tune changed is merged into the model.
    """

    _load_processor: bool | None = None
    _load_image_processor: bool | None = False
    _load_video_processor: bool | None = False
    _load_feature_extractor: bool | None = False
    _load_tokenizer: bool | None = False

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.pop("local_files_only", None)  # transformers.pipeline leaves it among the arguments of the class
        adapter = kwargs.pop("adapter", None)
        check_device(kwargs.get("device"))
        super().__init__(*args, **kwargs)
        if adapter is not None:
            load_adapter(self.model, adapter)
        self.model.eval()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, max_shard_size: int | str = MAX_SHARD_SIZE
    ) -> None:
        """Saves model and processor, both or nothing, so that `pipeline("audio-separation", model=...)` loads them.

        What else the folder holds stays. transformers' own method would leave out the processor, copy this source file
        into the folder and make the copy the way to load it.

        Args:
            save_directory: folder, made if missing.
            max_shard_size: of one weight file.

        Raises:
            CheckpointError: if the folder cannot be written, or loading would refuse it.
        """
        check_saving(save_directory, max_shard_size)
        with atomic_folder(save_directory, keep=lambda name: not is_weights_of_model(name)) as folder:
            PreTrainedModel.save_pretrained(self.model, folder, max_shard_size=max_shard_size)
            if self.processor is not None:
                self.processor.save_pretrained(folder)
            carry_card(folder, self.model.config.name_or_path)
            check_folder(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes model, processor and card in one commit; takes what `push_to_hub` of the model takes."""
        origin = self.model.config.name_or_path
        card = Path(origin) / README if origin else None
        return push_folder(
            repo_id, self.save_pretrained, fallback=card if card is not None and is_named(card) else None, **options
        )


def many(inputs: Any) -> Iterable[Any] | None:
    """The recordings of a list, dataset or generator; None if `inputs` is one recording.

    Raises:
        AudioError: if it is a table of `datasets`, whose rows are no recordings.
    """
    columns = getattr(inputs, "column_names", None)
    if isinstance(columns, list) and hasattr(inputs, "features"):
        raise AudioError(
            f"a dataset has rows, with {', '.join(map(str, columns)) or 'no columns'}; pass the column of the "
            'recordings, as in separate(dataset["audio"]), or (row["audio"] for row in dataset)'
        )
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
    check_finite(sources)


def check_finite(made: Tensor) -> None:
    """Refuses samples or latents that are not numbers.

    Raises:
        CheckpointError: if there is NaN or infinity among them.
    """
    if not torch.isfinite(made).all():
        raise CheckpointError(
            "the model returned NaN or infinite samples; load it with dtype=torch.float32, and if that does not help "
            "its weights are damaged"
        )


__all__ = ["AudioPipeline", "check_finite", "check_output", "from_rows", "many", "to_rows"]
