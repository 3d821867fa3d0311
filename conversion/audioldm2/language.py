# SPDX-License-Identifier: Apache-2.0
"""What turns words into AudioLDM 2's conditions: T5 or a phoneme encoder, the projections, GPT-2, the tokenizers.

GPT-2 and T5 are transformers' own models with their own names. Of the tables of 32 marks that stand around GPT-2's
conditions, rows 0 and 1 were ever used; the others are dropped. The phoneme encoder of the speech models is the text
encoder of VITS alone, and transformers only loads it inside of a whole `VitsModel`: the rest of that one is made as
small as it can be, holds no learned numbers, and is not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2Model, T5Config, T5EncoderModel, VitsConfig, VitsModel

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.loading import load_any_tokenizer

from ..common import count_of, offenders, shape_of
from .fields import filled, merged, required
from .names import forward, phoneme_pairs, squeezed


GPT2_HEAD_WIDTH = 64
LOA_TOKENS, SPEECH_TOKENS = 8, 512
USED_MARKS = 2
GENERATION = ("max_new_tokens",)  # beside the fields of GPT-2's configuration
# what of VITS is not there, in the smallest size it can be built in
UNUSED_VITS: dict[str, Any] = {
    "spectrogram_bins": 2, "upsample_initial_channel": 2, "upsample_rates": [2], "upsample_kernel_sizes": [4],
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "prior_encoder_num_flows": 1,
    "prior_encoder_num_wavenet_layers": 1, "posterior_encoder_num_wavenet_layers": 1,
    "use_stochastic_duration_prediction": False, "duration_predictor_filter_channels": 2,
}  # fmt: skip
T5_LAYER = "encoder.block.0.layer"


def convert_gpt2(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any], *, speech: bool) -> GPT2Model:
    """The language model; what it is to make by default, 8 or 512 tokens, goes into its configuration."""
    vocabulary, width = shape_of(tensors, "wte.weight", 2)
    inner = shape_of(tensors, "h.0.mlp.c_fc.weight", 2)[1]
    fields = {
        "vocab_size": vocabulary,
        "n_positions": shape_of(tensors, "wpe.weight", 2)[0],
        "n_embd": width,
        "n_layer": count_of(tensors, r"h\.(\d+)\."),
        "n_inner": None if inner == 4 * width else inner,
    }
    fields = merged("language_model", fields, overrides, GPT2Config, extra=GENERATION)
    required("language_model", fields, "n_head", None if width % GPT2_HEAD_WIDTH else width // GPT2_HEAD_WIDTH)
    defaults = {"max_new_tokens": SPEECH_TOKENS if speech else LOA_TOKENS}
    defaults.update(dict.fromkeys(("bos_token_id", "eos_token_id"), vocabulary - 1))
    return filled("language_model", lambda: GPT2Model(GPT2Config(**{**defaults, **fields})), lambda: tensors)


def convert_projection(tensors: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> Any:
    """The projections of CLAP's and T5's or the phonemes' states, and the marks around them."""
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel

    width, first = shape_of(tensors, "input_sequence_embed_linear.0.weight", 2)
    second = shape_of(tensors, "input_sequence_embed_linear.1.weight", 2)[1]
    state: dict[str, Tensor] = dict(positions)
    for mark, ours in (("start", "sos"), ("end", "eos")):
        name = f"{mark}_of_sequence_tokens.weight"
        if shape_of(tensors, name, 2)[0] < USED_MARKS:
            raise ConversionError(f"projection_model: {name} has fewer than {USED_MARKS} rows")
        state.update({f"{ours}_embed": tensors[name][0], f"{ours}_embed_1": tensors[name][1]})
    linear = [("input_sequence_embed_linear.0", "projection"), ("input_sequence_embed_linear.1", "projection_1")]
    rest = {name: tensor for name, tensor in tensors.items() if not name.endswith("_of_sequence_tokens.weight")}
    places = {}
    if positions:
        length = shape_of(positions, "learnable_positional_embedding", 3)[2]
        places = {"use_learned_position_embedding": True, "max_seq_length": length}
    return filled(
        "projection_model",
        lambda: AudioLDM2ProjectionModel(first, second, width, **places),
        lambda: {**state, **forward(rest, linear)},
    )


def convert_t5(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> T5EncoderModel:
    """The text encoder of sounds and music."""
    vocabulary, width = shape_of(tensors, "shared.weight", 2)
    buckets, heads = shape_of(tensors, f"{T5_LAYER}.0.SelfAttention.relative_attention_bias.weight", 2)
    gated = f"{T5_LAYER}.1.DenseReluDense.wi_0.weight" in tensors
    wide = shape_of(tensors, f"{T5_LAYER}.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight", 2)[0]
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shape_of(tensors, f"{T5_LAYER}.0.SelfAttention.q.weight", 2)[0] // max(heads, 1),
        "d_ff": wide,
        "num_layers": count_of(tensors, r"encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }
    fields = merged("text_encoder_2", fields, overrides, T5Config)
    fields.setdefault("feed_forward_proj", "gated-gelu" if gated else "relu")
    tied = {"encoder.embed_tokens.weight": tensors["shared.weight"], **tensors}
    if not torch.equal(tied["encoder.embed_tokens.weight"], tensors["shared.weight"]):
        raise ConversionError("text_encoder_2: 'shared.weight' and 'encoder.embed_tokens.weight' must be the same")
    model = filled(
        "text_encoder_2", lambda: T5EncoderModel(T5Config(**fields, is_encoder_decoder=False)), lambda: tied
    )
    model.tie_weights()
    return model


def t5_from_folder(folder: str) -> T5EncoderModel:
    """The text encoder of a file that has none, from where transformers keeps it.

    Raises:
        ConversionError: it cannot be had, or its weights do not fit.
    """
    try:
        model, info = T5EncoderModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # offline, absent and broken come as half a dozen different errors
        raise ConversionError(
            f"text_encoder_2: {shown(folder)} could not be had: {shown(' '.join(str(error).split()), 160)}"
        ) from error
    # a whole T5 has a decoder, which transformers leaves out by itself
    unfit = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]))
    if unfit:
        raise ConversionError(f"text_encoder_2: {shown(folder)} does not fit its config.json: {offenders(unfit)}")
    return model.eval()


def convert_phonemes(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> VitsModel:
    """The text encoder of speech."""
    vocabulary, width = shape_of(tensors, "emb.weight", 2)
    _, places, head = shape_of(tensors, "encoder.attn_layers.0.emb_rel_k", 3)
    wide, _, kernel = shape_of(tensors, "encoder.ffn_layers.0.conv_1.weight", 3)
    fields = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": count_of(tensors, r"encoder\.attn_layers\.(\d+)\."),
        "num_attention_heads": width // max(head, 1),
        "window_size": places // 2,
        "ffn_dim": wide,
        "ffn_kernel_size": kernel,
        "flow_size": shape_of(tensors, "proj.weight", 3)[0] // 2,
    }
    fields = merged("text_encoder_2", fields, overrides, VitsConfig)
    pairs = phoneme_pairs(fields)

    def state() -> dict[str, Tensor]:
        weights = forward(tensors, pairs, squeeze=squeezed(fields, pairs))
        with torch.device("meta"):
            wanted = VitsModel(VitsConfig(**fields, **UNUSED_VITS)).state_dict()
        # ones: a weight given by direction and length needs a direction
        unused = {name: torch.ones(tensor.shape) for name, tensor in wanted.items() if not name.startswith("text_")}
        return {**unused, **{f"text_encoder.{name}": tensor for name, tensor in weights.items()}}

    return filled("text_encoder_2", lambda: VitsModel(VitsConfig(**fields, **UNUSED_VITS)), state)


def load_tokenizer(part: str, name: Any, of: str, vocabulary: int, limit: int) -> Any:
    """A tokenizer, which no checkpoint holds, allowing at most `limit` tokens.

    Args:
        part: `tokenizer` or `tokenizer_2`.
        name: folder or repository; None if none is given and none is known.
        of: what it has to be, for errors.
        vocabulary: tokens its model knows.
        limit: tokens its model takes at once.

    Raises:
        ConversionError: it cannot be had, or has more tokens than the model.
    """
    if name is None:
        raise ConversionError(f"the {part} is not in the checkpoint: set {part}= to a folder that holds {of}")
    try:
        tokenizer = load_any_tokenizer(str(name))
    except Exception as error:  # offline, absent and broken come as half a dozen different errors
        raise ConversionError(
            f"the tokenizer {shown(str(name))} could not be had: {shown(' '.join(str(error).split()), 160)}. It is "
            f"not in the checkpoint; set {part}= to a folder or repository that holds {of}"
        ) from error
    if len(tokenizer) > vocabulary:
        raise ConversionError(
            f"the tokenizer {shown(Path(str(name)).name)} has {len(tokenizer)} tokens, its model {vocabulary}: they "
            f"do not belong together; set {part}= to {of}"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return tokenizer


__all__ = [
    "GENERATION",
    "convert_gpt2",
    "convert_phonemes",
    "convert_projection",
    "convert_t5",
    "load_tokenizer",
    "t5_from_folder",
]
