# SPDX-License-Identifier: Apache-2.0
"""Spleeter (10.21105/joss.02154): a U-Net a stem estimates its magnitude spectrogram, ratio masks apply it.

Decisions:
- A forward pass is the published one: a window's length of silence goes before the waveform, frames are worked through
  in segments of `segment_frames` that share nothing, the last one filled up with silence. Given the pieces that
  `config.exact_segments` cuts, it does the same for a recording of any length in memory that does not grow; a Wiener
  filter, whose statistics are the whole recording's, takes `surveys` of them first.
- Networks run in the weights' dtype, channels last. Spectrograms, estimates and masks are float32 always: the 1e-10
  in the masks, which splits silence evenly, is zero in float16.
- Norms use their stored statistics in training too unless `freeze_norm` is off, as when the published weights were
  trained. The sixth norm on the way down, which published checkpoints hold, changes nothing and does not exist.
- Where nothing is learnt, segments go one after the other through a path with fewer passes over memory; see
  `estimate_logits`.

Also here: how Spleeter's U-Net runs when nothing is learnt: the same numbers in fewer passes over memory.

A norm with stored statistics is one scale and one shift a channel. Its pass writes where the next convolution reads:
into the middle of a map that has the zeros around it already, on the way down, and beside the convolution it is joined
with, on the way up. Activations work in place.

The last transposed convolution makes one channel, which torch's own is slow at: as a plain convolution that makes the
four results of each place it takes a third of the time. The others do not gain from that. ELU by exponentials takes a
sixth of the time of torch's own on a CPU, which was a quarter of all.

Also here: Spleeter's Fourier transform pair and its ratio masks, in float32 whatever the model's dtype.

The transforms differ from the shared ones: frames begin a window's length before the waveform instead of being
centred, and the inverse divides by the constant that squared Hann windows a quarter apart add up to, not by what they
add up to at each sample. With all of the mixture in the mask, every sample comes back, those at the edges too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...hub.models import HubsepModelMixin
from ...layers import dtype_of, is_autocast, may_read
from ...losses import LOSSES
from ...modeling import AudioSeparationOutput, check_keywords, check_waveform
from .configuration_spleeter import DEPTH, NEGATIVE_SLOPE, SpleeterConfig
from .wiener_spleeter import WienerFilter


MASK_EPSILON = 1e-10
OVERLAP = 4  # frames that see a sample
WINDOW_SUM = 1.5  # of the squares of four Hann windows


def stft(waveform: Tensor, n_fft: int, *, lead: bool = True, frames: int | None = None) -> Tensor:
    """Complex spectrogram (..., frames, n_fft / 2 + 1) of a waveform (..., samples), periodic Hann window.

    There are ceil((samples + n_fft) / hop) frames, hop = n_fft / 4; the first is silent, the last filled with zeros.

    Args:
        waveform: at most float32 of it is used.
        n_fft: window and transform length in samples.
        lead: whether silence of `n_fft` samples goes before; a piece from the middle of a recording has its own past.
        frames: how many to take, if not all that begin in the waveform.
    """
    hop, before = n_fft // OVERLAP, n_fft if lead else 0
    samples = waveform.shape[-1] + before
    frames = -(-samples // hop) if frames is None else frames
    padded = F.pad(waveform.float(), (before, (frames - 1) * hop + n_fft - samples))
    window = torch.hann_window(n_fft, device=waveform.device)
    return torch.fft.rfft(padded.unfold(-1, n_fft, hop) * window)


def istft(spectrogram: Tensor, n_fft: int, samples: int, *, lead: bool = True) -> Tensor:
    """Waveform (..., samples), the inverse of `stft`.

    Of a piece without `lead` the ends lack what the frames of its neighbours add to them.
    """
    hop = n_fft // OVERLAP
    window = torch.hann_window(n_fft, device=spectrogram.device) / WINDOW_SUM
    pieces = (torch.fft.irfft(spectrogram, n_fft) * window).unflatten(-1, (OVERLAP, hop))
    frames = pieces.shape[-3]
    waveform = pieces.new_zeros(*pieces.shape[:-3], frames + OVERLAP - 1, hop)
    for part in range(OVERLAP):
        waveform[..., part : part + frames, :] += pieces[..., part, :]
    before = n_fft if lead else 0
    return waveform.flatten(-2)[..., before : before + samples]


def apply_mask(mask: Tensor, spectrogram: Tensor) -> Tensor:
    """A real mask times a complex spectrogram; torch's own product makes the mask complex first."""
    return torch.view_as_complex(torch.view_as_real(spectrogram) * mask.unsqueeze(-1))


def ratio_masks(estimates: Tensor, exponent: float, bins: int, extension: str, stem: int | None) -> Tensor:
    """Masks over `bins` bins, which add up to one where there are estimates.

    Args:
        estimates: magnitudes, (batch, num_sources, channels, frames, num_bins), float32.
        exponent: power they are compared in.
        bins: how many bins the masks have.
        extension: "zeros", "average" or "stem", as in `SpleeterConfig`.
        stem: index of the stem that gets the bins above, for "stem".
    """
    above, num_sources = bins - estimates.shape[-1], estimates.shape[1]
    powers = estimates.square() if exponent == 2 else estimates**exponent
    masks = (powers + MASK_EPSILON / num_sources) / (powers.sum(dim=1, keepdim=True) + MASK_EPSILON)
    if extension == "average":
        return torch.cat([masks, masks.mean(dim=-1, keepdim=True).expand(*masks.shape[:-1], above)], dim=-1)
    masks = F.pad(masks, (0, above))
    if extension == "stem" and stem is not None:
        masks[:, stem, ..., -above:] = 1
    return masks


Piece = Literal["inner", "last"]

NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
DROPPING_LAYERS = 3  # of the decoder
SEGMENTS_AT_ONCE = 16  # on a device that is no CPU, which takes one
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": lambda x: F.leaky_relu(x, NEGATIVE_SLOPE),
    "relu": F.relu,
    "elu": F.elu,
}


class SpleeterNorm(nn.Module):
    """Batch norm over channels that may keep to its stored statistics while its weights are trained."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, frozen: bool):
        super().__init__()
        self.frozen = frozen
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the stored statistics make of a channel, (channels, 1, 1) both, float32."""
        scale = self.weight.float() * (self.running_var.float() + NORM_EPSILON).rsqrt()
        shift = self.bias.float() - self.running_mean.float() * scale
        return scale[:, None, None], shift[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            return self._learning(x)
        scale, shift = self.scale_and_shift()
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

    def _learning(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean.float(), self.running_var.float()
        y = F.batch_norm(
            x.float(), mean, variance, self.weight.float(), self.bias.float(), True, NORM_MOMENTUM, NORM_EPSILON
        )
        if mean is not self.running_mean:  # in float32 these are the buffers themselves
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
        return y.to(x.dtype)


class SpleeterDown(nn.Module):
    """A convolution that halves frames and bins; returns it for the way up, and normalised and activated."""

    def __init__(self, config: SpleeterConfig, index: int):
        super().__init__()
        channels = [config.num_channels, *config.conv_channels]
        self.activation = config.encoder_activation
        self.conv = nn.Conv2d(channels[index], channels[index + 1], 5, stride=2)
        last = index == DEPTH - 1
        self.norm = None if last else SpleeterNorm(channels[index + 1], config.freeze_norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.conv(F.pad(x, (1, 2, 1, 2)))
        if self.norm is None:
            return skip, skip
        return skip, ACTIVATIONS[self.activation](self.norm(skip))


class DoublingConv(nn.ConvTranspose2d):
    """A transposed convolution that makes exactly twice the frames and bins.

    The bias is added afterwards: with one, torch's kernel took up to six times as long in bfloat16 on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 5, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = F.conv_transpose2d(x, self.weight, None, stride=2, padding=1)
        assert self.bias is not None  # torch leaves it out only on request
        return y.add_(self.bias.to(y.dtype)[:, None, None])[..., :-1, :-1]


class SpleeterUp(nn.Module):
    """A transposed convolution that doubles frames and bins, activated, then normalised, and dropped from."""

    def __init__(self, config: SpleeterConfig, index: int):
        super().__init__()
        inputs, outputs = config.decoder_channels()[index]
        self.activation = config.decoder_activation
        self.conv = DoublingConv(inputs, outputs)
        self.norm = SpleeterNorm(outputs, config.freeze_norm)
        drops = index < DROPPING_LAYERS and not config.freeze_norm
        self.dropout = config.decoder_dropout if drops else 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(ACTIVATIONS[self.activation](self.conv(x)))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class SpleeterUNet(nn.Module):
    """From the magnitudes of the mixture to mask logits of one stem, (segments, 2, segment_frames, num_bins) both."""

    def __init__(self, config: SpleeterConfig):
        super().__init__()
        self.encoder = nn.ModuleList(SpleeterDown(config, index) for index in range(DEPTH))
        self.decoder = nn.ModuleList(SpleeterUp(config, index) for index in range(DEPTH))
        self.head = nn.Conv2d(1, config.num_channels, 4, padding=3, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        if can_fuse(self, {"conv": (nn.Conv2d, DoublingConv), "norm": (SpleeterNorm,)}):
            return estimate_logits(self, x)
        skips: list[Tensor] = []
        for down in self.encoder:
            skip, x = down(x)
            skips.append(skip)
        x = self.decoder[0](skips.pop())
        for up in list(self.decoder)[1:]:
            x = up(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


# of a transposed convolution of five taps and stride two: those that make even results, and those that make odd ones,
# from the input before, at and after the place
TAPS = ([3, 1], [4, 2, 0])


ELU_FRAMES = 16  # at once, which stay in a core's cache


# Saves a tenth of the time: 11 s of stereo by the published sizes, one thread of a Xeon with AMX, take 0.43 s in place
# of 0.47 in float32, and 0.27 in place of 0.29 in bfloat16; and the copies of the maps that are joined.
def can_fuse(unet: SpleeterUNet, kinds: dict[str, tuple[type, ...]] | None = None) -> bool:
    """Whether a network may run as here: nothing is learnt or traced, its weights are in place."""
    return not is_autocast() and may_read(unet, kinds)


def estimate_logits(unet: SpleeterUNet, x: Tensor) -> Tensor:
    """What `SpleeterUNet.forward` does."""
    skips: list[Tensor] = []
    padded = F.pad(x, (1, 2, 1, 2))
    encoder: list[Any] = list(unet.encoder)
    for down in encoder:
        skips.append(down.conv(padded))
        if down.norm is not None:
            padded = _padded(down, skips[-1])
    layers: list[Any] = list(unet.decoder)
    previous, *others, last = layers
    x = activate(previous.conv(skips.pop()), previous.activation)
    for up in others:
        x = activate(up.conv(_joined(skips.pop(), x, previous)), up.activation)
        previous = up
    x = activate(_one_channel(last.conv, _joined(skips.pop(), x, previous)), last.activation)
    scale, shift = _scale_and_shift(last, x)
    return unet.head(torch.addcmul(shift, x, scale))


def _padded(down: Any, skip: Tensor) -> Tensor:
    """A convolution normalised and activated, with the zeros around it that the next one reads."""
    batch, channels, frames, bins = skip.shape
    padded = skip.new_empty(batch, frames + 3, bins + 3, channels).permute(0, 3, 1, 2)  # channels last
    for edge in (padded[:, :, :1], padded[:, :, -2:], padded[..., :1], padded[..., -2:]):
        edge.zero_()
    middle = padded[:, :, 1:-2, 1:-2]
    scale, shift = _scale_and_shift(down, skip)
    activate(torch.addcmul(shift, skip, scale, out=middle), down.activation)
    return padded


def _joined(skip: Tensor, x: Tensor, previous: Any) -> Tensor:
    """A convolution of the way down and, normalised, what was activated on the way up, beside each other."""
    batch, channels, frames, bins = skip.shape
    joined = skip.new_empty(batch, frames, bins, 2 * channels).permute(0, 3, 1, 2)
    joined[:, :channels] = skip
    scale, shift = _scale_and_shift(previous, x)
    torch.addcmul(shift, x, scale, out=joined[:, channels:])
    return joined


def _one_channel(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The last transposed convolution, as a plain one that makes the four results of each place as channels."""
    weight = conv.weight.new_zeros(2, 2, conv.in_channels, 3, 3)
    for row, rows in enumerate(TAPS):
        for column, columns in enumerate(TAPS):
            taps = conv.weight[:, 0, rows][..., columns]
            weight[row, column, :, : len(rows), : len(columns)] = taps
    bias = None if conv.bias is None else conv.bias.expand(4)
    return F.pixel_shuffle(F.conv2d(x, weight.flatten(0, 1), bias, padding=1), 2)


def _scale_and_shift(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = layer.norm.scale_and_shift()
    return scale.to(x.dtype), shift.to(x.dtype)


def activate(x: Tensor, name: str) -> Tensor:
    """An activation in place."""
    if name == "leaky_relu":
        return F.leaky_relu_(x, NEGATIVE_SLOPE)
    return F.relu_(x) if name == "relu" else elu(x)


def elu(x: Tensor) -> Tensor:
    """ELU in place: the larger of a number and the exponential of its negative part, minus one."""
    if x.device.type != "cpu":
        return F.elu_(x)
    for rows in x.split(ELU_FRAMES, dim=2):
        negative = rows.clamp(max=0).float().exp_().sub_(1)
        torch.maximum(rows, negative.to(rows.dtype), out=rows)
    return x


class SpleeterPreTrainedModel(HubsepModelMixin, PreTrainedModel):
    """Weights initialisation and loading shared by Spleeter models."""

    config: SpleeterConfig
    config_class = SpleeterConfig
    base_model_prefix = "spleeter"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["SpleeterUNet"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original: He's uniform on the way down; up, its bound counts the channels made, not those read."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            bound = math.sqrt(6 / (module.weight.shape[1] * math.prod(module.kernel_size)))
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SpleeterNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)


class SpleeterForAudioSeparation(SpleeterPreTrainedModel):
    """Separates the stems of a song. Source: 10.21105/joss.02154."""

    def __init__(self, config: SpleeterConfig):
        super().__init__(config)
        self.unets = nn.ModuleList(SpleeterUNet(config) for _ in config.stems)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        labels: Tensor | None = None,
        statistics: Mapping[str, Tensor] | None = None,
        piece: Piece | None = None,
        **kwargs: object,
    ) -> AudioSeparationOutput:
        """Separates every mixture.

        Args:
            input_values: stereo mixtures, (batch, 2, samples).
            labels: target waveforms (batch, num_sources, 2, samples), in the order of `config.stems`.
            statistics: for a Wiener filter, what `survey_covariances` found in the recordings that these mixtures are
                parts of; without, in the mixtures themselves.
            piece: "last" if the mixtures are the last of the pieces that `config.exact_segments` makes of recordings,
                "inner" if they are others; the sources of all pieces add up to those of the recording.

        Returns:
            AudioSeparationOutput: `sources` (batch, num_sources, 2, samples), float32, `masks` (batch, num_sources, 2,
            frames, bins) unless a Wiener filter takes their place, and `loss` with labels.

        Raises:
            AudioError: if the waveform has another rank or channel count, or is empty.
        """
        check_keywords(self, kwargs)
        advice = "give a mono recording to both channels"
        check_waveform(self.config, input_values, lower="there must be", advice=advice)
        config, samples = self.config, input_values.shape[-1]
        mixture = self._spectrogram(input_values, piece)
        back = partial(istft, n_fft=config.n_fft, samples=samples, lead=piece is None)
        estimates = self.estimate(mixture[..., : config.num_bins].abs())
        masks = None
        if config.wiener_filter:
            separated = self._filtered(estimates, mixture, statistics)
            sources = torch.stack([back(stem) for stem in separated.unbind(dim=1)], dim=1)
        else:
            masks = self.masks(estimates)
            sources = torch.stack([back(apply_mask(mask, mixture)) for mask in masks.unbind(dim=1)], dim=1)
        loss = None if labels is None else self._loss(estimates, sources, labels, input_values)
        return AudioSeparationOutput(loss=loss, sources=sources, masks=masks)

    @property
    def surveys(self) -> tuple[Callable[..., dict[str, Tensor]], ...]:
        """What has to go over a whole recording before any part of it can be separated."""
        return (self.survey_covariances,) if self.config.wiener_filter else ()

    def survey_covariances(
        self, input_values: Tensor, statistics: Mapping[str, Tensor] | None = None, piece: Piece | None = None
    ) -> dict[str, Tensor]:
        """Takes one more piece of each recording into account for the Wiener filter.

        Args:
            input_values: as for `forward`.
            statistics: what this returned for the pieces before.
            piece: as for `forward`.

        Returns:
            Sums over frames, for `statistics`; recordings are the first axis.
        """
        if statistics and not input_values.any():
            return dict(statistics)  # silence adds nothing
        mixture, wiener = self._spectrogram(input_values, piece), WienerFilter(statistics)
        band = mixture[..., : self.config.num_bins]
        wiener.add(self.estimate(band.abs()), band, mixture.abs().amax(dim=(1, 2, 3)))
        return wiener.sums()

    def _spectrogram(self, input_values: Tensor, piece: Piece | None) -> Tensor:
        n_fft, hop = self.config.n_fft, self.config.hop_length
        # of an inner piece, frames that reach behind its end belong to the next
        frames = (input_values.shape[-1] - n_fft) // hop + 1 if piece == "inner" else None
        return stft(input_values, n_fft, lead=piece is None, frames=frames)

    def estimate(self, magnitude: Tensor) -> Tensor:
        """What the networks take the magnitudes of the stems to be.

        Args:
            magnitude: of the mixture, (batch, 2, frames, num_bins), float32.

        Returns:
            (batch, num_sources, 2, frames, num_bins), float32.
        """
        batch, frames, length = magnitude.shape[0], magnitude.shape[2], self.config.segment_frames
        padded = F.pad(magnitude, (0, 0, 0, -frames % length))
        segments = padded.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
        at_once = 1 if magnitude.device.type == "cpu" else SEGMENTS_AT_ONCE
        if torch.is_grad_enabled():
            at_once = len(segments)
        logits = torch.cat([self._logits(part) for part in segments.split(at_once)])
        logits = logits.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4, 5).flatten(3, 4)[:, :, :, :frames]
        share = logits.sigmoid() if self.config.mask_activation == "sigmoid" else logits.softmax(dim=1)
        return share * magnitude.unsqueeze(1)

    def _logits(self, segments: Tensor) -> Tensor:
        """(segments, 2, segment_frames, num_bins) -> (segments, num_sources, 2, segment_frames, num_bins), float32."""
        networks: list[Any] = list(self.unets)
        dtype = dtype_of(networks[0].head)
        x = segments.to(dtype).contiguous(memory_format=torch.channels_last)
        return torch.stack([unet(x).float() for unet in networks], dim=1)

    def masks(self, estimates: Tensor) -> Tensor:
        """Ratio masks over all bins, (..., frames, n_fft / 2 + 1), from what `estimate` returns."""
        config = self.config
        stem = None if config.extension_stem is None else list(config.stems).index(config.extension_stem)
        bins = config.n_fft // 2 + 1
        return ratio_masks(estimates, config.separation_exponent, bins, config.mask_extension, stem)

    def _filtered(self, estimates: Tensor, mixture: Tensor, statistics: Mapping[str, Tensor] | None) -> Tensor:
        """Spectrograms of the stems, (batch, num_sources, 2, frames, bins), by the Wiener filter."""
        config, bins = self.config, self.config.num_bins
        wiener, band = WienerFilter(statistics), mixture[..., :bins]
        if not statistics:
            wiener.add(estimates, band, mixture.abs().amax(dim=(1, 2, 3)))
        separated = F.pad(wiener.filter(estimates, band), (0, mixture.shape[-1] - bins))
        if config.extension_stem is not None:
            separated[:, list(config.stems).index(config.extension_stem), ..., bins:] = mixture[..., bins:]
        return separated

    def _loss(self, estimates: Tensor, sources: Tensor, labels: Tensor, mixture: Tensor) -> Tensor:
        if self.config.loss != "l1_magnitude":
            return LOSSES[self.config.loss](sources, labels, mixture)
        targets = stft(labels, self.config.n_fft)[..., : self.config.num_bins].abs()
        return l1_magnitude(estimates, targets)


def l1_magnitude(estimates: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error on magnitudes, summed over the stems, (batch, num_sources, 2, frames, bins) both."""
    return (estimates.float() - targets.float()).abs().mean(dim=(0, 2, 3, 4)).sum()


__all__ = [
    "SpleeterForAudioSeparation",
    "SpleeterPreTrainedModel",
    "apply_mask",
    "can_fuse",
    "estimate_logits",
    "istft",
    "l1_magnitude",
    "ratio_masks",
    "stft",
]
