# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's U-Net and autoencoder in bfloat16 on a processor: the same sums as diffusers', with less around them.

For the time of a call, blocks that are what diffusers makes of the published configuration run as written here, with
the products of `products`; everything else runs as it is. Decisions:
- Maps stay with their channels last, which is how oneDNN convolves; between convolutions and attention nothing moves.
- It is up to each block whether it can be run here, and looked up at each call: layers that are wrapped (adapters) or
  hooked, and attention processors that were put in, are called.
- Weights are laid out once in a call, in a copy (0.7 GB at the published base size, until the call ends), so that the
  model itself stays what it was: trained, saved, adapted, moved. Where components are loaded on demand, memory counts
  more than time: there the weights are used as they lie.
- float32 is left to diffusers: its products are at 96 % of what the processor can do. What bfloat16 can win is bounded
  by its own products: 2.2 to 2.7 times as fast on a Zen 4, 4.4 to 5.3 times on a Zen 5, neither with matrix units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hubsep import onednn

from ..attention import ConstantContext
from ..loading.on_demand import OnDemandHook
from .products import Convolution, Doubled, Product, apply, as_maps, as_rows, attended, product_of


Result = TypeVar("Result")
PLACES = 32  # from which on attention as written here is faster than torch's own


class Block(Generic[Result]):
    """A block of diffusers that runs here, where it can.

    Args:
        module: the block.
        pack: whether weights are laid out once.
    """

    def __init__(self, module: Any, pack: bool):
        self.module, self.pack = module, pack
        self.own: Callable[..., Result] = module.forward


class Residual(Block[Tensor]):
    """Two convolutions, `ResnetBlock2D`."""

    def __call__(self, maps: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """As the block's."""
        block = self.module
        # an autoencoder's blocks call their second norm "group", which is what it is without times to be told
        usual = block.time_embedding_norm == "default" or (block.time_embedding_norm == "group" and temb is None)
        plain = usual and block.output_scale_factor == 1 and not block.training
        second = block.conv2.__dict__.get("forward")
        convolutions = isinstance(second, Convolution) and not (block.conv2._forward_hooks or block.up or block.down)
        if not (plain and convolutions and isinstance(block.nonlinearity, nn.SiLU)) or args or kwargs:
            return self.own(maps, temb, *args, **kwargs)
        states = block.conv1(silu(block.norm1(maps), inplace=True))
        if temb is not None and block.time_emb_proj is not None:
            states += block.time_emb_proj(temb if block.skip_time_act else silu(temb))[:, :, None, None]
        residual = maps if block.conv_shortcut is None else block.conv_shortcut(maps)
        return second(silu(block.norm2(states), inplace=True), plus=residual)


class Enlarging(Block[Tensor]):
    """A map enlarged and convolved, `Upsample2D`."""

    def __init__(self, module: Any, pack: bool):
        super().__init__(module, pack)
        self._doubled = Doubled(module.conv) if type(getattr(module, "conv", None)) is nn.Conv2d else None

    def __call__(self, maps: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """As the block's."""
        module, conv = self.module, getattr(self.module, "conv", None)
        double = output_size is None or tuple(output_size) == (2 * maps.shape[2], 2 * maps.shape[3])
        usual = module.interpolate and module.use_conv and not module.use_conv_transpose and module.norm is None
        if self._doubled is None or not (double and usual and is_centred(conv)) or maps.shape[3] <= 2:
            return self.own(maps, output_size, *args, **kwargs)
        return self._doubled(maps)


def is_centred(layer: Any) -> bool:
    """Whether that is a convolution that runs here, of 3 by 3 taps around each place."""
    if not isinstance(layer.__dict__.get("forward"), Convolution) or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    places = layer.padding, layer.stride, layer.dilation, layer.groups
    return layer.kernel_size == (3, 3) and places == ((1, 1), (1, 1), (1, 1), 1)


class Spatial(Block[Any]):
    """Attention over the places of a map, `Transformer2DModel`."""

    def __call__(self, hidden_states: Tensor, return_dict: bool = True, **kwargs: Any) -> Any:
        """As the block's."""
        transformer = self.module
        entry, leave = (product_of(layer) for layer in (transformer.proj_in, transformer.proj_out))
        if entry is None or leave is None or return_dict or not transformer.is_input_continuous:
            return self.own(hidden_states, return_dict=return_dict, **kwargs)
        residual = as_rows(hidden_states)
        states = entry(as_rows(transformer.norm(hidden_states)).flatten(1, 2))
        for block in transformer.transformer_blocks:
            states = block(states, **kwargs)
        return (as_maps(leave(states, plus=residual.flatten(1, 2)).view_as(residual)),)


class Transformer(Block[Tensor]):
    """Attention twice and a gated layer, `BasicTransformerBlock`."""

    def __init__(self, module: Any, pack: bool):
        super().__init__(module, pack)
        self._wide = getattr(module.ff.net[0], "proj", None)
        self._halves: tuple[Product, Product] | None = None
        if type(self._wide) is nn.Linear:
            half = self._wide.out_features // 2
            parts = slice(0, half), slice(half, None)
            self._halves = Product(self._wide, pack, parts[0]), Product(self._wide, pack, parts[1])

    def __call__(
        self,
        states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As the block's."""
        block = self.module
        unusual = attention_mask is not None or any(value is not None for value in kwargs.values())
        simple = block.norm_type == "layer_norm" and block.pos_embed is None and block.attn2 is not None
        if unusual or not simple or block.only_cross_attention or block._chunk_size is not None:
            context = encoder_hidden_states, encoder_attention_mask
            return self.own(states, attention_mask, *context, **kwargs)
        states = attend(block.attn1, block.norm1(states), states, None, None)
        states = attend(block.attn2, block.norm2(states), states, encoder_hidden_states, encoder_attention_mask)
        return self._feed(block.norm3(states), states)

    def _feed(self, states: Tensor, residual: Tensor) -> Tensor:
        net = self.module.ff.net
        gated = type(net[0]).__name__ == "GEGLU" and product_of(net[0].proj) is not None
        if not gated or self._halves is None or len(net) != 3:
            output: Tensor = self.module.ff(states) + residual
            return output
        wide, gate = self._halves
        return apply(net[2], wide(states, times=gate(states, after="gelu")), residual)


class MapAttention(Block[Tensor]):
    """Attention of every place of a map to every one, `Attention` as it stands in the middle of an autoencoder."""

    def __call__(self, maps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the block's."""
        attention = self.module
        unusual = args or any(value is not None for value in kwargs.values())
        if unusual or maps.ndim != 4 or not is_plain(attention, on_maps=True):
            return self.own(maps, *args, **kwargs)
        residual = as_rows(maps)
        states = as_rows(attention.group_norm(maps)).flatten(1, 2)
        return as_maps(self_attention(attention, states, residual.flatten(1, 2)).view_as(residual))


def attend(attn: Any, states: Tensor, residual: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
    """What an attention of diffusers makes of states, added to `residual`."""
    if context is not None or mask is not None or states.shape[1] < PLACES or not is_plain(attn):
        output: Tensor = attn(states, encoder_hidden_states=context, attention_mask=mask)
        return output + residual
    return self_attention(attn, states, residual)


def self_attention(attn: Any, states: Tensor, residual: Tensor) -> Tensor:
    """What an attention whose `is_plain` holds makes of states that attend to each other, added to `residual`."""
    queries, keys, values = (
        layer(states).unflatten(2, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    return apply(attn.to_out[0], attended(queries, keys, values, attn.scale), residual)


def is_plain(attn: Any, *, on_maps: bool = False) -> bool:
    """Whether an attention is the usual one, with the processor that diffusers gives it.

    Args:
        attn: the attention.
        on_maps: whether it is to be one over maps, which it normalises and adds to what comes out.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    processor = attn.processor
    if type(processor) is ConstantContext:
        processor = processor.otherwise
    norms = attn.spatial_norm, attn.norm_q, attn.norm_k
    ends = attn.residual_connection != on_maps or (attn.group_norm is not None) != on_maps
    changed = attn.rescale_output_factor != 1 or attn.training or attn._forward_hooks or attn._forward_pre_hooks
    return type(processor) is AttnProcessor2_0 and not (ends or changed) and all(norm is None for norm in norms)


BLOCKS: dict[str, type[Block[Any]]] = {
    "ResnetBlock2D": Residual,
    "Upsample2D": Enlarging,
    "Transformer2DModel": Spatial,
    "BasicTransformerBlock": Transformer,
    "Attention": MapAttention,
}


@contextmanager
def on_processor(unet: Any, device: torch.device) -> Iterator[None]:
    """Runs a U-Net or autoencoder as written here for the time of a `with` block, where that can be.

    Args:
        unet: the model, of diffusers.
        device: where it works.
    """
    pack = not isinstance(getattr(unet, "_hf_hook", None), OnDemandHook)
    modules = unet.modules() if device.type == "cpu" and _applies(unet) else ()
    stands = [(module, stand) for module in modules if (stand := _stand(module, pack)) is not None]
    try:
        for module, stand in stands:
            module.forward = stand
        yield
    finally:
        for module, _ in stands:
            del module.forward


def _stand(module: Any, pack: bool) -> Block[Any] | Product | Convolution | None:
    """What runs in place of a module, None if it is not known or not in bfloat16."""
    kind = type(module)
    if kind.__name__ in BLOCKS and kind.__module__.startswith("diffusers."):
        return BLOCKS[kind.__name__](module, pack)
    if kind not in (nn.Linear, nn.Conv2d) or module.weight.dtype != torch.bfloat16:
        return None
    if module.weight.device.type not in ("cpu", "meta"):  # "meta" until it is loaded on demand
        return None
    if kind is nn.Linear:
        return Product(module, pack)
    usual = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return Convolution(module, pack) if usual else None


def _applies(unet: Any) -> bool:
    if isinstance(unet, torch._dynamo.eval_frame.OptimizedModule) or unet.dtype != torch.bfloat16:
        return False
    learning = torch.is_grad_enabled() or unet.training or torch.is_autocast_enabled("cpu")
    # layers that are moved one by one have a `forward` of accelerate's
    moved = any("forward" in module.__dict__ for module in unet.modules() if module is not unet)
    return not learning and not moved and onednn.available(torch.bfloat16)


__all__ = ["on_processor"]
