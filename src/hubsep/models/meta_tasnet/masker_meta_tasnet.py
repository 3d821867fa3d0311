# SPDX-License-Identifier: Apache-2.0
"""The mask network of a stage of Meta-TasNet: one small Conv-TasNet an instrument, all of them at once.

Decisions:
- All instruments read the same latents. The first product and the statistics of the first norm use them once, not a
  copy for each instrument, although groups of that norm reach over what the stage before hands over as well.
- PReLU comes before the norm, other than in Conv-TasNet, and its one slope is shared by all instruments.
- Residual and skip product of a block read the same and are one. The last residual product is never used and does not
  exist.
- The residual stream, the skip sum and the softmax over instruments are float32 in half precision too.
- When nothing is learnt, on a processor, instruments go through the blocks one after the other: a map of one, 2.6 MB
  for 10 s, stays in the cache from layer to layer. All norms but the softmax's are an instrument's own. What comes
  after the last norm runs in strips of frames: the masked latents replace what the masks are made from.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import onednn
from ...layers import prelu
from .configuration_meta_tasnet import MetaTasNetConfig
from .layers_meta_tasnet import InstrumentLayer, folded, norm, pointwise, product, scale_and_shift
from .products_meta_tasnet import channel_moments, depthwise, joined_moments, overwrites, rows, strips


Tensors = dict[str, Tensor]  # of a layer, for all instruments


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
        scale, shift = scale_and_shift(channel_moments(hidden), self.norm1(embedding)["affine"])
        hidden = prelu(self.activation2, self.convolve(hidden, scale, shift, self.convolution(embedding)["kernel"]))
        scale, shift = scale_and_shift(channel_moments(hidden), self.norm2(embedding)["affine"])
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
            result = torch.addcmul(result, x[:, :, start : start + frames], tap)
        return result

    def tensors(self, embedding: Tensor | None) -> list[Tensors]:
        """What `overwrite` takes."""
        layers = (self.expand, self.norm1, self.convolution, self.norm2, self.skip, self.residual)
        return [layer(embedding) for layer in layers if layer is not None]

    def overwrite(self, x: Tensor, skip: Tensor, tensors: list[Tensors], source: int, dtype: torch.dtype) -> None:
        """What `forward` does for one instrument of one mixture, added right away; nothing is learnt.

        Args:
            x: residual stream, (frames, bottleneck_channels), float32.
            skip: skip sum, as `x`.
            tensors: of all instruments.
            source: which of them this is.
            dtype: of products.
        """
        expand, norm1, convolution, norm2, *outputs = tensors
        slopes = self.activation1.weight.item(), self.activation2.weight.item()
        hidden = rows(x.to(dtype), expand["kernel"][source].to(dtype), None, slopes[0])
        scale, shift = own_norm(hidden, norm1, source)
        kernel = convolution["kernel"][source : source + 1]
        if onednn.available(dtype):
            hidden = depthwise(hidden, scale[0, 0], shift[0, 0], kernel[0], self.dilation)
        else:
            hidden = self.convolve(hidden[None, None], scale, shift, kernel)[0, 0]
        hidden = F.leaky_relu_(hidden, slopes[1])
        norms = own_norm(hidden, norm2, source)
        for total, layer in zip((skip, x), outputs, strict=False):  # the last block has no residual product
            total.add_(rows(hidden, *own_product(layer, norms, source, dtype)))


def own_norm(x: Tensor, tensors: Tensors, source: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of the norm of an instrument's map (frames, channels), (1, 1, channels) both."""
    return scale_and_shift(channel_moments(x)[:, None, None], tensors["affine"][source : source + 1])


def own_product(
    tensors: Tensors, norms: tuple[Tensor, Tensor], source: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs) and bias (outputs,) of an instrument's product that follows a norm."""
    kernel, bias = (tensors[name][source : source + 1] if name in tensors else None for name in ("kernel", "bias"))
    assert kernel is not None
    weight, constant = folded(kernel, *norms, bias, dtype)
    return weight[0, 0], constant[0, 0]


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
        if overwrites(latents):
            return self._overwrite(latents, hidden, embedding)
        dtype = latents.dtype
        x = self._enter(latents, hidden, embedding)
        skip: Tensor | None = None
        for block in self.blocks:
            change = block(x, embedding, dtype)
            width = block.residual_channels
            x = x + change[..., :width] if width else x
            skip = change[..., width:] if skip is None else skip + change[..., width:]
        assert skip is not None
        skip = prelu(self.activation3, skip)
        scale, shift = scale_and_shift(channel_moments(skip), self.norm3(embedding)["affine"])
        weight, bias = folded(self.head(embedding)["kernel"], scale, shift, None, dtype)
        logits = prelu(self.activation4, product(skip.to(dtype), weight, bias))
        scale, shift = scale_and_shift(channel_moments(logits), self.norm4(embedding)["affine"])
        masks = torch.addcmul(shift.unsqueeze(2), logits.float(), scale.unsqueeze(2)).softmax(dim=0)
        return (masks * latents).to(dtype)

    def _enter(self, latents: Tensor, hidden: Tensor | None, embedding: Tensor | None) -> Tensor:
        """Up to the residual stream: (num_sources, batch, frames, bottleneck_channels), float32."""
        filters, dtype = latents.shape[2], latents.dtype
        rectified = prelu(self.activation1, latents)
        kernel, affine = self.bottleneck(embedding)["kernel"], self.norm1(embedding)["affine"]
        sources, width = kernel.shape[:2]
        moments = channel_moments(rectified).unsqueeze(1).expand(-1, sources, -1, -1)
        if hidden is not None:
            hidden = prelu(self.activation1, hidden)
            moments = torch.cat([moments, channel_moments(hidden)], dim=-1)
        weight, bias = folded(kernel, *scale_and_shift(moments, affine), None, dtype)
        shared = weight[..., :filters].transpose(0, 1).flatten(1, 2)  # (batch, num_sources * width, filters)
        x = torch.bmm(rectified, shared.mT).unflatten(-1, (sources, width)).permute(2, 0, 1, 3)
        if hidden is None:
            x = x + bias.unsqueeze(2)
        else:
            x = x + product(hidden.to(dtype), weight[..., filters:], bias)
        x = prelu(self.activation2, x)
        scale, shift = scale_and_shift(channel_moments(x), self.norm2(embedding)["affine"])
        return torch.addcmul(shift.unsqueeze(2), x.float(), scale.unsqueeze(2))

    def _overwrite(self, latents: Tensor, hidden: Tensor | None, embedding: Tensor | None) -> Tensor:
        """`forward`, one instrument of one mixture after the other; nothing is learnt."""
        dtype = latents.dtype
        blocks: list[Any] = list(self.blocks)
        written = [block.tensors(embedding) for block in blocks]
        enter = [layer(embedding) for layer in (self.norm1, self.bottleneck, self.norm2)]
        leave = [layer(embedding) for layer in (self.norm3, self.head, self.norm4)]
        sources = enter[0]["affine"].shape[0]
        logits = latents.new_empty(sources, *latents.shape)
        for item, latent in enumerate(latents):
            rectified = F.leaky_relu(latent, self.activation1.weight.item())
            moments, norms = channel_moments(rectified), []
            for source in range(sources):
                before = None if hidden is None else hidden[source, item].to(dtype)
                x = self._enter_alone(rectified, moments, before, enter, source)
                skip = torch.zeros_like(x)
                for block, tensors in zip(blocks, written, strict=True):
                    block.overwrite(x, skip, tensors, source, dtype)
                norms.append(self._leave_alone(skip, logits[source, item], leave, source))
            scale, shift = (torch.cat(parts) for parts in zip(*norms, strict=True))
            self._mask_alone(logits[:, item], scale, shift, latent)
        return logits

    def _enter_alone(
        self, rectified: Tensor, moments: Tensor, hidden: Tensor | None, layers: list[Tensors], source: int
    ) -> Tensor:
        """The residual stream of an instrument, (frames, bottleneck_channels), float32.

        Args:
            rectified: latents of the mixture after PReLU, (frames, num_filters).
            moments: of `rectified`, from `channel_moments`.
            hidden: masked latents of the stage before, (frames, num_filters / 2), or None.
            layers: tensors of the two norms and of the product between them.
            source: which instrument this is.
        """
        norm1, product1, norm2 = layers
        filters = rectified.shape[1]
        if hidden is not None:
            hidden = F.leaky_relu(hidden, self.activation1.weight.item())
            moments = torch.cat([moments, channel_moments(hidden)], dim=-1)
        norms = scale_and_shift(moments[:, None, None], norm1["affine"][source : source + 1])
        weight, bias = own_product(product1, norms, source, rectified.dtype)
        x = rows(rectified, weight[:, :filters], bias)
        if hidden is not None:
            x.add_(rows(hidden, weight[:, filters:]))
        x = F.leaky_relu_(x, self.activation2.weight.item())
        scale, shift = own_norm(x, norm2, source)
        return torch.addcmul(shift[0], x.float(), scale[0])

    def _leave_alone(self, skip: Tensor, logits: Tensor, layers: list[Tensors], source: int) -> tuple[Tensor, Tensor]:
        """Fills an instrument's logits, (frames, num_filters), and gives scale and shift of the norm after them."""
        norm3, head, norm4 = layers
        skip = F.leaky_relu_(skip, self.activation3.weight.item())
        weight, bias = own_product(head, own_norm(skip, norm3, source), source, logits.dtype)
        slope, moments, parts = self.activation4.weight.item(), [], list(strips(*logits.shape))
        for strip in parts:
            part = rows(skip[strip].to(logits.dtype), weight, bias, slope)
            moments.append(channel_moments(part))
            logits[strip] = part
        affine = norm4["affine"][source : source + 1]
        together = joined_moments(moments, [strip.stop - strip.start for strip in parts])
        return scale_and_shift(together[:, None, None], affine)

    def _mask_alone(self, logits: Tensor, scale: Tensor, shift: Tensor, latents: Tensor) -> None:
        """Replaces the logits of a mixture, (num_sources, frames, num_filters), by its masked latents."""
        for strip in strips(logits.shape[1], logits[:, 0].numel()):
            masks = torch.addcmul(shift, logits[:, strip].float(), scale).softmax(dim=0)
            logits[:, strip] = masks.mul_(latents[strip])


__all__ = ["MetaTasNetBlock", "MetaTasNetMasker"]
