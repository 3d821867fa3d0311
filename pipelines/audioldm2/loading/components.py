# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2 consists of: which classes its components may have, and one component loaded from its folder.

A component is loaded whole by its own class, or made without its weights (`empty_component`), which are then read when
they are needed: see `audioldm2_on_demand`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from hubsep.errors import CheckpointError
from hubsep.hub.bars import reports_if_loaded, without_bar
from hubsep.hub.bounds import shown
from hubsep.hub.budget import budget
from hubsep.hub.clap import check_clap
from hubsep.hub.files import is_weights
from hubsep.hub.json_files import read_json
from hubsep.hub.loading import check_fit, load_checked_tokenizer, load_feature_extractor, load_tokenizer
from hubsep.hub.processors import CLAP, TOKENIZER_CLASSES
from hubsep.hub.tensors import read_header

from ..schedulers import SCHEDULERS
from .bounds import check_component, stored


HEAD_WIDTH = 32
CLAP_MODEL = "ClapModel"
TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
ANY_TOKENIZER = "PreTrainedTokenizerBase"  # in place of a class: the one that the folder's own settings name
AUDIOLDM2 = ("audioldm2", "diffusers.pipelines.audioldm2")
# component: the modules its class may come from, the classes
COMPONENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vae": (("diffusers",), ("AutoencoderKL",)),
    "text_encoder": (("transformers",), (CLAP_MODEL, "ClapTextModelWithProjection")),
    "text_encoder_2": (("transformers",), ("T5EncoderModel", "VitsModel")),
    "projection_model": (AUDIOLDM2, ("AudioLDM2ProjectionModel",)),
    "language_model": (("transformers",), ("GPT2Model", "GPT2LMHeadModel")),
    "tokenizer": (("transformers",), ("RobertaTokenizer", "RobertaTokenizerFast", *TOKENIZERS)),
    "tokenizer_2": (("transformers",), ("T5Tokenizer", "T5TokenizerFast", "VitsTokenizer", *TOKENIZERS)),
    "feature_extractor": (("transformers",), ("ClapFeatureExtractor",)),
    "unet": (AUDIOLDM2, ("AudioLDM2UNet2DConditionModel",)),
    "scheduler": (("diffusers",), SCHEDULERS),
    "vocoder": (("transformers", "hubsep"), ("SpeechT5HifiGan", "GriffinLimVocoder")),
    "audio_mae": (("hubsep", "hubsep.models.audiomae.modeling_audiomae"), ("AudioMAEModel",)),
}
TEXT_ENCODERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
OPTIONAL = ("audio_mae", "feature_extractor")
# buffers that older releases of transformers stored and newer ones make
NOT_WEIGHTS = re.compile(r"(position_ids|token_type_ids|attn\.bias|attn\.masked_bias|relative_position_index)$")
# how diffusers and transformers name the files with weights, between which the name of a variant may stand
WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?((?:\.[\w-]+?)??)(?:-\d+-of-\d+)?\.safetensors")
LOADING_ERRORS = (
    OSError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, ImportError, ArithmeticError,
    AssertionError, MemoryError, StrictDataclassError, SafetensorError,
)  # fmt: skip


def class_of(folder: Path, library: str, class_name: str) -> Any:
    """The class of a component.

    Raises:
        CheckpointError: if there is none of that name.
    """
    home = AUDIOLDM2[1] if library == "audioldm2" else library
    kind = getattr(importlib.import_module(home), class_name, None)
    if kind is None:
        raise CheckpointError(f"{shown(folder.name)}: {library} has no class {shown(class_name)}.")
    return kind


def load_component(
    folder: Path, library: str, class_name: str, *, dtype: torch.dtype, strict: bool, **options: Any
) -> Any:
    """One component of a folder that was checked.

    Raises:
        CheckpointError: if it cannot be built, asks for more than its weights hold, or `strict` and they do not fit.
    """
    kind = class_of(folder, library, class_name)
    _check_config(folder, class_name)
    with reports_if_loaded():
        try:
            if not issubclass(kind, torch.nn.Module):
                return _plain_component(folder, kind, class_name)
            options["torch_dtype" if hasattr(kind, "load_config") else "dtype"] = dtype
            with budget(shown(folder.name), *_stored(folder)), without_bar():
                model, info = kind.from_pretrained(
                    folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
                )
        except CheckpointError:
            raise
        except LOADING_ERRORS as error:
            raise _not_loaded(folder, error) from error
        if strict:
            _check_fit(folder, info)
    return model.eval()


def _check_fit(folder: Path, info: Mapping[str, Any]) -> None:
    """Refuses weights that transformers or diffusers could not put where the configuration wants them."""
    for problem in ("missing", "unexpected", "mismatched"):
        names = sorted(name for name in map(str, info.get(f"{problem}_keys") or ()) if not NOT_WEIGHTS.search(name))
        if names:
            raise CheckpointError(
                f"{shown(folder.name)}: its weights do not fit its config.json: {len(names)} {problem} keys, first "
                f"{shown(names[0])}. Pass strict=False to load them all the same."
            )


def _check_config(folder: Path, class_name: str) -> None:
    check_component(folder)
    if class_name == CLAP_MODEL:
        check_clap(f"{shown(folder.name)}: config.json", read_json(folder / "config.json"))


def _plain_component(folder: Path, kind: Any, class_name: str) -> Any:
    """A tokenizer, feature extractor or scheduler; a tokenizer is compared with the text encoder beside it."""
    if class_name == CLAP:
        return load_feature_extractor(folder)
    if class_name == ANY_TOKENIZER:
        tokenizer = load_checked_tokenizer(folder)
    elif class_name in TOKENIZER_CLASSES:
        tokenizer = load_tokenizer(folder, class_name)
    else:
        return kind.from_pretrained(folder, local_files_only=True)
    encoder = folder.parent / TEXT_ENCODERS.get(folder.name, "") / "config.json"
    if folder.name in TEXT_ENCODERS and encoder.is_file():
        check_fit(tokenizer, read_json(encoder), folder.name)
    places = folder.parent / "projection_model" / "config.json"
    if folder.name == "tokenizer_2" and places.is_file():  # a model of speech learns a vector for each place
        longest = read_json(places).get("max_seq_length")
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest or tokenizer.model_max_length)
    return tokenizer


def empty_component(folder: Path, library: str, class_name: str, *, dtype: torch.dtype, **options: Any) -> Any:
    """A component without its weights: they have shapes and a precision, and take no memory.

    Raises:
        CheckpointError: if it cannot be built, or asks for more than its weights hold.
    """
    from accelerate import init_empty_weights

    kind = class_of(folder, library, class_name)
    _check_config(folder, class_name)
    try:
        with budget(shown(folder.name), *_stored(folder)), init_empty_weights(include_buffers=False):
            if hasattr(kind, "load_config"):
                model = kind.from_config(kind.load_config(folder, local_files_only=True), **options)
            else:
                model = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise _not_loaded(folder, error) from error
    if hasattr(model, "tie_weights"):
        model.tie_weights()  # what is tied was registered twice, and is two without memory
    return in_precision(model, dtype).eval()


def in_precision(model: Any, dtype: torch.dtype) -> Any:
    """The model in a precision, but for the layers that its own loading keeps in float32 (T5's `wo` in float16)."""
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    torch.nn.Module.to(model, dtype=dtype)  # diffusers' own warns, whatever there is to keep
    for name, module in model.named_modules():
        if kept & set(name.split(".")):
            torch.nn.Module.to(module, dtype=torch.float32)
    return model


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The files a component's weights are in: those of the variant where there are any."""
    matches = {path: WEIGHTS.fullmatch(path.name) for path in sorted(folder.glob("*.safetensors"))}
    marks = {path: match[1].lstrip(".") for path, match in matches.items() if match is not None}
    wanted = variant if variant in marks.values() else ""
    return [path for path, mark in marks.items() if mark == wanted]


def original_heads(folder: Path) -> list[int]:
    """Attention heads of each level of the U-Net as the original has them: of width 32.

    Raises:
        CheckpointError: if a level's channels are no multiple of 32.
    """
    channels = read_json(folder / "config.json").get("block_out_channels")
    if not isinstance(channels, list) or not all(
        isinstance(n, int) and n > 0 and n % HEAD_WIDTH == 0 for n in channels
    ):
        raise CheckpointError(f"unet: block_out_channels are {shown(channels)}; heads of width 32 do not divide them.")
    return [count // HEAD_WIDTH for count in channels]


def _stored(folder: Path) -> tuple[int, int]:
    """How many tensors and numbers lie in the folder, those of every variant."""
    return stored(read_header(path) for path in folder.glob("*.safetensors") if is_weights(path.name))


def _not_loaded(folder: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    return CheckpointError(f"{shown(folder.name)} cannot be loaded: {shown(reason, 300)}")


__all__ = [
    "ANY_TOKENIZER",
    "AUDIOLDM2",
    "COMPONENTS",
    "NOT_WEIGHTS",
    "OPTIONAL",
    "class_of",
    "empty_component",
    "load_component",
    "original_heads",
    "weight_files",
]
