# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's U-Net, VAE and vocoder as its authors lay them out, in the few lines that take a tensor to a result.

Written from the papers (latent diffusion, 2112.10752; HiFi-GAN, 2010.05646) with the authors' names for the modules,
so that a state made here is what they publish, and what a converted model makes can be compared with what this makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


GROUPS, HEAD = 32, 32


class Residual(nn.Module):
    """Of the U-Net."""

    def __init__(self, channels: int, out: int, time: int):
        super().__init__()
        norms = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, out)
        convs = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(norms[0], nn.SiLU(), convs[0])
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, out))
        self.out_layers = nn.Sequential(norms[1], nn.SiLU(), nn.Identity(), convs[1])
        self.skip_connection = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, states: Tensor, time: Tensor, contexts: list[Tensor]) -> Tensor:
        inner = self.in_layers(states) + self.emb_layers(time)[..., None, None]
        return self.skip_connection(states) + self.out_layers(inner)


class Attention(nn.Module):
    def __init__(self, channels: int, context: int):
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, channels, bias=False) for _ in "kv")
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Identity())

    def forward(self, states: Tensor, context: Tensor) -> Tensor:
        parts = self.to_q(states), self.to_k(context), self.to_v(context)
        heads = [part.unflatten(2, (-1, HEAD)).transpose(1, 2) for part in parts]
        weights = (heads[0] @ heads[1].transpose(2, 3) / math.sqrt(HEAD)).softmax(-1)
        return self.to_out((weights @ heads[2]).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, states: Tensor) -> Tensor:
        value, gate = self.proj(states).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(Gated(channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, states: Tensor) -> Tensor:
        return self.net(states)


class Layer(nn.Module):
    def __init__(self, channels: int, context: int | None):
        super().__init__()
        self.attn1, self.attn2 = Attention(channels, channels), Attention(channels, context or channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.ff = FeedForward(channels)

    def forward(self, states: Tensor, context: Tensor | None) -> Tensor:
        normed = self.norm1(states)
        states = states + self.attn1(normed, normed)
        normed = self.norm2(states)
        states = states + self.attn2(normed, normed if context is None else context)
        return states + self.ff(self.norm3(states))


class Transformer(nn.Module):
    def __init__(self, channels: int, context: int | None, number: int | None, depth: int):
        super().__init__()
        self.number = number
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.transformer_blocks = nn.ModuleList(Layer(channels, context) for _ in range(depth))

    def forward(self, states: Tensor, time: Tensor, contexts: list[Tensor]) -> Tensor:
        inner = self.proj_in(self.norm(states))
        size, inner = inner.shape[2:], inner.flatten(2).transpose(1, 2)
        for layer in self.transformer_blocks:
            inner = layer(inner, None if self.number is None else contexts[self.number])
        return states + self.proj_out(inner.transpose(1, 2).unflatten(2, size))


class Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, states: Tensor, time: Tensor, contexts: list[Tensor]) -> Tensor:
        return self.op(states)


class Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, states: Tensor, time: Tensor, contexts: list[Tensor]) -> Tensor:
        return self.conv(functional.interpolate(states, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """`contexts` are the widths of the contexts, None for one more transformer that attends to itself."""

    def __init__(
        self,
        latents: int = 4,
        base: int = 32,
        multiples: Sequence[int] = (1, 2, 3),
        layers: int = 1,
        contexts: Sequence[int | None] = (16, 32),
        depth: int = 1,
        film: int | None = None,
    ):
        super().__init__()
        time, channels = 4 * base, [base * multiple for multiple in multiples]
        inside = time if film is None else 2 * time
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        if film is not None:
            self.film_emb = nn.Linear(film, time)
        numbers = iter(range(len(contexts)))
        chain = [(None, None), *((width, None if width is None else next(numbers)) for width in contexts)]

        def place(entering: int, out: int, attends: bool) -> list[nn.Module]:
            attention = [Transformer(out, width, number, depth) for width, number in chain] if attends else []
            return [Residual(entering, out, inside), *attention]

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(latents, base, 3, padding=1)])])
        kept, last = [base], base
        for level, out in enumerate(channels):
            for _ in range(layers):
                self.input_blocks.append(nn.ModuleList(place(last, out, level > 0)))
                kept, last = [*kept, out], out
            if level + 1 < len(channels):
                self.input_blocks.append(nn.ModuleList([Down(out)]))
                kept = [*kept, out]
        self.middle_block = nn.ModuleList([*place(last, last, True), Residual(last, last, inside)])
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(channels))):
            for layer in range(layers + 1):
                block = place(last + kept.pop(), out, level > 0)
                self.output_blocks.append(nn.ModuleList([*block, *([Up(out)] if level and layer == layers else [])]))
                last = out
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, base), nn.SiLU(), nn.Conv2d(base, latents, 3, padding=1))

    def forward(self, states: Tensor, step: Tensor, contexts: list[Tensor], film: Tensor | None = None) -> Tensor:
        rates = torch.exp(-math.log(10_000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = step[:, None].float() * rates
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        if film is not None:
            time = torch.cat([time, self.film_emb(film)], dim=1)
        states = self.input_blocks[0][0](states)  # type: ignore[index]
        kept = [states]
        for block in list(self.input_blocks)[1:]:
            states = _through(block, states, time, contexts)
            kept.append(states)
        states = _through(self.middle_block, states, time, contexts)
        for block in self.output_blocks:
            states = _through(block, torch.cat([states, kept.pop()], dim=1), time, contexts)
        return self.out(states)


def _through(block: nn.Module, states: Tensor, time: Tensor, contexts: list[Tensor]) -> Tensor:
    for module in block.children():
        states = module(states, time, contexts)
    return states


class Plain(nn.Module):
    """Residual block of the VAE."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(GROUPS, width, eps=1e-6) for width in (channels, out))
        self.conv1, self.conv2 = (nn.Conv2d(width, out, 3, padding=1) for width in (channels, out))
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, states: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(states)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (self.nin_shortcut(states) if hasattr(self, "nin_shortcut") else states)


class OneHead(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        normed = self.norm(states)
        query, key, value = (part(normed).flatten(2) for part in (self.q, self.k, self.v))
        weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(-1)
        return states + self.proj_out((value @ weights.transpose(1, 2)).unflatten(2, states.shape[2:]))


def _module(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class Half(nn.Module):
    """The encoder or decoder of the VAE."""

    def __init__(self, encodes: bool, bands: int, latents: int, channels: Sequence[int], layers: int):
        super().__init__()
        self.encodes, last = encodes, channels[-1]
        self.conv_in = nn.Conv2d(*((bands, channels[0]) if encodes else (latents, last)), 3, padding=1)
        self.mid = _module(block_1=Plain(last, last), attn_1=OneHead(last), block_2=Plain(last, last))
        levels, entering = [], channels[0] if encodes else last
        for number, out in enumerate(channels) if encodes else reversed(list(enumerate(channels))):
            widths = [entering, *[out] * layers] if encodes else [entering, *[out] * (layers + 1)]
            level = _module(block=nn.ModuleList(map(Plain, widths[:-1], widths[1:])))
            if encodes and number + 1 < len(channels):
                level.downsample = _module(conv=nn.Conv2d(out, out, 3, stride=2))
            if not encodes and number:
                level.upsample = _module(conv=nn.Conv2d(out, out, 3, padding=1))
            levels.append(level)
            entering = out
        self.add_module("down" if encodes else "up", nn.ModuleList(levels if encodes else levels[::-1]))
        end = channels[-1] if encodes else channels[0]
        self.norm_out = nn.GroupNorm(GROUPS, end, eps=1e-6)
        self.conv_out = nn.Conv2d(end, 2 * latents if encodes else bands, 3, padding=1)

    def forward(self, states: Tensor) -> Tensor:
        states = self.conv_in(states)
        if not self.encodes:
            states = self._middle(states)
        levels: Any = self.down if self.encodes else list(self.up)[::-1]  # type: ignore[arg-type]
        for level in levels:
            for block in level.block:
                states = block(states)
            if hasattr(level, "downsample"):
                states = level.downsample.conv(functional.pad(states, (0, 1, 0, 1)))
            if hasattr(level, "upsample"):
                states = level.upsample.conv(functional.interpolate(states, scale_factor=2, mode="nearest"))
        if self.encodes:
            states = self._middle(states)
        return self.conv_out(functional.silu(self.norm_out(states)))

    def _middle(self, states: Tensor) -> Tensor:
        for module in self.mid.children():
            states = module(states)
        return states


class VAE(nn.Module):
    def __init__(self, latents: int = 4, channels: Sequence[int] = (32, 64), layers: int = 1):
        super().__init__()
        self.encoder = Half(True, 1, latents, channels, layers)
        self.decoder = Half(False, 1, latents, channels, layers)
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)


class Vocoder(nn.Module):
    def __init__(
        self,
        bands: int = 8,
        channels: int = 16,
        rates: Sequence[int] = (5, 4),
        kernels: Sequence[int] = (10, 8),
        inner: Sequence[int] = (3, 5),
    ):
        super().__init__()
        self.conv_pre = nn.Conv1d(bands, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(rates, kernels, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=padding))
            channels //= 2
            for size in inner:
                convs = [
                    nn.ModuleList(
                        nn.Conv1d(channels, channels, size, dilation=step, padding=step * (size - 1) // 2)
                        for step in steps
                    )
                    for steps in ((1, 3, 5), (1, 1, 1))
                ]
                self.resblocks.append(_module(convs1=convs[0], convs2=convs[1]))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        states, each = self.conv_pre(mel), len(self.resblocks) // len(self.ups)
        for stage, up in enumerate(self.ups):
            states = up(functional.leaky_relu(states, 0.1))
            blocks = list(self.resblocks)[stage * each : (stage + 1) * each]
            states = sum((_residual(block, states) for block in blocks), torch.zeros(())) / each
        return self.conv_post(functional.leaky_relu(states)).tanh()


def _residual(block: nn.Module, states: Tensor) -> Tensor:
    for first, second in zip(block.convs1, block.convs2, strict=True):  # type: ignore[arg-type]
        inner = first(functional.leaky_relu(states, 0.1))
        states = states + second(functional.leaky_relu(inner, 0.1))
    return states
