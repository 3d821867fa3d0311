# SPDX-License-Identifier: Apache-2.0
"""The mask network of a stage of Meta-TasNet: one small Conv-TasNet an instrument, all of them at once.

Decisions:
- All instruments read the same latents. The first product and the statistics of the first norm use them once, not a
  copy for each instrument, although groups of that norm reach over what the stage before hands over as well.
- PReLU comes before the norm, other than in Conv-TasNet, and its one slope is shared by all instruments.
- Residual and skip product of a block read the same and are one. The last residual product is never used and does not
  exist.
- The residual stream, the skip sum and the softmax over instruments are float32 in half precision too.
- When nothing is learnt, maps are overwritten where they are not needed any more, and what comes after the last norm
  runs in strips of frames: the masked latents replace what the masks are made from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_meta_tasnet import MetaTasNetConfig
from .layers_meta_tasnet import (
    InstrumentLayer,
    channel_sums,
    folded,
    norm,
    overwrites,
    pointwise,
    prelu,
    product,
    scale_and_shift,
)


STRIP_ELEMENTS = 2**18  # of a map of all instruments


class MetaTasNetBlock(nn.Module):
    """Pointwise, dilated depthwise and pointwise convolution of every instrument, with a norm after the first two.

    Returns what is added to the residual stream and to the skip sum, beside each other on the last axis.
    """

    def __init__(self, config: MetaTasNetConfig, index: int):
        super().__init__()
        bottleneck, hidden, bias = config.bottleneck_channels, config.hidden_channels, config.residual_bias
        last = index == config.num_blocks * config.num_repeats - 1
        self.dilation = 2 ** (index % config.num_blocks)
        self.residual_channels = 0 if last else bottleneck
        self.expand = pointwise(config, bottleneck, hidden)
        self.activation1 = nn.PReLU()
        self.norm1 = norm(config, hidden)
        self.convolution = InstrumentLayer(config, {"kernel": (hidden, config.conv_kernel_size)})
        self.activation2 = nn.PReLU()
        self.norm2 = norm(config, hidden)
        self.residual = None if last else pointwise(config, hidden, bottleneck, bias)
        self.skip = pointwise(config, hidden, bottleneck, bias)

    def forward(self, x: Tensor, embedding: Tensor | None, dtype: torch.dtype) -> Tensor:
        """x: (num_sources, batch, frames, bottleneck_channels), float32; products are made in `dtype`."""
        batch, frames = x.shape[1:3]
        kernel = self.expand(embedding)["kernel"].to(dtype)
        hidden = torch.bmm(x.to(dtype).flatten(1, 2), kernel.mT).unflatten(1, (batch, frames))
        hidden = prelu(self.activation1, hidden)
        scale, shift = scale_and_shift(channel_sums(hidden), frames, self.norm1(embedding)["affine"])
        hidden = prelu(self.activation2, self.convolve(hidden, scale, shift, self.convolution(embedding)["kernel"]))
        scale, shift = scale_and_shift(channel_sums(hidden), frames, self.norm2(embedding)["affine"])
        parts = [layer(embedding) for layer in (self.residual, self.skip) if layer is not None]
        bias = torch.cat([part["bias"] for part in parts], dim=1) if "bias" in parts[0] else None
        kernel = torch.cat([part["kernel"] for part in parts], dim=1)
        return product(hidden, *folded(kernel, scale, shift, bias, dtype)).float()

    def convolve(self, x: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor) -> Tensor:
        """The norm and the depthwise convolution, whose edges see zeros."""
        frames, reach = x.shape[2], (kernel.shape[-1] - 1) * self.dilation
        x = torch.addcmul(shift.unsqueeze(2).to(x.dtype), x, scale.unsqueeze(2).to(x.dtype))
        x = F.pad(x, (0, 0, reach // 2, reach // 2))
        taps = kernel.to(x.dtype)[:, None, None].unbind(dim=-1)
        result = x[:, :, :frames] * taps[0]
        for index, tap in enumerate(taps[1:], start=1):
            start = index * self.dilation
            if overwrites(x):
                result.addcmul_(x[:, :, start : start + frames], tap)
            else:
                result = torch.addcmul(result, x[:, :, start : start + frames], tap)
        return result


class MetaTasNetMasker(nn.Module):
    """Latents of the mixture to those of every instrument, by masks that add up to one."""

    def __init__(self, config: MetaTasNetConfig, stage: int):
        super().__init__()
        filters, bottleneck = config.num_filters * 2**stage, config.bottleneck_channels
        inputs = filters + (filters // 2 if stage else 0)
        self.activation1, self.norm1 = nn.PReLU(), norm(config, inputs)
        self.bottleneck = pointwise(config, inputs, bottleneck)
        self.activation2, self.norm2 = nn.PReLU(), norm(config, bottleneck)
        blocks = config.num_blocks * config.num_repeats
        self.blocks = nn.ModuleList(MetaTasNetBlock(config, index) for index in range(blocks))
        self.activation3, self.norm3 = nn.PReLU(), norm(config, bottleneck)
        self.head = pointwise(config, bottleneck, filters)
        self.activation4, self.norm4 = nn.PReLU(), norm(config, filters)

    def forward(self, latents: Tensor, hidden: Tensor | None, embedding: Tensor | None) -> Tensor:
        """Masked latents.

        Args:
            latents: of the mixture, (batch, frames, num_filters).
            hidden: masked latents of the stage before, (num_sources, batch, frames, num_filters / 2), or None.
            embedding: of the instruments, (num_sources, embedding_size), or None without generated weights.

        Returns:
            (num_sources, batch, frames, num_filters), in the dtype of `latents`.
        """
        frames, dtype = latents.shape[1], latents.dtype
        x = self._enter(latents, hidden, embedding)
        skip: Tensor | None = None
        for block in self.blocks:
            change = block(x, embedding, dtype)
            width = block.residual_channels
            if overwrites(x):
                x = x.add_(change[..., :width]) if width else x
                skip = change[..., width:].clone() if skip is None else skip.add_(change[..., width:])
            else:
                x = x + change[..., :width] if width else x
                skip = change[..., width:] if skip is None else skip + change[..., width:]
        assert skip is not None
        skip = prelu(self.activation3, skip)
        scale, shift = scale_and_shift(channel_sums(skip), frames, self.norm3(embedding)["affine"])
        weight, bias = folded(self.head(embedding)["kernel"], scale, shift, None, dtype)
        logits = prelu(self.activation4, product(skip.to(dtype), weight, bias))
        scale, shift = scale_and_shift(channel_sums(logits), frames, self.norm4(embedding)["affine"])
        return self._mask(logits, scale.unsqueeze(2), shift.unsqueeze(2), latents)

    def _enter(self, latents: Tensor, hidden: Tensor | None, embedding: Tensor | None) -> Tensor:
        """Up to the residual stream: (num_sources, batch, frames, bottleneck_channels), float32."""
        (frames, filters), dtype = latents.shape[1:], latents.dtype
        slope = self.activation1.weight
        rectified = F.prelu(latents, slope.to(dtype))
        kernel, affine = self.bottleneck(embedding)["kernel"], self.norm1(embedding)["affine"]
        sources, width = kernel.shape[:2]
        sums = channel_sums(rectified).unsqueeze(1).expand(-1, sources, -1, -1)
        if hidden is not None:
            hidden = F.prelu(hidden, slope.to(hidden.dtype))
            sums = torch.cat([sums, channel_sums(hidden)], dim=-1)
        weight, bias = folded(kernel, *scale_and_shift(sums, frames, affine), None, dtype)
        shared = weight[..., :filters].transpose(0, 1).flatten(1, 2)  # (batch, num_sources * width, filters)
        x = torch.bmm(rectified, shared.mT).unflatten(-1, (sources, width)).permute(2, 0, 1, 3)
        if hidden is None:
            x = x + bias.unsqueeze(2)
        else:
            x = x + product(hidden.to(dtype), weight[..., filters:], bias)
        x = prelu(self.activation2, x)
        scale, shift = scale_and_shift(channel_sums(x), frames, self.norm2(embedding)["affine"])
        return torch.addcmul(shift.unsqueeze(2), x.float(), scale.unsqueeze(2))

    def _mask(self, logits: Tensor, scale: Tensor, shift: Tensor, latents: Tensor) -> Tensor:
        if not overwrites(logits):
            masks = torch.addcmul(shift, logits.float(), scale).softmax(dim=0)
            return (masks * latents).to(latents.dtype)
        length = max(STRIP_ELEMENTS // logits[:, :, 0].numel(), 1)
        for start in range(0, logits.shape[2], length):
            strip = slice(start, start + length)
            masks = torch.addcmul(shift, logits[:, :, strip].float(), scale).softmax(dim=0)
            torch.mul(masks, latents[:, strip], out=masks)
            logits[:, :, strip] = masks
        return logits


__all__ = ["MetaTasNetBlock", "MetaTasNetMasker"]
