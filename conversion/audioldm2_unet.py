# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's U-Net: its sizes, from the shapes alone, and diffusers' model of it.

At every place of attention there is a chain of transformers: one without a context, then one for each context. A
context's width is that of the keys it makes; one whose keys are as wide as the level itself at every level has no
context and attends to itself. Heads are 32 wide, so their number grows with the channels: diffusers' default, eight
everywhere, gives another result from the same weights (0.08 on outputs of 0.58).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import ConversionError
from ..hub_bounds import shown
from .audioldm2_fields import filled, merged
from .audioldm2_names import UNET, forward, unet_pairs
from .common import count_of, shape_of


HEAD_WIDTH = 32
GROUPS = 32
MEL_FRAMES = 1_024  # 10.24 s, the length of every published model


def convert_unet(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], vae_scale: int) -> Any:
    """The U-Net.

    Args:
        tensors: by the authors' names, the U-Net's alone.
        overrides: fields of its configuration.
        vae_scale: mel frames for one frame of latents, which the length it was trained on follows from.
    """
    from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel

    fields = {**unet_fields(tensors), "sample_size": overrides.get("sample_size", MEL_FRAMES // vae_scale)}
    fields = merged("unet", fields, overrides, AudioLDM2UNet2DConditionModel)
    if "attention_head_dim" not in fields:
        fields["attention_head_dim"] = original_heads(fields)
    fields.setdefault("norm_num_groups", GROUPS)
    return filled(
        "unet",
        lambda: AudioLDM2UNet2DConditionModel(**fields),
        lambda: forward(tensors, unet_pairs(fields), UNET),
    )


def original_heads(fields: Mapping[str, Any]) -> list[int]:
    """Heads of each level, of the original's width; a level without attention gets a number nobody reads.

    Raises:
        ConversionError: that width does not divide a level that attends.
    """
    heads = []
    for channels, kind in zip(fields["block_out_channels"], fields["down_block_types"], strict=True):
        if channels % HEAD_WIDTH and kind.startswith("CrossAttn"):
            raise ConversionError(
                f"unet: {channels} channels are no multiple of {HEAD_WIDTH}, the width of the published models' "
                "heads, and no weight tells another: set unet={attention_head_dim: [HEADS OF EACH LEVEL]}"
            )
        heads.append(max(1, channels // HEAD_WIDTH))
    return heads


def unet_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of the configuration that the shapes tell.

    Raises:
        ConversionError: a tensor that sizes are read from is missing, or the blocks are not those of a U-Net.
    """
    base, latents = shape_of(tensors, f"{UNET}input_blocks.0.0.weight", 4)[:2]
    levels = count_of(tensors, rf"{UNET}input_blocks\.(\d+)\.0\.op\.") + 1
    blocks = count_of(tensors, rf"{UNET}input_blocks\.(\d+)\.")
    if blocks % levels or blocks // levels < 2:
        raise ConversionError(f"unet: {blocks} input blocks do not make {levels} levels of equally many layers")
    layers = blocks // levels - 1
    firsts = [f"{UNET}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    channels = [shape_of(tensors, f"{first}.0.out_layers.3.weight", 4)[0] for first in firsts]
    attending = [f"{first}.1.norm.weight" in tensors for first in firsts]
    chains = count_of(tensors, rf"{UNET}middle_block\.(\d+)\.") - 2
    fields: dict[str, Any] = {
        "in_channels": latents,
        "out_channels": shape_of(tensors, f"{UNET}out.2.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attending],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in attending[::-1]],
        "cross_attention_dim": [_contexts(tensors, firsts, attending, chains)] * levels,
        "transformer_layers_per_block": count_of(tensors, rf"{UNET}middle_block\.1\.transformer_blocks\.(\d+)\."),
    }
    if channels[0] != base:
        raise ConversionError(f"unet: the first level has {channels[0]} channels behind a stem of {base}")
    if f"{UNET}film_emb.weight" in tensors:
        fields.update(
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=shape_of(tensors, f"{UNET}film_emb.weight", 2)[1],
            class_embeddings_concat=True,
        )
    return fields


def _contexts(
    tensors: Mapping[str, Tensor], firsts: list[str], attending: list[bool], chains: int
) -> list[int | None]:
    """Width of the context of each transformer of a chain, None for one that attends to itself."""
    places = [first for first, here in zip(firsts, attending, strict=True) if here]
    contexts: list[int | None] = []
    for chain in range(1, chains + 1):
        keys = [f"{place}.{chain}.transformer_blocks.0.attn2.to_k.weight" for place in places]
        keys.append(f"{UNET}middle_block.{chain}.transformer_blocks.0.attn2.to_k.weight")
        shapes = [shape_of(tensors, key, 2) for key in keys]
        widths = {width for _, width in shapes}
        if all(width == channels for channels, width in shapes):
            contexts.append(None)
        elif len(widths) == 1:
            contexts.append(widths.pop())
        else:
            raise ConversionError(f"unet: transformer {chain} of a place has contexts of {shown(sorted(widths))}")
    if len(contexts) < 2 or contexts[0] is not None:
        raise ConversionError(
            f"unet: the contexts of a place are {shown(contexts)}; a chain begins without one and has others behind it"
        )
    return contexts


__all__ = ["HEAD_WIDTH", "convert_unet", "original_heads", "unet_fields"]
