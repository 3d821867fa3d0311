# SPDX-License-Identifier: Apache-2.0
"""AudioSep (2308.05037): a residual U-Net on the magnitude spectrogram, told by a CLAP embedding what to keep.

The network answers with a magnitude mask and a rotation of the mixture's phase; nothing is generated. The query only
shifts (and with `film_gain` scales) normalised activations, so the spectrogram, its normalisation and the first
convolution are computed once for all queries on a recording. The Fourier transform is an FFT in float32; the frozen
convolution kernels and the unused second norms of the decoder of the published checkpoint do not exist here. The
Nyquist bin of the output is exactly zero, as in the original.

Also here: how AudioSep's blocks run when nothing is learnt: the same numbers with less work and a fraction of the
memory.

- With one query, a norm and its FiLM layer are one scale and one shift a channel. Those of the second norm of a
  residual block go into the weights and the bias of the convolution before it, the first are one pass over the data.
- On a CPU, maps of 100 MB cost more in page faults and cache misses than in arithmetic: torch hands each one back to
  the system, and touching a fresh one took as long as half of the convolution that filled it. The output of a residual
  block depends on two frames to either side, so blocks run in strips of frames, with two frames more at inner edges,
  and the frames that saw the cut are thrown away. Only what the decoder needs later is ever there in full length.

Nothing is prepared ahead or kept: folding the weights takes 1 % of a ten-second segment, and weights that are changed,
moved or loaded meanwhile need no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ClapModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...errors import QueryError
from ...hub.models import HubsepModelMixin
from ...layers import dtype_of, is_plain, istft, may_read, stft
from ...losses import LOSSES
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_audiosep import AudioSepConfig
from .listener_audiosep import Listener, smooth_maximum


STRIP_BYTES = 2**23  # of the widest map of a block; 1 to 16 MB were measured, in both precisions
CONTEXT = 2  # frames that two 3x3 convolutions see to either side
# Modules whose weights are used here without calling them.
FOLDED: dict[str, tuple[type, ...]] = {
    "norm": (nn.BatchNorm2d,),
    "conv1": (nn.Conv2d,),
    "shortcut": (nn.Conv2d, nn.Identity),
}


class FilmGain(nn.Linear):
    """The query's gain of every channel, less one; starts at zero. A class of its own for `_init_weights` to see."""


class MaskHead(nn.Conv2d):
    """The last convolution, from channels to mask logits. A class of its own for `_init_weights` to see."""


class FilmNorm(nn.Module):
    """Batch norm, then the query's shift (and gain) of every channel, then a leaky ReLU."""

    def __init__(self, config: AudioSepConfig, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
        self.shift = nn.Linear(config.film_size, channels)
        self.gain = FilmGain(config.film_size, channels) if config.film_gain else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.norm(x)
        shift = self.shift(condition)[:, :, None, None]
        if self.gain is None:
            return F.leaky_relu(x + shift, 0.01)
        return F.leaky_relu(torch.addcmul(shift, x, 1 + self.gain(condition)[:, :, None, None]), 0.01)


class QueryNetwork(nn.Module):
    """Two layers that turn a query embedding into what the FiLM layers share."""

    def __init__(self, config: AudioSepConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.condition_size, elementwise_affine=False)
        self.linear1 = nn.Linear(config.condition_size, config.query_hidden_size)
        self.linear2 = nn.Linear(config.query_hidden_size, config.query_hidden_size)

    def forward(self, embeds: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.linear1(self.norm(embeds)), 0.01)
        return F.leaky_relu(self.linear2(hidden), 0.01)


class QueryClassifier(nn.Module):
    """What a query means among the classes the weights were taught, and from that what the FiLM layers share.

    The classifier is taught on text alone, before or after the separator: "a puppy yapping" then has the effect of
    "dog barking" as far as it means the same. An open network in its place had to learn language from mixtures, and
    after 6,200 steps still took the wrong instrument on its own training recordings.
    """

    def __init__(self, config: AudioSepConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.condition_size, elementwise_affine=False)
        self.linear1 = nn.Linear(config.condition_size, 4 * config.query_hidden_size)
        self.linear2 = nn.Linear(4 * config.query_hidden_size, len(config.query_classes))
        self.values = nn.Linear(len(config.query_classes), config.query_hidden_size, bias=False)

    def classify(self, embeds: Tensor) -> Tensor:
        """Class logits, (..., classes), of query embeddings (..., condition_size)."""
        return self.linear2(F.leaky_relu(self.linear1(self.norm(embeds)), 0.01))

    def shares(self, embeds: Tensor) -> Tensor:
        """Shares of the classes in what embeddings mean, (..., classes)."""
        return self.classify(embeds).float().softmax(dim=-1).to(embeds.dtype)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.values(self.shares(embeds))


class ResidualBlock(nn.Module):
    """Two pre-activated 3x3 convolutions with a shortcut; the shortcut is a 1x1 convolution where channels change."""

    def __init__(self, config: AudioSepConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.film1 = FilmNorm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.film2 = FilmNorm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if can_fuse(self, condition):
            return transform(self, x, condition)
        hidden = self.conv1(self.film1(x, condition))
        hidden = self.conv2(self.film2(hidden, condition))
        return self.shortcut(x) + hidden


# Saves half of the time and more: 5 s at 32 kHz by the published sizes, one thread of a Xeon with AMX, take 2.14 s in
# place of 4.02 in float32, and 0.93 in place of 2.96 in bfloat16; with audiosep-small a fifteenth or nothing.
def can_fuse(block: nn.Module, condition: Tensor) -> bool:
    """Whether a block may run as here: nothing is learnt or traced, its weights are in place, there is one query."""
    return condition.shape[0] == 1 and may_read(block, FOLDED)


def transform(block: ResidualBlock, x: Tensor, condition: Tensor) -> Tensor:
    """What `ResidualBlock.forward` does."""
    return _folded(block, condition, x.dtype)(x)


def _folded(block: ResidualBlock, condition: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The residual block for one query, its second norm inside the first convolution."""
    activated1 = _activated(block.film1, condition)
    mean, variance = statistics(block.film2.norm)
    scale, bias = _film(block.film2, condition)
    scale = scale * (variance + block.film2.norm.eps).rsqrt()
    bias = (bias - mean * scale).to(dtype)
    weight = (block.conv1.weight * scale[:, None, None, None]).to(dtype)

    def run(x: Tensor) -> Tensor:
        hidden = F.conv2d(activated1(x), weight, bias, padding=1)
        return block.conv2(F.leaky_relu_(hidden, 0.01)).add_(_shortcut(block, x))

    return run


def _film(film: FilmNorm, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm that does what FiLM does after it, (channels,) both, float32."""
    weight, bias = film.norm.weight.float(), film.norm.bias.float()
    if film.gain is not None:
        gain = 1 + film.gain(condition)[0].float()
        weight, bias = weight * gain, bias * gain
    return weight, bias + film.shift(condition)[0].float()


def _activated(film: FilmNorm, condition: Tensor) -> Callable[[Tensor], Tensor]:
    """The norm with one query's FiLM inside, and the leaky ReLU, for maps of any length."""
    mean, variance = statistics(film.norm)
    weight, bias = _film(film, condition)
    return lambda x: F.leaky_relu_(F.batch_norm(x, mean, variance, weight, bias, False, 0.0, film.norm.eps), 0.01)


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance in float32; in float32 the norm's own tensors."""
    assert norm.running_mean is not None  # torch leaves them out only on request
    assert norm.running_var is not None
    return norm.running_mean.float(), norm.running_var.float()


def _shortcut(block: ResidualBlock, x: Tensor) -> Tensor:
    if isinstance(block.shortcut, nn.Identity):
        return x
    # With one thread and a small map, torch's 1x1 convolution takes a path many times slower than a matrix product.
    weight = block.shortcut.weight.flatten(1)
    return F.linear(x.permute(0, 2, 3, 1), weight, block.shortcut.bias).permute(0, 3, 1, 2)


class EncoderBlock(nn.Module):
    """A residual block and average pooling; also returns what it pooled, for the decoder.

    A `stem` goes before it; given here, its result is never there in full length when nothing is learnt.
    """

    def __init__(self, config: AudioSepConfig, in_channels: int, out_channels: int, stride: tuple[int, int]):
        super().__init__()
        self.block = ResidualBlock(config, in_channels, out_channels)
        self.stride = stride
        self.pool = nn.AvgPool2d(stride)

    def forward(self, x: Tensor, condition: Tensor, stem: nn.Conv2d | None = None) -> tuple[Tensor, Tensor]:
        if can_fuse(self, condition):
            return encode(self, x, condition, stem)
        skip = self.block(x if stem is None else stem(x), condition)
        return self.pool(skip), skip


def encode(block: EncoderBlock, x: Tensor, condition: Tensor, stem: nn.Conv2d | None = None) -> tuple[Tensor, Tensor]:
    """What `EncoderBlock.forward` does, with `stem` on each strip: the pooled map, and the map itself."""
    residual, channels = _folded(block.block, condition, x.dtype), block.block.conv1.out_channels
    skip, pooled = _empty(x, channels), []
    for outer, inner, kept in _strips(skip, block.stride[0]):
        part = x[:, :, outer] if stem is None else stem(x[:, :, outer])
        part = residual(part.contiguous(memory_format=torch.channels_last))[:, :, inner]
        pooled.append(block.pool(part))
        skip[:, :, kept] = part
    return torch.cat(pooled, dim=2), skip


class DecoderBlock(nn.Module):
    """A transposed convolution back to the resolution of the encoder's `skip`, joined with it in a residual block.

    A `head` is applied to the result; given here, the result is never there in full length when nothing is learnt.
    """

    def __init__(self, config: AudioSepConfig, in_channels: int, out_channels: int, stride: tuple[int, int]):
        super().__init__()
        self.film = FilmNorm(config, in_channels)
        self.stride = stride
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, stride, stride=stride, bias=False)
        self.block = ResidualBlock(config, 2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor, condition: Tensor, head: nn.Conv2d | None = None) -> Tensor:
        if can_fuse(self, condition):
            return decode(self, x, skip, condition, head)
        x = self.upsample(self.film(x, condition))
        x = self.block(torch.cat([x, skip], dim=1), condition)
        return x if head is None else head(x)


def decode(block: DecoderBlock, x: Tensor, skip: Tensor, condition: Tensor, head: nn.Conv2d | None = None) -> Tensor:
    """What `DecoderBlock.forward` does, with `head` on each strip of the result."""
    residual, activated = _folded(block.block, condition, x.dtype), _activated(block.film, condition)
    result, stride = skip.new_empty(0), block.stride[0]
    for outer, inner, kept in _strips(skip, stride):
        hidden = activated(x[:, :, outer.start // stride : outer.stop // stride])
        hidden = residual(torch.cat([block.upsample(hidden), skip[:, :, outer]], dim=1))[:, :, inner]
        strip = hidden if head is None else head(hidden)
        if not result.numel():
            result = _empty(skip, strip.shape[1])
        result[:, :, kept] = strip
    return result


def _strips(x: Tensor, stride: int) -> Iterator[tuple[slice, slice, slice]]:
    """The frames to compute from, which of the computed ones to keep, and where those belong; one strip on a GPU."""
    frames = x.shape[2]
    length, context = frames, -(-CONTEXT // stride) * stride
    if x.device.type == "cpu":
        length = max(STRIP_BYTES * frames // (x.numel() * x.element_size()), 8 * CONTEXT) // stride * stride
    for start in range(0, frames, length):
        stop = min(start + length, frames)
        outer = slice(max(start - context, 0), min(stop + context, frames))
        yield outer, slice(start - outer.start, stop - outer.start), slice(start, stop)


def _empty(like: Tensor, channels: int) -> Tensor:
    """A map of `channels` for all frames, channels last in memory."""
    batch, _, frames, bins = like.shape
    return like.new_empty(batch, frames, bins, channels).permute(0, 3, 1, 2)


class AudioSepUNet(nn.Module):
    """The U-Net after the first convolution: (batch, stem_channels, frames, bins) and a condition -> mask logits.

    Or with that convolution, if it is given as `stem` and the features come instead. With a presence head also the
    evidence in every frame of the bottleneck, (batch, frames), that the query is there.
    """

    def __init__(self, config: AudioSepConfig):
        super().__init__()
        inputs = [config.stem_channels, *config.encoder_channels[:-1]]
        outputs = list(config.encoder_channels)
        strides = [(time, frequency) for time, frequency in config.encoder_strides]
        self.encoder = nn.ModuleList(map(EncoderBlock, [config] * len(inputs), inputs, outputs, strides))
        self.bottleneck = ResidualBlock(config, outputs[-1], outputs[-1])
        self.decoder = nn.ModuleList(
            map(DecoderBlock, [config] * len(inputs), [outputs[-1], *outputs[:0:-1]], outputs[::-1], strides[::-1])
        )
        self.head = MaskHead(outputs[0], 3 * config.num_channels * config.frequency_fold, 1)
        self.presence = nn.Linear(outputs[-1], 1) if config.presence_head else None

    def forward(self, x: Tensor, condition: Tensor, stem: nn.Conv2d | None = None) -> tuple[Tensor, Tensor | None]:
        skips = []
        for block in self.encoder:
            x, skip = block(x, condition, stem)
            skips.append(skip)
            stem = None
        x = self.bottleneck(x, condition)
        evidence = None
        if self.presence is not None:
            evidence = self.presence(F.leaky_relu(x, 0.01).mean(dim=3).transpose(1, 2)).float()[..., 0]
        for block in self.decoder[:-1]:
            x = block(x, skips.pop(), condition)
        return self.decoder[-1](x, skips.pop(), condition, self.head), evidence


class AudioSepPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by AudioSep models."""

    config: AudioSepConfig
    config_class = AudioSepConfig
    base_model_prefix = "audiosep"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["EncoderBlock", "DecoderBlock", "ResidualBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier-uniform weights and zero biases; batch norms as torch makes them.

        Departing from the original, the real part of the phase rotation starts near one, so that training starts from
        the mixture's phase: from random phases the nearest optimum is silence, where many queries then stayed.
        """
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        # transformers passes by modules without parameters of their own, so these two are told by their own classes
        if isinstance(module, FilmGain):
            init.zeros_(module.weight)
        if isinstance(module, MaskHead):
            bias = torch.zeros(self.config.num_channels, 3, self.config.frequency_fold)
            bias[:, 1] = 2.0
            init.copy_(module.bias, bias.flatten())


def frames_heard(labels: Tensor, frame_samples: int, frames: int) -> tuple[Tensor, Tensor]:
    """In which frames a target is heard, and which frames say so clearly, both (batch, queries, frames) of 0 and 1.

    A frame within 20 dB of the loudest one of its target is heard, one 40 dB below it or of a silent target is not;
    those in between do not count.

    Args:
        labels: targets, (batch, queries, channels, samples).
        frame_samples: length of a frame.
        frames: number of frames; the last one may reach over the end.
    """
    padded = F.pad(labels.float().square().mean(dim=2), (0, max(0, frames * frame_samples - labels.shape[-1])))
    energy = padded[..., : frames * frame_samples].unflatten(-1, (frames, frame_samples)).mean(dim=-1)
    loudest = energy.amax(dim=-1, keepdim=True)
    heard = (energy > 1e-2 * loudest).float()
    return heard, torch.maximum(heard, (energy <= 1e-4 * loudest).float())


def join(parts: list[Tensor | None], dim: int) -> Tensor | None:
    """Tensors joined along `dim`, or None where a model has none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=dim) if there else None


def _query_network(config: AudioSepConfig) -> nn.Module:
    if config.query_classes:
        return QueryClassifier(config)
    return QueryNetwork(config) if config.query_hidden_size else nn.Identity()


class AudioSepForAudioSeparation(AudioSepPreTrainedModel):
    """Separates whatever a CLAP embedding describes.

    The query encoder is part of the model and frozen in training, as in the paper. Source: 2308.05037, section 3.
    """

    def __init__(self, config: AudioSepConfig):
        super().__init__(config)
        self.query_encoder = ClapModel(config.query_config)
        for parameter in self.query_encoder.parameters():
            parameter.requires_grad = False
        self.input_norm = nn.BatchNorm2d(
            config.num_bins, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
        features = config.num_channels * config.num_features * config.frequency_fold
        self.stem = nn.Conv2d(features, config.stem_channels, 1)
        self.query_network = _query_network(config)
        self.unet = AudioSepUNet(config)
        self.listener = Listener(config) if config.listener_channels else None
        self.post_init()

    def train(self, mode: bool = True) -> AudioSepForAudioSeparation:
        """Training mode for the separator; the query encoder stays as it is, without dropout."""
        super().train(mode)
        self.query_encoder.eval()
        return self

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Query embeddings of texts.

        Args:
            input_ids: tokens, (queries, tokens).
            attention_mask: 1 for tokens, 0 for padding, of the same shape.

        Returns:
            Embeddings of unit length, (queries, condition_size), float32.
        """
        encoded = self.query_encoder.text_model(input_ids, attention_mask=attention_mask)
        pooled = encoded.pooler_output
        if self.config.query_pooling == "mean":
            hidden = encoded.last_hidden_state
            weight = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            weight = weight.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return F.normalize(self.query_encoder.text_projection(pooled).float(), dim=-1)

    def encode_audio(self, input_features: Tensor, is_longer: Tensor | None = None) -> Tensor:
        """Query embeddings of example recordings, from the log-mel spectrograms of the processor.

        Args:
            input_features: (queries, 1, frames, mel bins).
            is_longer: for fusing CLAP models, whether the recording was longer than the window.

        Returns:
            Embeddings of unit length, (queries, condition_size), float32.
        """
        dtype = self.query_encoder.audio_projection.linear1.weight.dtype
        pooled = self.query_encoder.audio_model(input_features.to(dtype), is_longer=is_longer).pooler_output
        return F.normalize(self.query_encoder.audio_projection(pooled).float(), dim=-1)

    def classify_queries(self, query_embeds: Tensor) -> Tensor | None:
        """What queries mean among `config.query_classes`.

        Args:
            query_embeds: embeddings of unit length, (queries, condition_size).

        Returns:
            Probabilities (queries, classes), float32; None for a model without such classes.
        """
        if not isinstance(self.query_network, QueryClassifier):
            return None
        return self.query_network.classify(query_embeds.to(dtype_of(self.query_network.values))).float().softmax(-1)

    def leave_out(self, query_embeds: Tensor, negatives: Tensor) -> Tensor:
        """Query embeddings (..., condition_size) without what they share with `negatives` (num_negatives, same)."""
        basis, _ = torch.linalg.qr(negatives.float().T)  # orthonormal directions, (condition_size, negatives)
        kept = query_embeds.float() - query_embeds.float() @ basis @ basis.T
        return F.normalize(kept, dim=-1).to(query_embeds.dtype)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        query_embeds: Tensor | None = None,
        negative_query_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        class_weights: Tensor | None = None,
        **kwargs: object,
    ) -> AudioSeparationOutput:
        """Separates every query from every mixture.

        Args:
            input_values: mixtures, (batch, channels, samples), at least `config.minimum_samples` long.
            query_embeds: embeddings of unit length, (num_queries, condition_size) for the same queries on every
                mixture, or (batch, num_queries, condition_size).
            negative_query_embeds: what to leave out, (num_negatives, condition_size): each query embedding loses its
                component along these directions and is brought back to unit length.
            input_ids: tokens of one query a mixture, (batch, tokens), or of several, (batch, num_queries, tokens),
                instead of `query_embeds`.
            attention_mask: goes with `input_ids`.
            labels: target waveforms (batch, num_queries, channels, samples), all zeros where the query is absent.
            class_weights: shares of the model's `query_classes` in the meaning of each query, of the shapes of
                `query_embeds` and instead of them: half and half asks for two sounds at once.

        Returns:
            AudioSeparationOutput: `sources` (batch, num_queries, channels, samples), `masks` (magnitude masks,
            (batch, num_queries, channels, frames, bins)), `presence_logits` with a presence head, `loss` with labels.

        Raises:
            QueryError: if there is no query, or its size is not `config.condition_size`.
            AudioError: if the waveform has another rank or channel count, or is too short.
        """
        check_keywords(self, kwargs)
        check_waveform(self.config, input_values, lower="the Fourier transform needs")
        batch = input_values.shape[0]
        if class_weights is None:
            if query_embeds is None:
                query_embeds = self._embed_tokens(input_ids, attention_mask, batch)
            query_embeds = self._condition(query_embeds, negative_query_embeds, batch)
        hidden, class_weights = self._meaning(query_embeds, class_weights, batch)

        features, magnitude, cosine, sine, level = self._analyse(input_values)
        waveforms, masked, evidence = [], [], []
        for logits, some_evidence in self._run_unet(self._normalise(features), hidden):
            spectrogram, some_masks = self._apply_masks(logits, magnitude, cosine, sine)
            some = istft(spectrogram, self.config.n_fft, self.config.hop_length, input_values.shape[-1])
            waveforms.append(some * level.unsqueeze(1))
            masked.append(some_masks)
            evidence.append(some_evidence)
        sources, masks, frames = torch.cat(waveforms, dim=1), torch.cat(masked, dim=1), join(evidence, dim=1)
        presence = None if frames is None else smooth_maximum(frames)
        if self.listener is not None and not self.training:
            assert class_weights is not None  # a listener hears classes
            presence, gate = self._listen(input_values, sources, presence, class_weights)
            sources = sources * gate[..., None, None] if self.config.presence_gate else sources
        loss = None if labels is None else self._loss(sources, labels, input_values, frames)
        return AudioSeparationOutput(loss=loss, sources=sources, masks=masks, presence_logits=presence)

    def _embed_tokens(self, input_ids: Tensor | None, attention_mask: Tensor | None, batch: int) -> Tensor:
        if input_ids is None:
            raise QueryError("this model needs to be told what to separate; pass query_embeds or input_ids")
        with torch.no_grad():
            return self.encode_text(
                input_ids.flatten(0, -2), None if attention_mask is None else attention_mask.flatten(0, -2)
            ).unflatten(0, (batch, -1))

    def _meaning(
        self, query_embeds: Tensor | None, class_weights: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """What the FiLM layers share, and the shares of the classes in every query, where there are classes."""
        network: nn.Module = self.query_network
        if class_weights is None:
            assert query_embeds is not None  # one of both is there
            embeds = query_embeds.to(dtype_of(self.stem))
            if not isinstance(network, QueryClassifier):
                return network(embeds), None
            class_weights = network.shares(embeds)
        else:
            class_weights = self._checked_weights(class_weights, batch)
        return network.values(class_weights), class_weights  # type: ignore[operator]

    def _checked_weights(self, class_weights: Tensor, batch: int) -> Tensor:
        """Shares of the classes as (batch, queries, classes), batch 1 if all mixtures share them."""
        classes, shape = len(self.config.query_classes), tuple(class_weights.shape)
        if not classes:
            raise QueryError("class_weights are for models with query_classes; pass query_embeds or input_ids")
        if len(shape) not in (2, 3) or shape[-1] != classes or (len(shape) == 3 and shape[0] not in (1, batch)):
            raise QueryError(f"class_weights must be (batch, queries, {classes}) or (queries, {classes}), got {shape}")
        class_weights = class_weights.to(dtype_of(self.stem))
        return class_weights if len(shape) == 3 else class_weights.unsqueeze(0)

    def _listen(
        self, input_values: Tensor, sources: Tensor, said: Tensor | None, class_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Presence logits (batch, queries), and by how much each source is turned down, for it is probably not there.

        Of classes the listener does not know only the presence head can speak; what means them is not turned down.
        """
        listener: Listener = self.listener  # type: ignore[assignment]
        heard, head, level, offset = self.config.presence_mix
        evidence = smooth_maximum(listener(input_values.mean(dim=1)).transpose(1, 2)).unsqueeze(1) * heard + offset
        loudness = sources.float().square().mean(dim=(2, 3)) + 1e-12
        loudness = loudness / (input_values.float().square().mean(dim=(1, 2)).unsqueeze(1) + 1e-12)
        evidence = evidence + level * loudness.log().clamp(-20, 5).unsqueeze(-1) / 2
        said = torch.zeros_like(loudness) if said is None else said
        evidence = evidence + head * said.unsqueeze(-1)
        rest = class_weights.shape[-1] - evidence.shape[-1]
        chances = torch.cat([evidence, said.unsqueeze(-1).expand(*said.shape, rest)], dim=-1).sigmoid()
        gates = torch.cat([torch.sigmoid(2 * evidence), torch.ones_like(chances[..., evidence.shape[-1] :])], dim=-1)
        return (class_weights * chances).sum(dim=-1).logit(eps=1e-6), (class_weights * gates).sum(dim=-1)

    def _condition(self, query_embeds: Tensor, negatives: Tensor | None, batch: int) -> Tensor:
        """Query embeddings as (batch, queries, condition_size), batch 1 if all share them, negatives taken out."""
        size, shape = self.config.condition_size, tuple(query_embeds.shape)
        if len(shape) not in (2, 3) or shape[-1] != size or (len(shape) == 3 and shape[0] != batch):
            raise QueryError(f"query_embeds must be (batch, queries, {size}) or (queries, {size}), got {shape}")
        if len(shape) == 2:
            query_embeds = query_embeds.unsqueeze(0)
        if self.training and self.config.query_noise:
            query_embeds = query_embeds.expand(batch, -1, -1)
            length = self.config.query_noise * torch.rand_like(query_embeds[..., :1])
            noise = F.normalize(torch.randn_like(query_embeds), dim=-1)
            query_embeds = F.normalize(query_embeds + length * noise, dim=-1)
        return query_embeds if negatives is None else self.leave_out(query_embeds, negatives)

    def _analyse(self, input_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The spectrogram in float32: features of the network, magnitude, cosine, sine of the phase, and the level."""
        waveform = input_values.float()
        level = torch.ones_like(waveform[:, :, :1])
        if self.config.normalize_input:
            level = waveform.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-5) * 10
        spectrogram = stft(waveform / level, self.config.n_fft, self.config.hop_length)
        # The floor keeps silence finite: below it the phase vector shrinks to zero, and so does the output.
        magnitude = (spectrogram.real.square() + spectrogram.imag.square()).clamp_min(1e-10).sqrt()
        cosine, sine = spectrogram.real / magnitude, spectrogram.imag / magnitude
        features = magnitude
        if self.config.input_features == "compressed":
            compressed = magnitude**0.3
            features = torch.cat([compressed, compressed * cosine, compressed * sine], dim=1)
        return features, magnitude, cosine, sine, level

    def _normalise(self, features: Tensor) -> Tensor:
        """Norm per frequency bin, padding of time to whole bottleneck frames, Nyquist bin dropped, bins folded."""
        norm, by_bin = self.input_norm, features.transpose(1, 3)
        if is_plain(norm, nn.BatchNorm2d):
            mean, variance = statistics(norm)
            # in float32 whatever the model's dtype; in float32 these are the norm's own tensors
            by_bin = F.batch_norm(
                by_bin, mean, variance, norm.weight.float(), norm.bias.float(), norm.training,
                self.config.batch_norm_momentum, norm.eps,
            )  # fmt: skip
        else:
            by_bin = norm(by_bin.to(dtype_of(norm)))
        features = by_bin.transpose(1, 3)  # (batch, features, frames, bins)
        frames = features.shape[2]
        features = F.pad(features, (0, -1, 0, -frames % self.config.time_stride))
        fold = self.config.frequency_fold
        if fold > 1:
            features = features.unflatten(3, (-1, fold)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return features.to(dtype_of(self.stem)).contiguous(memory_format=torch.channels_last)

    def _run_unet(self, features: Tensor, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Logits (batch, queries, logits, frames, bins) and evidence (batch, queries, frames) of some queries at once.

        In training all queries of a batch share the statistics of its norms. Otherwise they go one after the other,
        for the memory of one; recordings too, if each has queries of its own.
        """
        batch, groups, queries = features.shape[0], *hidden.shape[:2]
        hidden = hidden.to(features.dtype)
        if self.training:
            logits, evidence = self.unet(
                self.stem(features).repeat_interleave(queries, dim=0), hidden.expand(batch, -1, -1).flatten(0, 1)
            )
            yield logits.unflatten(0, (batch, -1)), None if evidence is None else evidence.unflatten(0, (batch, -1))
            return
        recordings = features.split(batch // groups)
        for rows in hidden.unbind(dim=1):
            runs = [self.unet(part, row[None], self.stem) for part, row in zip(recordings, rows, strict=True)]
            frames = join([None if evidence is None else evidence.unsqueeze(1) for _, evidence in runs], dim=0)
            yield torch.cat([logits for logits, _ in runs]).unsqueeze(1), frames

    def _apply_masks(self, logits: Tensor, magnitude: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """Masked magnitude with the rotated phase, complex (batch, queries, channels, frames, bins), and the mask."""
        fold, channels, frames = self.config.frequency_fold, self.config.num_channels, magnitude.shape[2]
        logits = logits.float().unflatten(2, (channels, 3, fold)).permute(0, 1, 2, 3, 5, 6, 4).flatten(5)
        logits = F.pad(logits[..., :frames, :], (0, 1))  # the Nyquist bin has no logits
        masks = torch.sigmoid(logits[:, :, :, 0])
        real, imaginary = torch.tanh(logits[:, :, :, 1]), torch.tanh(logits[:, :, :, 2])
        scale = masks / (real.square() + imaginary.square()).sqrt().clamp_min(1e-10)
        real, imaginary = real * scale, imaginary * scale
        magnitude, cosine, sine = magnitude.unsqueeze(1), cosine.unsqueeze(1), sine.unsqueeze(1)
        spectrogram = torch.complex(
            magnitude * (cosine * real - sine * imaginary), magnitude * (sine * real + cosine * imaginary)
        )
        return spectrogram, masks

    def _loss(self, sources: Tensor, labels: Tensor, mixture: Tensor, evidence: Tensor | None) -> Tensor:
        config, criterion = self.config, LOSSES[self.config.loss]
        loss = criterion(sources, labels, mixture)
        if config.sum_weight:
            whole, wanted = sources.sum(dim=1, keepdim=True), labels.sum(dim=1, keepdim=True)
            loss = loss + config.sum_weight * criterion(whole, wanted, mixture)
        if evidence is None:
            return loss
        there = (labels != 0).flatten(2).any(dim=2).float()
        loss = loss + config.presence_weight * F.binary_cross_entropy_with_logits(smooth_maximum(evidence), there)
        if config.frame_presence_weight:
            heard, counts = frames_heard(labels, config.hop_length * config.time_stride, evidence.shape[-1])
            costs = F.binary_cross_entropy_with_logits(evidence, heard, reduction="none")
            loss = loss + config.frame_presence_weight * (costs * counts).sum() / counts.sum().clamp_min(1)
        return loss


__all__ = [
    "AudioSepForAudioSeparation",
    "AudioSepPreTrainedModel",
    "can_fuse",
    "decode",
    "encode",
    "statistics",
    "transform",
]
