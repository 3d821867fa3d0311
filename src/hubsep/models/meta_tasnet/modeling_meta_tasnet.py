# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet (2002.07016): the instruments of a song, in stages of doubling sampling rate.

Each stage has a filterbank of its own and masks of its latents for every instrument. The masked latents, not the
waveforms, go on to the next stage, where they say what happens in lower frequencies; the last stage's waveforms are
the result. Decisions:

- The model takes the mixture at its own rate and makes the lower ones from it, with the filter of the published
  evaluation; the original takes a list of waveforms. `separate_stages` does as well.
- Waveforms are padded with zeros to whole frames of the first stage, and the sources cut back; the original drops the
  rest. Long recordings are worked through in the pipeline's overlapping segments, which replace the original's chunks
  and, like those, each have statistics of their own: the norms of the network, and the level the input is brought to.
- Mono, as the original: the pipeline separates the channels of a recording one by one.
- `materialised()` gives the same model with the generated weights written out, which are fewer numbers.

Also here: levels of a recording that is longer than what the model sees at once, from sums over its pieces.

The published evaluation divides a whole recording by its standard deviation, at every rate, and fits one gain for each
source to all of it. Both need sums alone: of samples and their squares, and of products of sources and mixture. They
are float64, because they run over hours.

What it learns from (section 3.4): sources that fit, a latent space from which the mixture can be put together again,
and in that space different instruments far from each other and one close to itself in another song. A source that is
silent in an item of the batch does not count there; `presence` says which do. Everything is float32.

What can be done because weights are generated: an instrument is nothing but a point in each stage's space of
embeddings. A new one can be put between those that were learnt, or found by descent from a few examples while
everything else stays as it is. Both are ours, not the paper's: there is no promise that what lies between drums and
bass is an instrument. As masks add up to one over the instruments, a new one takes from what the others get.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...errors import AudioError, QueryError
from ...hub.bounds import is_number, shown
from ...hub.models import HubsepModelMixin
from ...layers import touched
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_meta_tasnet import LOWER_LIMIT, MetaTasNetConfig
from .layers_meta_tasnet import (
    InstrumentHead,
    InstrumentLayer,
    InstrumentTensors,
    MetaTasNetDecoder,
    MetaTasNetEncoder,
    MetaTasNetFilters,
    MetaTasNetSpectrogram,
    decimate,
)
from .masker_meta_tasnet import MetaTasNetMasker
from .products_meta_tasnet import overwrites


if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
    from typing_extensions import Self
else:
    _Model = object

LOSS_EPSILON = 1e-8
SHARES_TOLERANCE = 1e-6
Statistics = dict[str, Tensor]


def add_levels(statistics: Mapping[str, Tensor] | None, waveforms: Sequence[Tensor]) -> Statistics:
    """Takes one more piece into account.

    Args:
        statistics: of the pieces before.
        waveforms: one a stage, (rows, samples).

    Returns:
        `counts`, `sums` and `squares`, (rows, stages).
    """
    stages = [waveform.double() for waveform in waveforms]
    piece_statistics = {
        "counts": torch.stack([torch.full_like(wave[:, 0], wave.shape[-1]) for wave in stages], dim=1),
        "sums": torch.stack([wave.sum(dim=-1) for wave in stages], dim=1),
        "squares": torch.stack([wave.square().sum(dim=-1) for wave in stages], dim=1),
    }
    return _added(statistics, piece_statistics)


def whole_level(statistics: Mapping[str, Tensor], stage: int) -> tuple[Tensor, Tensor]:
    """Root mean square and standard deviation of the recordings at the rate of a stage, (rows, 1) both, float32."""
    count, total, squares = (statistics[name][:, stage, None] for name in ("counts", "sums", "squares"))
    variance = (squares - total.square() / count) / (count - 1).clamp_min(1)
    return (squares / count).sqrt().float(), variance.clamp_min(0).sqrt().float()


def add_products(statistics: Mapping[str, Tensor] | None, mixture: Tensor, sources: Tensor) -> Statistics:
    """Takes the sources (rows, num_sources, samples) of one more piece of a mixture (rows, samples) into account.

    Returns:
        What there was, with `products` (rows, num_sources, num_sources) and `wanted` (rows, num_sources, 1).
    """
    flat, whole = sources.double(), mixture.double()
    return _added(statistics, {"products": flat @ flat.mT, "wanted": flat @ whole.unsqueeze(-1)})


def gains_from(products: Tensor, wanted: Tensor) -> Tensor:
    """Least-squares gains (rows, num_sources), float32; the smallest ones where several fit as well.

    They are NaN where the sources are, for the caller to see; a decomposition would fail.
    """
    if not products.isfinite().all():
        return torch.full_like(wanted[..., 0], torch.nan).float()
    inverse = torch.linalg.pinv(products, hermitian=True, rtol=1e-12)
    return (inverse @ wanted).squeeze(-1).float()


def _added(statistics: Mapping[str, Tensor] | None, piece_statistics: Statistics) -> Statistics:
    before = dict(statistics or {})
    return {
        **before,
        **{name: before[name] + value if name in before else value for name, value in piece_statistics.items()},
    }


SPREAD = 0.1  # of what instruments differ in at the start, in norms and biases
CONSTANT = 1e-3  # deviation of a waveform over its root mean square, below which it does not vary


class StageOutput(NamedTuple):
    """What a stage makes of a mixture.

    Attributes:
        latents: of the mixture, (batch, frames, num_filters).
        hidden: of the sources, which the next stage reads, (num_sources, batch, frames, num_filters).
        sources: (num_sources, batch, samples), float32; no samples if they were not asked for.
    """

    latents: Tensor
    hidden: Tensor
    sources: Tensor


# modules whose weights are read where maps are overwritten
SLOPES: dict[str, tuple[type, ...]] = dict.fromkeys((f"activation{number}" for number in range(1, 5)), (nn.PReLU,))


def si_sdr(estimates: Tensor, sources: Tensor, presence: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of each instrument in dB, without removal of the mean.

    Args:
        estimates: (num_sources, batch, samples).
        sources: of the same shape.
        presence: (num_sources, batch), 1 where a source counts; without, all do.

    Returns:
        Means over the batch, (num_sources,).
    """
    estimates, sources = estimates.float(), sources.float()
    product, energy = (sources * estimates).sum(dim=-1), sources.square().sum(dim=-1)
    target = (product / (energy + LOSS_EPSILON)).unsqueeze(-1) * sources
    fitting = target.square().sum(dim=-1).clamp_min(LOSS_EPSILON).log10()
    ratio = 10 * (fitting - (estimates - target).square().sum(dim=-1).clamp_min(LOSS_EPSILON).log10())
    if presence is None:
        return ratio.mean(dim=-1)
    return (ratio * presence).sum(dim=-1) / presence.sum(dim=-1).clamp_min(LOSS_EPSILON)


def dissimilarity(latents: Tensor, presence: Tensor) -> Tensor:
    """How alike different instruments of the same song are: the mean cosine of their absolute latents, 0 to 1.

    Args:
        latents: of the single sources, (num_sources, batch, frames, num_filters), zeros where one is silent.
        presence: (num_sources, batch).
    """
    total, count = latents.new_zeros(latents.shape[2]), presence.new_zeros(())
    for one, other in combinations(range(len(latents)), 2):
        total = total + F.cosine_similarity(latents[one].abs(), latents[other].abs(), dim=-1).sum(dim=0)
        count = count + (presence[one] * presence[other]).sum()
    return (total / (count + LOSS_EPSILON)).mean()


def similarity(latents: Tensor, presence: Tensor) -> Tensor:
    """How alike one instrument is in neighbouring items of the batch: the mean cosine, frame by frame, -1 to 1.

    Arguments as for `dissimilarity`.
    """
    cosine = F.cosine_similarity(latents, latents.roll(1, dims=1), dim=-1)
    count = (presence * presence.roll(1, dims=1)).sum()
    return (cosine.sum(dim=(0, 1)) / count.clamp_min(LOSS_EPSILON)).mean()


def stage_statistics(
    estimates: Tensor,
    sources: Tensor,
    reconstruction: Tensor,
    mixture: Tensor,
    latents: Tensor,
) -> Tensor:
    """What the loss of a stage is made of.

    Args:
        estimates: (num_sources, batch, samples).
        sources: of the same shape.
        reconstruction: of the mixture, from its latents without a mask, (batch, samples).
        mixture: (batch, samples).
        latents: of the single sources, (num_sources, batch, frames, num_filters).

    Returns:
        Ratio of each source and of the reconstruction in dB, dissimilarity, similarity: (num_sources + 3,).
    """
    presence = (sources != 0).any(dim=-1).float()
    latents = latents.float() * presence[..., None, None]
    return torch.cat(
        [
            si_sdr(estimates, sources, presence),
            si_sdr(reconstruction[None], mixture[None]),
            dissimilarity(latents, presence)[None],
            similarity(latents, presence)[None],
        ]
    )


def weighted_loss(statistics: Tensor, reconstruction: float, dissimilarity: float, similarity: float) -> Tensor:
    """The loss of a stage from its `stage_statistics` and the weights of what is not a source."""
    ratio, unlike, alike = statistics[-3:]
    return dissimilarity * unlike - similarity * alike - reconstruction * ratio - statistics[:-3].sum()


class MetaTasNetStage(nn.Module):
    """The network of one sampling rate. Source: 2002.07016, figure 1."""

    def __init__(self, config: MetaTasNetConfig, stage: int):
        super().__init__()
        size = (config.num_sources, config.embedding_size)
        self.embedding = nn.Parameter(torch.empty(size)) if config.generated else None
        self.encoder = MetaTasNetEncoder(config, stage)
        self.masker = MetaTasNetMasker(config, stage)
        self.decoder = MetaTasNetDecoder(config, stage)

    def forward(self, waveform: Tensor, hidden: Tensor | None = None, decodes: bool = True) -> StageOutput:
        """waveform: (batch, samples), a whole number of strides; hidden: of the stage before."""
        latents = self.encoder(waveform)
        masked = self.masker(latents, hidden, self.embedding)
        if not decodes:
            sources = waveform.new_empty(*masked.shape[:2], 0)
        elif overwrites(latents):  # one instrument after the other: less memory
            sources = torch.stack([self.decoder(each) for each in masked])
        else:
            sources = self.decoder(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])
        return StageOutput(latents, masked, sources)


class MetaTasNetPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by Meta-TasNet models."""

    config: MetaTasNetConfig
    config_class = MetaTasNetConfig
    base_model_prefix = "meta_tasnet"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["MetaTasNetStage"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Uniform within one over the root of the number of inputs, for generated weights too; norms do nothing.

        Only modules with parameters right in them are asked: transformers passes over others that are not its own.
        """
        if isinstance(module, InstrumentHead):
            bound = module.shape[-1] ** -0.5 if module.name == "kernel" else SPREAD
            init.uniform_(module.weight, -bound, bound)
            _init_tensor(module.name, module.bias, module.shape)
        elif isinstance(module, InstrumentTensors):
            for name, tensor in module.items():
                _init_tensor(name, tensor, tensor.shape[1:])
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, MetaTasNetSpectrogram):
            for tensor, value in ((module.mean, 0.0), (module.std, 1.0), (module.scale, 1.0), (module.shift, 0.0)):
                init.constant_(tensor, value)
        elif isinstance(module, MetaTasNetFilters):
            for kernel in module:
                bound = (module.inputs or kernel.shape[1]) ** -0.5
                init.uniform_(kernel, -bound, bound)
        elif isinstance(module, MetaTasNetStage) and module.embedding is not None:
            init.normal_(module.embedding)


def _init_tensor(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """The tensor of a layer for every instrument, or, flat, what a head makes for an embedding of zeros."""
    if name == "kernel":
        init.uniform_(tensor, -(shape[-1] ** -0.5), shape[-1] ** -0.5)
        return
    start = torch.zeros(*shape)
    if name == "affine":
        start[0] = 1
    init.copy_(tensor, start.flatten() if tensor.ndim == 1 else start.expand_as(tensor))


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
            if not is_number(share):
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


class MetaTasNetForAudioSeparation(InstrumentsMixin, MetaTasNetPreTrainedModel):
    """Separates the instruments of a song. Source: 2002.07016."""

    def __init__(self, config: MetaTasNetConfig):
        super().__init__(config)
        self.stages = nn.ModuleList(MetaTasNetStage(config, stage) for stage in range(config.num_stages))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        labels: Tensor | None = None,
        statistics: Mapping[str, Tensor] | None = None,
        **kwargs: object,
    ) -> AudioSeparationOutput:
        """Separates every mixture.

        Args:
            input_values: mixtures, (batch, 1, samples), at least `config.minimum_samples` long.
            labels: target waveforms (batch, num_sources, 1, samples), in the order of `config.instruments`; all zeros
                where one is silent.
            statistics: what `surveys` found in the recordings that these mixtures are parts of, for their levels;
                without, levels are those of the mixtures themselves.

        Returns:
            AudioSeparationOutput: `sources` (batch, num_sources, 1, samples), float32, and `loss` with labels, which
            is summed over the stages. Without `config.rescale` the level of the sources is whatever the
            scale-invariant loss left it at.

        Raises:
            AudioError: if the waveform has another rank or channel count, or is too short.
        """
        check_keywords(self, kwargs)
        check_waveform(self.config, input_values, lower=LOWER_LIMIT)
        samples = input_values.shape[-1]
        waveforms = self._rates(input_values[:, 0].float())
        levels = [self._level(waveform, stage, statistics) for stage, waveform in enumerate(waveforms)]
        mixtures = self._frames([wave / level for wave, (level, _) in zip(waveforms, levels, strict=True)], samples)
        outputs = self.separate_stages(mixtures, only_last=labels is None)
        loss = None
        if labels is not None:
            rates = self._rates(labels[:, :, 0].float().transpose(0, 1))
            targets = [rate / level for rate, (level, _) in zip(rates, levels, strict=True)]
            loss = self.stage_losses(outputs, mixtures, self._frames(targets, samples))[0]
        sources = (outputs[-1].sources[..., :samples] * levels[-1][1]).transpose(0, 1)
        if self.config.rescale:
            if statistics is not None and "products" in statistics:
                gains = gains_from(statistics["products"], statistics["wanted"])
            else:
                gains = least_squares_gains(waveforms[-1], sources)
            sources = sources * gains.unsqueeze(-1)
        return AudioSeparationOutput(loss=loss, sources=sources.unsqueeze(2))

    @property
    def surveys(self) -> tuple[Callable[..., dict[str, Tensor]], ...]:
        """What has to go over a whole recording, one after the other, before any part of it can be separated."""
        if not self.config.rescale:
            return ()
        return (self.survey_levels, self.survey_gains) if self.config.normalise else (self.survey_gains,)

    def survey_levels(self, input_values: Tensor, statistics: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Takes one more piece of each recording into account for its deviation at every rate.

        Args:
            input_values: as for `forward`.
            statistics: what this returned for the pieces before.

        Returns:
            Sums, for `statistics`; recordings are the first axis.
        """
        return add_levels(statistics, self._rates(input_values[:, 0].float()))

    def survey_gains(self, input_values: Tensor, statistics: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The same for the gains of the sources; goes on from the last of `survey_levels`, if there was one."""
        levels = {name: tensor for name, tensor in (statistics or {}).items() if name not in ("products", "wanted")}
        waveforms = self._rates(input_values[:, 0].float())
        pairs = [self._level(waveform, stage, levels) for stage, waveform in enumerate(waveforms)]
        divided = [wave / level for wave, (level, _) in zip(waveforms, pairs, strict=True)]
        samples = input_values.shape[-1]
        sources = self.separate_stages(self._frames(divided, samples), only_last=True)[-1].sources[..., :samples]
        return add_products(statistics, waveforms[-1], (sources * pairs[-1][1]).transpose(0, 1))

    def separate_stages(self, mixtures: Sequence[Tensor], only_last: bool = False) -> list[StageOutput]:
        """Runs every stage on a waveform of its own rate.

        Args:
            mixtures: one a stage, (batch, samples); twice as many samples as the stage before, and as many as
                `config.stride` divides in the first.
            only_last: whether only the last stage makes waveforms, since no stage reads those of another.

        Raises:
            AudioError: if lengths do not fit.
        """
        stride = self.config.stride
        lengths = [mixture.shape[-1] for mixture in mixtures]
        first = lengths[0] if lengths else 0
        if first % stride or lengths != [first * 2**stage for stage in range(self.config.num_stages)]:
            raise AudioError(
                f"the stages got {lengths} samples; they take {self.config.num_stages} waveforms, each twice as long "
                f"as the one before, the first a multiple of {stride}"
            )
        outputs: list[StageOutput] = []
        with touched(self, SLOPES):
            for stage, mixture in zip(self.stages, mixtures, strict=True):
                decodes = not only_last or stage is self.stages[-1]
                outputs.append(stage(mixture, outputs[-1].hidden if outputs else None, decodes))
        return outputs

    def stage_losses(
        self, outputs: Sequence[StageOutput], mixtures: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of the paper.

        Args:
            outputs: from `separate_stages`.
            mixtures: as given to it.
            labels: one a stage, (num_sources, batch, samples).

        Returns:
            The loss, summed over stages, and the `stage_statistics` of each stage.
        """
        config, statistics = self.config, []
        stages: list[Any] = list(self.stages)
        for stage, output, mixture, label in zip(stages, outputs, mixtures, labels, strict=True):
            latents = stage.encoder(label.flatten(0, 1)).unflatten(0, label.shape[:2])
            reconstruction = stage.decoder(output.latents)
            statistics.append(stage_statistics(output.sources, label, reconstruction, mixture, latents))
        weights = (config.reconstruction_weight, config.dissimilarity_weight, config.similarity_weight)
        return torch.stack([weighted_loss(each, *weights) for each in statistics]).sum(), statistics

    def prepare(self, waveform: Tensor) -> list[Tensor]:
        """What `separate_stages` takes, from waveforms (batch, samples) at the model's rate."""
        waveforms = self._rates(waveform.float())
        return self._frames([each / self._level(each)[0] for each in waveforms], waveform.shape[-1])

    def _rates(self, waveform: Tensor) -> list[Tensor]:
        """The waveform (..., samples) at the rate of every stage."""
        count = self.config.num_stages
        return [decimate(waveform, 2 ** (count - 1 - stage)) for stage in range(count)]

    def _frames(self, waveforms: Sequence[Tensor], samples: int) -> list[Tensor]:
        """Fills the waveforms of all rates, of `samples` at the last, with zeros to whole frames."""
        frames = -(-samples // (self.config.stride * 2 ** (self.config.num_stages - 1)))
        lengths = [frames * self.config.stride * 2**stage for stage in range(self.config.num_stages)]
        return [F.pad(wave, (0, length - wave.shape[-1])) for wave, length in zip(waveforms, lengths, strict=True)]

    def _level(
        self, waveform: Tensor, stage: int = 0, statistics: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What waveforms (batch, samples) are divided by, and what their sources are multiplied by, (batch, 1).

        Of digital silence nothing is left, whatever the network makes of it.
        """
        power = waveform.square().mean(dim=-1, keepdim=True).sqrt()
        if not self.config.normalise:
            return torch.ones_like(power), torch.ones_like(power)
        deviation = waveform.std(dim=-1, keepdim=True)
        if statistics and "counts" in statistics:
            power, deviation = whole_level(statistics, stage)
        level = torch.where(deviation > CONSTANT * power, deviation, power)
        return torch.where(level > 0, level, 1.0), level


@torch.no_grad()
def least_squares_gains(mixture: Tensor, sources: Tensor) -> Tensor:
    """Gains with which sources add up to the mixture best, as in the published evaluation.

    Args:
        mixture: (batch, samples).
        sources: (batch, num_sources, samples).

    Returns:
        (batch, num_sources), float32; the smallest ones where several fit as well.
    """
    statistics = add_products(None, mixture, sources)
    return gains_from(statistics["products"], statistics["wanted"])


__all__ = [
    "InstrumentsMixin",
    "MetaTasNetForAudioSeparation",
    "MetaTasNetPreTrainedModel",
    "StageOutput",
    "add_levels",
    "add_products",
    "gains_from",
    "least_squares_gains",
    "whole_level",
]
