# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet on a live recording: blocks of any size in, what is final of the sources out.

A causal model with norms that do not look ahead gives a sample as soon as the last frame that holds it is there. What
comes out is what the model makes of the whole recording at once, but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import AudioError
from ...layers import overlap_add
from .modeling_conv_tasnet import ConvTasNetForAudioSeparation, MaskerState


class ConvTasNetStream:
    """Separates a recording while it is made; one object a recording, or a batch of recordings in step.

    Args:
        model: a model whose configuration has `causal=True` and the norm "cln" or "cgln", in evaluation mode.

    Raises:
        AudioError: the model cannot be streamed.
    """

    def __init__(self, model: ConvTasNetForAudioSeparation):
        config = model.config
        if not config.can_stream:
            raise AudioError(
                f"this model cannot be streamed: it has causal={config.causal} and the norm {config.norm!r}; a model "
                "with causal=True and the norm 'cln' or 'cgln' can"
            )
        self.model = model
        self._start()

    @property
    def latency_samples(self) -> int:
        """How many samples after a sample must be heard, at most, before that sample of the sources comes out."""
        return self.model.config.kernel_size - 1

    @torch.no_grad()
    def process(self, waveform: Tensor) -> Tensor:
        """Takes the next block.

        Args:
            waveform: (batch, 1, samples), of any length, 0 included.

        Returns:
            What has become final of the sources, (batch, num_sources, 1, samples), float32; at first, and after short
            blocks, there may be no samples in it.

        Raises:
            AudioError: the block has another rank or channel count, or another batch size than the ones before.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 1:
            raise AudioError(f"waveform must be (batch, 1, samples), got {tuple(waveform.shape)}")
        if self.pending is not None and len(self.pending) != len(waveform):
            raise AudioError(f"the stream began with a batch of {len(self.pending)}, this block has {len(waveform)}")
        self.heard += waveform.shape[-1]
        return self._advance(waveform[:, 0].float())

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Ends the recording, and returns what is left of the sources; after that a new recording may begin.

        Raises:
            AudioError: fewer samples were heard than the model needs.
        """
        config, heard, minimum = self.model.config, self.heard, self.model.config.minimum_samples
        if self.pending is None or heard < minimum:
            raise AudioError(f"the stream heard {heard} samples; a frame needs at least {minimum}")
        missing = heard - self.given
        if config.pad_edges:
            padding = config.stride + (config.kernel_size - heard) % config.stride
            rest = self._advance(self.pending.new_zeros(len(self.pending), padding))
        else:
            rest = self.tail.new_zeros(*self.tail.shape[:2], 1, 0)
        rest = torch.cat([rest, self.tail.unsqueeze(2)], dim=-1)
        self._start()
        return torch.nn.functional.pad(rest, (0, missing - rest.shape[-1]))

    def _start(self) -> None:
        config = self.model.config
        self.heard, self.given = 0, 0
        self.skipped = config.stride if config.pad_edges else 0  # samples of the padding, still to be dropped
        self.state = MaskerState(config.num_blocks * config.num_repeats)
        self.pending: Tensor | None = None  # samples of frames that are not whole yet, (batch, samples)
        self.tail = torch.empty(0)  # of sources that frames to come add to, (batch, num_sources, samples)

    def _advance(self, waveform: Tensor) -> Tensor:
        config = self.model.config
        if self.pending is None:
            self.pending = waveform.new_zeros(len(waveform), self.skipped)
            self.tail = waveform.new_zeros(len(waveform), config.num_sources, config.kernel_size - config.stride)
        waveform = torch.cat([self.pending, waveform], dim=-1)
        frames = max((waveform.shape[-1] - config.kernel_size) // config.stride + 1, 0)
        self.pending = waveform[:, frames * config.stride :].clone()
        if frames == 0:
            return self.tail.new_zeros(*self.tail.shape[:2], 1, 0)
        framed = waveform.unfold(-1, config.kernel_size, config.stride)
        sources = overlap_add(torch.cat(list(self.model.stream(framed, self.state)), dim=1), config.stride)
        sources[..., : self.tail.shape[-1]] += self.tail
        final = sources[..., self.skipped : frames * config.stride]
        self.tail = sources[..., frames * config.stride :].clone()
        self.skipped = max(self.skipped - frames * config.stride, 0)
        self.given += final.shape[-1]
        return final.unsqueeze(2)


__all__ = ["ConvTasNetStream"]
