# SPDX-License-Identifier: Apache-2.0
"""What can be done with a Meta-TasNet because its weights are generated: write them out, or add an instrument.

An instrument is nothing but a point in each stage's space of embeddings. A new one can be put between those that were
learnt, or found by descent from a few examples while everything else stays as it is. Both are ours, not the paper's:
there is no promise that what lies between drums and bass is an instrument. As masks add up to one over the
instruments, a new one takes from what the others get.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import AudioError, QueryError
from ...hub.bounds import shown
from ...modeling import check_waveform
from .configuration_meta_tasnet import LOWER_LIMIT, MetaTasNetConfig
from .layers_meta_tasnet import InstrumentLayer
from .losses_meta_tasnet import si_sdr


if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
    from typing_extensions import Self
else:
    _Model = object

SHARES_TOLERANCE = 1e-6


class InstrumentsMixin(_Model):
    """What a Meta-TasNet can do because its weights are generated."""

    config: MetaTasNetConfig
    stages: nn.ModuleList

    if TYPE_CHECKING:

        def prepare(self, waveform: Tensor) -> list[Tensor]:
            """Waveforms (batch, samples) at the rate of each stage."""

    @torch.no_grad()
    def materialised(self) -> Self:
        """A copy whose instruments have weights of their own, the ones that this model generates.

        Raises:
            QueryError: if the model generates nothing.
        """
        self._check_generated()
        config = copy.deepcopy(self.config)
        config.generated = False
        state = self.state_dict()
        for index, stage in enumerate(self._stages()):
            del state[f"stages.{index}.embedding"]
            for name, layer in stage.named_modules(prefix=f"stages.{index}"):
                if isinstance(layer, InstrumentLayer):
                    state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
                    dtype = layer.bottleneck.weight.dtype
                    for part, tensor in layer(stage.embedding).items():
                        state[f"{name}.tensors.{part}"] = tensor.to(dtype)
        return self._built(config, state)

    @torch.no_grad()
    def with_instrument(self, name: str, shares: Mapping[str, float]) -> Self:
        """A copy with one more instrument, the last, whose embeddings are a weighted mean of learnt ones.

        Args:
            name: of the new instrument.
            shares: weights of the instruments it lies between, by name; they add up to 1. Negative ones lead beyond.

        Raises:
            QueryError: if the shares are wrong, or the model generates nothing.
            CheckpointError: if the name is no name, or is taken.
        """
        self._check_generated()
        names = self.config.source_names
        for instrument, share in shares.items():
            if instrument not in names:
                raise QueryError(f"there is no instrument {shown(instrument)}; there are {', '.join(names)}")
            if not isinstance(share, int | float) or not math.isfinite(share):
                raise QueryError(f"the share of {shown(instrument)} is {shown(share)}; it must be a finite number")
        if abs(sum(shares.values()) - 1) > SHARES_TOLERANCE:
            raise QueryError(f"the shares add up to {sum(shares.values()):g}; they must add up to 1")
        config = copy.deepcopy(self.config)
        config.instruments = [*names, name]
        config.check_fields()
        state = self.state_dict()
        for index, stage in enumerate(self._stages()):
            embedding = stage.embedding
            weights = torch.tensor([shares.get(each, 0.0) for each in names], device=embedding.device)
            row = (weights @ embedding.float()).to(embedding.dtype)
            state[f"stages.{index}.embedding"] = torch.cat([embedding, row[None]])
        return self._built(config, state)

    def fit_instrument(
        self,
        name: str,
        mixtures: Tensor,
        targets: Tensor,
        *,
        shares: Mapping[str, float] | None = None,
        steps: int = 100,
        learning_rate: float = 0.05,
    ) -> tuple[Self, list[float]]:
        """A copy with one more instrument, the last, whose embeddings are fitted to examples; nothing else changes.

        These are `num_stages * embedding_size` numbers, found with Adam on the ratio of every stage in dB.

        Args:
            name: of the new instrument.
            mixtures: (batch, 1, samples).
            targets: the new instrument in each mixture, (batch, 1, samples).
            shares: where the search begins, as for `with_instrument`; without, in the middle of all instruments.
            steps: of the search; the best point is kept.
            learning_rate: of the search.

        Returns:
            The copy, in evaluation mode, and the loss before each step and after the last, in dB.

        Raises:
            AudioError: if mixtures or targets have the wrong shape.
            QueryError: if the shares are wrong, or the model generates nothing.
        """
        self._check_generated()
        if targets.shape != mixtures.shape:
            raise AudioError(
                f"targets are {tuple(targets.shape)}, the mixtures {tuple(mixtures.shape)}; they must match"
            )
        check_waveform(self.config, mixtures, lower=LOWER_LIMIT)
        names = self.config.source_names
        fitted = self.with_instrument(name, dict.fromkeys(names, 1 / len(names)) if shares is None else shares)
        with torch.no_grad():
            waveforms, wanted = fitted.prepare(mixtures[:, 0]), fitted.prepare(targets[:, 0])
        trained = {parameter: parameter.requires_grad for parameter in fitted.parameters()}
        for parameter in trained:
            parameter.requires_grad_(False)
        rows, losses = _descend(fitted, waveforms, wanted, steps, learning_rate)
        with torch.no_grad():
            for stage, row in zip(fitted._stages(), rows, strict=True):
                stage.embedding[-1:] = row
        for parameter, needed in trained.items():
            parameter.requires_grad_(needed)
        return fitted, losses

    def _stages(self) -> list[Any]:
        return list(self.stages)

    def _check_generated(self) -> None:
        if not self.config.generated:
            raise QueryError("this model has weights of its own for each instrument, and no embeddings to work with")

    def _built(self, config: MetaTasNetConfig, state: dict[str, Tensor]) -> Self:
        with torch.device("meta"):
            built = type(self)(config)
        built.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
        return built.eval()


def _descend(
    model: InstrumentsMixin,
    mixtures: list[Tensor],
    targets: list[Tensor],
    steps: int,
    learning_rate: float,
) -> tuple[list[Tensor], list[float]]:
    """The best embeddings of the last instrument, (1, embedding_size) a stage, and the loss on the way."""
    learnt = [stage.embedding for stage in model._stages()]
    rows = [nn.Parameter(embedding[-1:].clone()) for embedding in learnt]
    optimizer = torch.optim.Adam(rows, lr=learning_rate)
    best = [row.detach().clone() for row in rows]
    losses: list[float] = []
    for step in range(steps + 1):
        with torch.enable_grad():
            embeddings = [torch.cat([old[:-1], row]) for old, row in zip(learnt, rows, strict=True)]
            loss = _loss_of_last(model, embeddings, mixtures, targets)
        losses.append(loss.item())
        if losses[-1] <= min(losses):
            best = [row.detach().clone() for row in rows]
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return best, losses


def _loss_of_last(
    model: InstrumentsMixin, embeddings: list[Tensor], mixtures: list[Tensor], targets: list[Tensor]
) -> Tensor:
    """Minus the ratio of the last instrument, mean over stages, as a function of the embeddings."""
    hidden, ratios = None, []
    for stage, embedding, mixture, target in zip(model._stages(), embeddings, mixtures, targets, strict=True):
        hidden = stage.masker(stage.encoder(mixture), hidden, embedding)
        ratios.append(si_sdr(stage.decoder(hidden[-1])[None], target[None]))
    return -torch.cat(ratios).mean()


__all__ = ["InstrumentsMixin"]
