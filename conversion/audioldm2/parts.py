# SPDX-License-Identifier: Apache-2.0
"""Which tensors of AudioLDM 2's file belong to which part.

A part is known by what is under a number, not by the number, because the authors count the conditions in the order
of a settings file nobody has. Dropped on purpose: the schedule's buffers, which all follow from `betas`; averaged
weights, which the original does not sample with (`ema=true` takes them instead); what CLAP hears through, which its
feature extractor replaces; masks that GPT-2 makes itself; losses. The file holds some parts twice, CLAP for words and
for ranking, T5 for GPT-2 and for the U-Net. One of two equal copies is taken; unequal ones are an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown

from ..common import offenders


Tensors = dict[str, Tensor]

CONDITION = r"cond_stage_models\.\d+\."
CLAP_NAMES = r"(text|audio)_(branch|projection|transform)\.|logit_scale_"
SCHEDULE = (
    r"alphas_cumprod(_prev)?|sqrt_alphas_cumprod|(sqrt|log)_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod|"
    r"posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights"
)
# how the names of a part begin, the part, whether that beginning is taken off; a part of None is dropped
ROWS: list[tuple[str, str | None, bool]] = [
    (r"model\.diffusion_model\.", "unet", False),
    (r"model_ema\.", "ema", True),
    (r"first_stage_model\.vocoder\.", "vocoder", False),
    (r"first_stage_model\.loss\.", None, True),
    (r"first_stage_model\.", "vae", False),
    (rf"(clap|{CONDITION}({CONDITION})?)\.?mel_transform\.", None, True),
    (rf"clap\.model\.(?={CLAP_NAMES})", "ranking", True),
    (rf"{CONDITION}({CONDITION})?model\.(?={CLAP_NAMES})", "clap", True),
    (rf"{CONDITION}{CONDITION}audiomae\.model\.", "audio_mae", True),
    (rf"{CONDITION}({CONDITION})?model\.(?=shared\.|encoder\.)", "t5", True),
    (rf"{CONDITION}{CONDITION}text_encoder\.", "phonemes", True),
    (rf"{CONDITION}{CONDITION}(?=learnable_positional_embedding$)", "positions", True),
    (rf"{CONDITION}model\.h\.\d+\.attn\.(masked_)?bias$", None, True),
    (rf"{CONDITION}model\.(?=wte\.|wpe\.|h\.|ln_f\.)", "gpt2", True),
    (rf"{CONDITION}(?=(start|end)_of_sequence_tokens\.|input_sequence_embed_linear\.)", "projection", True),
    (r"(?=(betas|scale_factor)$)", "numbers", True),
    (rf"({SCHEDULE})$", None, True),
]
BETAS, SCALE = "betas", "scale_factor"


@dataclass
class Parts:
    """The tensors of each part; the U-Net's, VAE's and vocoder's with their whole names, others without the prefix."""

    unet: Tensors = field(default_factory=dict)
    vae: Tensors = field(default_factory=dict)
    vocoder: Tensors = field(default_factory=dict)
    clap: Tensors = field(default_factory=dict)
    t5: Tensors = field(default_factory=dict)
    phonemes: Tensors = field(default_factory=dict)
    positions: Tensors = field(default_factory=dict)
    gpt2: Tensors = field(default_factory=dict)
    projection: Tensors = field(default_factory=dict)
    audio_mae: Tensors = field(default_factory=dict)
    numbers: Tensors = field(default_factory=dict)


def split(tensors: Mapping[str, Tensor], *, clap: str | None = None, ema: bool = False) -> Parts:
    """Sorts the tensors of a file into its parts.

    Args:
        tensors: by the authors' names.
        clap: which of two unequal copies of CLAP is wanted, "conditioning" or "ranking".
        ema: whether the U-Net's averaged weights are wanted.

    Raises:
        ConversionError: a name belongs to no part, two copies of a part differ, or a part is missing.
    """
    groups, unknown = _sorted(tensors)
    if unknown:
        raise ConversionError(f"the source holds tensors this converter does not know: {offenders(unknown)}")
    copies = {part: list(groups.get(part, {}).values()) for part in ("clap", "ranking")}
    words, ranking = (_one_of(part, copies[part]) for part in ("clap", "ranking"))
    parts = Parts(clap=_agreed(words, ranking, clap), t5=_one_of("T5", list(groups.get("t5", {}).values())))
    for name in ("unet", "vae", "vocoder", "phonemes", "positions", "gpt2", "projection", "audio_mae", "numbers"):
        if len(groups.get(name, {})) > 1:
            raise ConversionError(
                f"the source holds {name} {len(groups[name])} times, under {offenders([*groups[name]])}"
            )
        setattr(parts, name, next(iter(groups.get(name, {}).values()), {}))
    for name in ("unet", "vae", "vocoder", "clap"):
        if not getattr(parts, name):
            raise ConversionError(f"the source is missing all of its {name}: it is no AudioLDM 2 of its authors")
    for number in (BETAS, SCALE):
        if number not in parts.numbers:
            raise ConversionError(f"the source is missing {number!r}")
    if ema:
        parts.unet = _averaged(parts.unet, next(iter(groups.get("ema", {}).values()), {}))
    return parts


def _sorted(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensors]], list[str]]:
    """Tensors by part and by what their names began with, and the names that belong nowhere."""
    rows = [(re.compile(pattern), part, stripped) for pattern, part, stripped in ROWS]
    groups: dict[str, dict[str, Tensors]] = {}
    unknown = []
    for name, tensor in tensors.items():
        hit = next(((row.match(name), part, stripped) for row, part, stripped in rows if row.match(name)), None)
        if hit is None:
            unknown.append(name)
            continue
        match, part, stripped = hit
        if part is not None and match is not None:
            group = groups.setdefault(part, {}).setdefault(match[0], {})
            group[name.removeprefix(match[0]) if stripped else name] = tensor
    return groups, unknown


def _one_of(part: str, copies: list[Tensors]) -> Tensors:
    """One of several copies, which must be equal."""
    for other in copies[1:]:
        _check_equal(part, copies[0], other)
    return copies[0] if copies else {}


def check_choice(wanted: Any) -> None:
    """Refuses what names neither copy of CLAP.

    Raises:
        ConversionError: naming it.
    """
    if wanted not in (None, "conditioning", "ranking"):
        raise ConversionError(f"clap must be conditioning or ranking, got {shown(wanted)}")


def _agreed(words: Tensors, ranking: Tensors, wanted: str | None) -> Tensors:
    check_choice(wanted)
    if wanted is not None:
        return words if wanted == "conditioning" else ranking
    if words and ranking:
        _check_equal("CLAP", words, ranking, "; set clap=conditioning or clap=ranking to take the one that")
    return words or ranking


def _check_equal(part: str, first: Tensors, second: Tensors, way_out: str = "") -> None:
    names = [name for name in first if name not in second] + [name for name in second if name not in first]
    names += [name for name in first if name in second and not torch.equal(first[name], second[name])]
    if names:
        ending = f"{way_out} words go through, or that ranks" if way_out else ""
        raise ConversionError(
            f"the source holds {part} twice, with different {offenders(names)}; there is one place for it{ending}"
        )


def _averaged(unet: Tensors, ema: Tensors) -> Tensors:
    """The U-Net with its averaged weights, whose names have lost their dots."""
    names = {name: name.removeprefix("model.").replace(".", "") for name in unet}
    missing = [name for name, flat in names.items() if flat not in ema]
    if missing:
        raise ConversionError(
            f"ema is set, but the source has no averaged weights (model_ema) of {offenders(missing)}"
        )
    return {name: ema[flat] for name, flat in names.items()}


__all__ = ["BETAS", "SCALE", "Parts", "check_choice", "split"]
