# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2's authors call their modules, and what diffusers and transformers call them.

A part is described once, as pairs of modules whose tensors have the same last names, or of single tensors; both
directions are read from the same pairs. How many pairs there are follows from the sizes, which stand in the
configuration of the model that is built. Where only the last axes differ (convolutions of one step that became linear
layers), `squeezed` says which tensors those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hubsep.errors import ConversionError

from ..common import offenders


Pairs = list[tuple[str, str]]

UNET, VAE, VOCODER = "model.diffusion_model.", "first_stage_model.", "first_stage_model.vocoder."
UNET_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
VAE_RESNET = {**dict.fromkeys(("norm1", "conv1", "norm2", "conv2")), "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VITS_ATTENTION = {"conv_q": "q_proj", "conv_k": "k_proj", "conv_v": "v_proj", "conv_o": "out_proj"}
VITS_NORM = {"gamma": "weight", "beta": "bias"}


def _inner(source: str, target: str, names: Mapping[str, str | None]) -> Pairs:
    return [(f"{source}.{theirs}", f"{target}.{ours or theirs}") for theirs, ours in names.items()]


def unet_pairs(config: Mapping[str, Any]) -> Pairs:
    """Pairs of a U-Net with the fields of `AudioLDM2UNet2DConditionModel`."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    chains = len(config["cross_attention_dim"][0])
    attending = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    pairs = [
        ("input_blocks.0.0", "conv_in"), ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"), ("film_emb", "class_embedding"),
        ("out.0", "conv_norm_out"), ("out.2", "conv_out"),
    ]  # fmt: skip
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for layer in range(layers):
            place = f"input_blocks.{first + layer}"
            pairs += _place(place, f"down_blocks.{level}", layer, chains if attending[level] else 0)
        pairs.append((f"input_blocks.{first + layers}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
    pairs += _inner("middle_block.0", "mid_block.resnets.0", UNET_RESNET)
    pairs += [(f"middle_block.{1 + chain}", f"mid_block.attentions.{chain}") for chain in range(chains)]
    pairs += _inner(f"middle_block.{1 + chains}", "mid_block.resnets.1", UNET_RESNET)
    for level in range(levels):
        here = chains if attending[levels - 1 - level] else 0
        for layer in range(layers + 1):
            place = f"output_blocks.{level * (layers + 1) + layer}"
            pairs += _place(place, f"up_blocks.{level}", layer, here)
        pairs.append((f"{place}.{1 + here}.conv", f"up_blocks.{level}.upsamplers.0.conv"))
    return pairs


def _place(source: str, target: str, layer: int, chains: int) -> Pairs:
    """A residual block and the attention behind it, which diffusers numbers through over the layers of a level."""
    attentions = [
        (f"{source}.{1 + chain}", f"{target}.attentions.{layer * chains + chain}") for chain in range(chains)
    ]
    return [*_inner(f"{source}.0", f"{target}.resnets.{layer}", UNET_RESNET), *attentions]


def vae_pairs(config: Mapping[str, Any]) -> Pairs:
    """Pairs of an `AutoencoderKL`; the original counts the levels of its decoder from the finest one."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    for half in ("encoder", "decoder"):
        pairs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{half}.norm_out", f"{half}.conv_norm_out"))
        for number in (0, 1):
            pairs += _inner(f"{half}.mid.block_{number + 1}", f"{half}.mid_block.resnets.{number}", VAE_RESNET)
        pairs += _inner(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", VAE_ATTENTION)
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layers + 1):
            pairs += _inner(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}", VAE_RESNET)
        for layer in range(layers):
            pairs += _inner(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}", VAE_RESNET)
        pairs.append((f"encoder.down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"))
        pairs.append((f"decoder.up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"))
    return pairs


def vocoder_pairs(config: Mapping[str, Any]) -> Pairs:
    """Pairs of a `SpeechT5HifiGan`."""
    stages, kernels = len(config["upsample_rates"]), len(config["resblock_kernel_sizes"])
    pairs = [("conv_pre", "conv_pre"), ("conv_post", "conv_post")]
    pairs += [(f"ups.{stage}", f"upsampler.{stage}") for stage in range(stages)]
    return pairs + [(f"resblocks.{block}", f"resblocks.{block}") for block in range(stages * kernels)]


def phoneme_pairs(config: Mapping[str, Any]) -> Pairs:
    """Pairs of the text encoder of a `VitsModel`; of tensors whose last names differ, one by one."""
    pairs = [("emb", "embed_tokens"), ("proj", "project")]
    for layer in range(config["num_hidden_layers"]):
        ours = f"encoder.layers.{layer}"
        pairs += _inner(f"encoder.attn_layers.{layer}", f"{ours}.attention", VITS_ATTENTION)
        for name in ("conv_1", "conv_2"):
            pairs.append((f"encoder.ffn_layers.{layer}.{name}", f"{ours}.feed_forward.{name}"))
        for name in ("emb_rel_k", "emb_rel_v"):
            pairs.append((f"encoder.attn_layers.{layer}.{name}", f"{ours}.attention.{name}"))
        pairs += _inner(f"encoder.norm_layers_1.{layer}", f"{ours}.layer_norm", VITS_NORM)
        pairs += _inner(f"encoder.norm_layers_2.{layer}", f"{ours}.final_layer_norm", VITS_NORM)
    return pairs


def squeezed(config: Mapping[str, Any], pairs: Pairs) -> set[str]:
    """Weights, by our names, that the original keeps with axes of one step."""
    ours = {*VITS_ATTENTION.values()} if "num_hidden_layers" in config else {*VAE_ATTENTION.values()} - {"group_norm"}
    return {f"{target}.weight" for _, target in pairs if any(target.endswith(f".{name}") for name in ours)}


def reverse(pairs: Pairs) -> Pairs:
    """The same pairs from our names to the authors'."""
    return [(ours, theirs) for theirs, ours in pairs]


def forward(
    tensors: Mapping[str, Tensor], pairs: Pairs, prefix: str = "", squeeze: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Tensors by our names.

    Args:
        tensors: by the authors' names.
        pairs: of modules and single tensors.
        prefix: how all of the authors' names begin.
        squeeze: which of ours lose their axes of one step.

    Raises:
        ConversionError: a name belongs to no module of the pairs.
    """
    state = _renamed(tensors, pairs, prefix)
    for name in squeeze:
        weight = state.get(name)
        if weight is not None and weight.dim() > 2 and weight[0, 0].numel() == 1:
            state[name] = weight.flatten(1)
    return state


def backward(
    state: Mapping[str, Tensor], pairs: Pairs, squeeze: Iterable[str] = (), axes: int = 0
) -> dict[str, Tensor]:
    """Tensors by the authors' names; those of `squeeze` get `axes` axes of one step back."""
    flat = set(squeeze)
    grown = {
        name: tensor.reshape(*tensor.shape, *(1,) * axes) if name in flat else tensor for name, tensor in state.items()
    }
    return _renamed(grown, reverse(pairs))


def _renamed(tensors: Mapping[str, Tensor], pairs: Pairs, prefix: str = "") -> dict[str, Tensor]:
    """By looking up the longest beginning that is known: `rename` would try hundreds of patterns on every name."""
    modules, renamed, unknown = dict(pairs), {}, []
    for name, tensor in tensors.items():
        bare = module = name.removeprefix(prefix)
        while module and module not in modules:
            module = module.rpartition(".")[0]
        if module:
            renamed[f"{modules[module]}{bare[len(module) :]}"] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ConversionError(f"the source holds tensors this converter does not know: {offenders(unknown)}")
    return renamed


__all__ = [
    "UNET",
    "VAE",
    "VOCODER",
    "Pairs",
    "backward",
    "forward",
    "phoneme_pairs",
    "reverse",
    "squeezed",
    "unet_pairs",
    "vae_pairs",
    "vocoder_pairs",
]
