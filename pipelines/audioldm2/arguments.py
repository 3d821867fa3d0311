# SPDX-License-Identifier: Apache-2.0
"""Arguments of a call of `AudioLDM2Pipeline`; arguments are checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import is_whole, shown
from hubsep.texts import check_text

from .conditions import Conditions
from .settings import MOST_WAVEFORMS, SamplingOptions


OutputType = Literal["np", "pt", "latent"]
Embeds = tuple[Tensor | None, Tensor | None, Tensor | None]  # states of T5, which of them count, language of audio


class CallOptions(SamplingOptions, total=False):
    """What a call takes beside prompt and `return_dict`; `AudioLDM2Pipeline.__call__` says what each means."""

    transcription: str | Sequence[str] | None
    seconds: float | None
    audio_length_in_s: float | None
    num_waveforms_per_prompt: int
    latents: Tensor | None
    prompt_embeds: Tensor | None
    attention_mask: Tensor | None
    generated_prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    negative_attention_mask: Tensor | None
    negative_generated_prompt_embeds: Tensor | None
    max_new_tokens: int | None
    output_type: OutputType


def as_texts(prompt: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        QueryError: if it is neither, or no text a model can be given.
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, list | tuple) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise QueryError(f"a prompt is a text or a list of texts, got {shown(prompt)}")
    return [check_text(text, "a text") for text in texts]


def given_conditions(parts: Embeds) -> Conditions | None:
    """Conditions given as tensors, None if there are none.

    Args:
        parts: states of T5, which of them count, language of audio.

    Raises:
        QueryError: if they do not go together.
    """
    text, mask, loa = parts
    if text is None and loa is None:
        if mask is not None:
            raise QueryError("a mask goes with the embeddings that it is for: pass these as well, or leave it out")
        return None
    for name, part in zip(("embeddings", "a mask", "language of audio"), parts, strict=True):
        if not (part is None or isinstance(part, Tensor)):
            raise QueryError(f"embeddings and their mask must be tensors, got {shown(part)}")
        if part is not None:
            check_values(name, part, floating=name != "a mask")
    if text is None or loa is None:
        raise QueryError("states of T5 and language of audio (generated_prompt_embeds) go together: pass both")
    if text.ndim != 3 or loa.ndim != 3 or len(text) != len(loa):
        raise QueryError(
            f"embeddings must be (batch, states, size), for one batch; got {tuple(text.shape)}, {tuple(loa.shape)}"
        )
    weights = torch.ones(text.shape[:2]) if mask is None else mask.float()
    if weights.shape != text.shape[:2]:
        raise QueryError(f"attention_mask must be {tuple(text.shape[:2])}, got {tuple(weights.shape)}")
    return Conditions(loa, text, weights.to(text.device))


def check_values(name: str, tensor: Tensor, *, floating: bool = True) -> None:
    """Refuses a tensor that has not a number for each of its places.

    Args:
        name: of what it is.
        tensor: that was passed.
        floating: whether its numbers have to be floating point.

    Raises:
        QueryError: naming what it is instead.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        kind = "on the meta device" if tensor.is_meta else "nested, quantized or sparse"
        raise QueryError(f"{name} must be a tensor with a value in each place; this one is {kind}")
    if tensor.is_complex() or (floating and not tensor.is_floating_point()):
        raise QueryError(f"{name} must be a tensor of floating point numbers, got {dtype}; pass tensor.float()")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise QueryError(f"{name} must be a tensor of numbers; this one holds NaN or infinity")


def check_output(output_type: str, candidates: int) -> None:
    """Refuses other outputs than there are, and a number of candidates out of bounds.

    Raises:
        QueryError: naming the value.
    """
    if not isinstance(output_type, str) or output_type not in get_args(OutputType):
        raise QueryError(f'output_type must be "np", "pt" or "latent", got {shown(output_type)}')
    if not is_whole(candidates, MOST_WAVEFORMS):
        raise QueryError(f"num_waveforms_per_prompt must be 1 to {MOST_WAVEFORMS}, got {shown(candidates)}")


__all__ = ["CallOptions", "Embeds", "OutputType", "as_texts", "check_output", "check_values", "given_conditions"]
