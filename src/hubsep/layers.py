# SPDX-License-Identifier: Apache-2.0
"""What several models share: the Fourier transform pair, overlap-add of frames, attention with its weights laid out.

Both directions of the transform run in float32 whatever the model's dtype: the power of a full-scale tone at 1024
points is 65536, more than float16 holds. The window is made in the call, because models are built on the meta device
and a buffer that is not saved would come back empty.

Also here: which modules may be computed without being called, by reading their weights: those nobody has touched.

Whoever quantises a model, offloads it, adds an adapter or looks at what its layers make replaces modules, their
weights or their `forward`, or hooks into it. Faster code that reads weights by itself would pass all of that over, or
fail. So each module it does not call has to be of exactly the class it was made as, without hooks, with ordinary
parameters of one precision in one place; else the plain way is taken, which calls every module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
USUAL = ("torch.nn.modules.", "hubsep.")  # where classes come from that need not be named
_may_overwrite: ContextVar[bool] = ContextVar("_may_overwrite", default=True)


def is_unhooked(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its class's `forward` and nothing else."""
    return "forward" not in vars(module) and not any(getattr(module, name) for name in HOOKS)


def is_ordinary(parameter: Tensor) -> bool:
    """Whether a parameter holds numbers of a usual precision, where it is: it is neither quantised nor offloaded."""
    return type(parameter) is nn.Parameter and not parameter.is_meta and parameter.dtype in DTYPES


def is_plain(module: Any, *kinds: type) -> bool:
    """Whether the weights of one module may be read: it is of one of these classes, and untouched."""
    if type(module) not in kinds or torch.compiler.is_compiling():
        return type(module) in kinds
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    return is_unhooked(module) and all(map(is_ordinary, parameters))


def nothing_is_learnt(module: nn.Module | None = None) -> bool:
    """Whether nothing is learnt, compiled or traced, so that a faster way may be taken.

    Args:
        module: which also has to be in evaluation mode.
    """
    if module is not None and module.training:
        return False
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())


def is_autocast() -> bool:
    """Whether torch chooses the precision of products by itself."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def may_read(module: nn.Module, kinds: Mapping[str, tuple[type, ...]] | None = None) -> bool:
    """Whether the weights of all modules inside of one may be read, now that nothing is learnt or traced.

    Args:
        module: which may have hooks itself: it is called.
        kinds: the classes of modules of these names; others are hubsep's or torch's own.
    """
    return nothing_is_learnt(module) and is_untouched(module, kinds or {})


def is_untouched(module: nn.Module, kinds: Mapping[str, tuple[type, ...]]) -> bool:
    """What `may_read` asks of modules and weights."""
    for name, child in module.named_modules():
        expected = kinds.get(name.rpartition(".")[2])
        usual = type(child).__module__.startswith(USUAL) if expected is None else type(child) in expected
        if name and not (usual and is_unhooked(child)):
            return False
    parameters = list(module.parameters())
    return all(map(is_ordinary, parameters)) and len({(each.dtype, each.device) for each in parameters}) <= 1


@contextmanager
def touched(module: nn.Module, kinds: Mapping[str, tuple[type, ...]] | None = None) -> Iterator[None]:
    """For the time of a call of a model: maps are not overwritten where somebody may have kept them."""
    if not nothing_is_learnt():
        yield
        return
    token = _may_overwrite.set(is_untouched(module, kinds or {}))
    try:
        yield
    finally:
        _may_overwrite.reset(token)


def may_overwrite(module: nn.Module | None = None) -> bool:
    """Whether maps may be overwritten: nothing is learnt or traced, and nobody looks.

    Args:
        module: which also has to be in evaluation mode.
    """
    return nothing_is_learnt(module) and _may_overwrite.get()


def dtype_of(layer: Any) -> torch.dtype:
    """What a layer, or what stands in its place, computes in."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        weight = next(layer.parameters(), None)
    return torch.float32 if weight is None else weight.dtype


def product(layer: Any, x: Tensor, *kinds: type) -> Tensor:
    """A linear layer in float32 whatever its precision; what is no untouched one (or of `kinds`) is called."""
    if not is_plain(layer, nn.Linear, *kinds):
        result: Tensor = layer(x.to(dtype_of(layer)))
        return result.float()
    return F.linear(x.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float())


def prelu(activation: Any, x: Tensor) -> Tensor:
    """PReLU in the dtype of `x`, which under autocast is not that of the slope."""
    if not is_plain(activation, nn.PReLU):
        result: Tensor = activation(x.to(dtype_of(activation)))
        return result.to(x.dtype)
    return F.prelu(x, activation.weight.to(x.dtype))


def overlap_add(frames: Tensor, stride: int) -> Tensor:
    """Adds frames up where they lie: (batch, frames, num_sources, kernel_size) -> (batch, num_sources, samples).

    Args:
        frames: of any length.
        stride: samples from the start of one to the start of the next.
    """
    kernel_size = frames.shape[-1]
    parts = -(-kernel_size // stride)
    pieces = F.pad(frames, (0, parts * stride - kernel_size)).transpose(1, 2).unflatten(-1, (parts, stride))
    shifted = [F.pad(pieces[..., part, :], (0, 0, part, parts - 1 - part)) for part in range(parts)]
    waveform = torch.stack(shifted).sum(dim=0).flatten(2)
    return waveform[..., : (frames.shape[1] - 1) * stride + kernel_size]


def stft(waveform: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Short-time Fourier transform with a periodic Hann window, centred frames and reflected edges.

    Args:
        waveform: (..., samples), more than `n_fft / 2` samples long.
        n_fft: window and transform length in samples.
        hop_length: samples between frames.

    Returns:
        Complex spectrogram (..., frames, n_fft / 2 + 1), frames = 1 + samples // hop_length.
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    flat = waveform.float().reshape(-1, waveform.shape[-1])
    spectrogram = torch.stft(flat, n_fft, hop_length, window=window, pad_mode="reflect", return_complex=True)
    return spectrogram.transpose(1, 2).unflatten(0, waveform.shape[:-1])


def istft(spectrogram: Tensor, n_fft: int, hop_length: int, samples: int) -> Tensor:
    """Inverse of `stft`: overlap-add divided by the summed squared window, cut to `samples`.

    Args:
        spectrogram: complex (..., frames, n_fft / 2 + 1).
        n_fft: window and transform length in samples.
        hop_length: samples between frames.
        samples: length of the waveform to return.

    Returns:
        Waveform (..., samples), float32.
    """
    window = torch.hann_window(n_fft, device=spectrogram.device)
    flat = spectrogram.flatten(0, -3).transpose(1, 2)
    waveform = torch.istft(flat, n_fft, hop_length, window=window, length=samples)
    return waveform.unflatten(0, spectrogram.shape[:-2])


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention with its weights laid out, for `attn_implementation="eager"`; no mask is applied."""
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


__all__ = [
    "dtype_of",
    "eager_attention",
    "is_autocast",
    "is_plain",
    "is_untouched",
    "istft",
    "may_overwrite",
    "may_read",
    "nothing_is_learnt",
    "overlap_add",
    "prelu",
    "product",
    "stft",
    "touched",
]
