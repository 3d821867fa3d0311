# SPDX-License-Identifier: Apache-2.0
"""From a folder of `AudioLDM2Pipeline` back to one file of AudioLDM 2's own names, for the authors' code.

CLAP and T5 are written twice, as there. What a converted model does not have is not made up: CLAP's spectrogram layers
and classifier, averaged weights, all of the schedule but `betas`; the authors' code computes these itself and loads
the file with `strict=False`. The marks around GPT-2's conditions come back as tables of 32, zero but for the two rows
that are used. Converting the file again gives the same folder.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.manifest import fsync

from ..audiomae import ENCODER_PAIRS, LAYER
from ..common import KeyTable, rename
from .names import UNET, VAE, VOCODER, backward, phoneme_pairs, squeezed, unet_pairs, vae_pairs, vocoder_pairs


LANGUAGE = "cond_stage_models.0."
INNER = f"{LANGUAGE}cond_stage_models."  # 0: CLAP, 1: T5 or phonemes, 2: AudioMAE
MARKS = 32
PARTS = {"vocoder": "SpeechT5HifiGan", "text_encoder": "ClapModel"}  # those that another may stand in for
AUDIO = r"audio_model\.audio_encoder\."
BLOCK = rf"{AUDIO}(?P<block>layers\.\d+\.blocks\.\d+)\."
LEAF = r"(?P<leaf>[^.]+)"
CLAP_BLOCK = {
    "attn.qkv": "attention.self.qkv", "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after",
}  # fmt: skip
CLAP: KeyTable = [
    (r"(?P<all>logit_scale_[at])", "{all}"),
    (r"text_model\.embeddings\.(position|token_type)_ids", None),
    (r"text_model\.(?P<rest>.+)", "text_branch.{rest}"),
    *(
        (rf"(?P<tower>text|audio)_projection\.linear{ours}\.{LEAF}", f"{{tower}}_projection.{theirs}.{{leaf}}")
        for ours, theirs in ((1, 0), (2, 2))
    ),
    (rf"{AUDIO}batch_norm\.{LEAF}", "audio_branch.bn0.{leaf}"),
    (rf"{BLOCK}attention\.self\.(?P<leaf>relative_position_.+)", "audio_branch.{block}.attn.{leaf}"),
    *(
        (rf"{BLOCK}{re.escape(ours)}\.{LEAF}", f"audio_branch.{{block}}.{theirs}.{{leaf}}")
        for theirs, ours in CLAP_BLOCK.items()
    ),
    (rf"{AUDIO}(?P<rest>.+)", "audio_branch.{rest}"),
]
AUDIO_MAE: KeyTable = [
    *((re.escape(ours), theirs) for theirs, ours in ENCODER_PAIRS),
    *(
        (rf"layers\.(?P<layer>\d+)\.{re.escape(ours)}\.{LEAF}", f"blocks.{{layer}}.{theirs}.{{leaf}}")
        for theirs, ours in LAYER.items()
    ),
]


def write_original(source: Path, output: Path, licence: str) -> Any:
    """Writes the tensors of a folder under their authors' names.

    Args:
        source: folder of an `AudioLDM2Pipeline`.
        output: `.safetensors` file, which appears complete or not at all.
        licence: of the weights, kept in the file's metadata.

    Returns:
        The pipeline.

    Raises:
        ConversionError: the file cannot be written, or a part has no place in it.
        CheckpointError: the folder cannot be loaded.
    """
    from hubsep.pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    pipe = AudioLDM2Pipeline.from_pretrained(source)
    check_parts(pipe)
    unfinished = output.with_name(f"{output.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(original_tensors(pipe), unfinished, metadata={"format": "pt", "licence": licence})
        fsync(unfinished)
        os.replace(unfinished, output)
    except OSError as error:
        raise ConversionError(f"{shown(str(output), 200)} could not be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return pipe


def check_parts(pipe: Any) -> None:
    """Refuses a pipeline with parts that the authors' layout has no place for, such as another vocoder.

    Raises:
        ConversionError: naming the part.
    """
    for part, kind in PARTS.items():
        found = type(getattr(pipe, part)).__name__
        if found != kind:
            raise ConversionError(
                f"the {part} is a {found}, and the authors' files have a {kind} there: this model has no such file"
            )


def original_tensors(pipe: Any) -> dict[str, Tensor]:
    """The tensors of a pipeline by the authors' names."""
    clap = _clap(pipe.text_encoder.state_dict())
    tensors = {
        **_under(UNET, _named(pipe.unet, unet_pairs(pipe.unet.config))),
        **_under(VAE, _named(pipe.vae, vae_pairs(pipe.vae.config), axes=2)),
        **_under(VOCODER, _vocoder(pipe.vocoder)),
        **_under(f"{LANGUAGE}model.", _body(pipe.language_model).state_dict()),
        **_under(LANGUAGE, _projection(pipe.projection_model)),
        **_under(f"{INNER}0.model.", clap),
        **_under("clap.model.", clap),
        **_second(pipe),
        "scale_factor": torch.tensor(float(pipe.vae.config.scaling_factor)),
        "betas": pipe.scheduler.betas.float(),
    }
    if pipe.audio_mae is not None:
        tensors.update(_under(f"{INNER}2.audiomae.model.", rename(pipe.audio_mae.state_dict(), AUDIO_MAE)))
    # copies: one tensor may not be in the file under two names
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _named(model: Any, pairs: list[tuple[str, str]], axes: int = 0) -> dict[str, Tensor]:
    squeeze = squeezed(model.config, pairs) if axes else ()
    return backward(model.state_dict(), pairs, squeeze, axes)


def _vocoder(model: Any) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ("mean", "scale")}
    return backward(state, vocoder_pairs(model.config.to_dict()))


def _body(language_model: Any) -> Any:
    return getattr(language_model, "transformer", language_model)


def _projection(model: Any) -> dict[str, Tensor]:
    state = model.state_dict()
    tensors = {
        f"input_sequence_embed_linear.{number}.{leaf}": state[f"projection{suffix}.{leaf}"]
        for number, suffix in enumerate(("", "_1"))
        for leaf in ("weight", "bias")
    }
    for mark, ours in (("start", "sos"), ("end", "eos")):
        rows = torch.stack([state[f"{ours}_embed"], state[f"{ours}_embed_1"]])
        tensors[f"{mark}_of_sequence_tokens.weight"] = torch.cat(
            [rows, rows.new_zeros(MARKS - len(rows), rows.shape[1])]
        )
    return tensors


def _second(pipe: Any) -> dict[str, Tensor]:
    """T5 in both its places, or the encoder of phonemes."""
    model = pipe.text_encoder_2
    if not pipe.is_speech:
        state = model.state_dict()
        return {**_under(f"{INNER}1.model.", state), **_under("cond_stage_models.1.model.", state)}
    fields = model.config.to_dict()
    pairs = phoneme_pairs(fields)
    named = backward(model.text_encoder.state_dict(), pairs, squeezed(fields, pairs), axes=1)
    positions = pipe.projection_model.state_dict()["learnable_positional_embedding"]
    return {**_under(f"{INNER}1.text_encoder.", named), f"{INNER}1.learnable_positional_embedding": positions}


def _clap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION keeps queries, keys and values of the audio tower in one."""
    joined = {}
    for name, tensor in state.items():
        part = re.fullmatch(rf"(?P<place>{AUDIO}.+\.attention\.self)\.(?P<part>query|key|value)\.{LEAF}", name)
        if part is None:
            joined[name] = tensor
        elif part["part"] == "query":
            names = [f"{part['place']}.{which}.{part['leaf']}" for which in ("query", "key", "value")]
            joined[f"{part['place']}.qkv.{part['leaf']}"] = torch.cat([state[which] for which in names])
    return rename(joined, CLAP)


__all__ = ["original_tensors", "write_original"]
