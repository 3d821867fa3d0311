# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's published checkpoints to the folders `hubsep.AudioLDM2Pipeline` loads, in diffusers' layout.

One `.pth` holds all parts under `state_dict`. Base, large, music and speech have a language model and become an
`AudioLDM2Pipeline`, with the AudioMAE inside the file as its optional `audio_mae`. The 48 kHz model has none: its
U-Net hears CLAP alone, and it becomes diffusers' `AudioLDMPipeline`. The model that hears T5 alone is refused, since
no pipeline takes it. Sizes come from the shapes; what no shape tells is known for the published sizes, and otherwise
an override named like the component, a table of fields of its configuration. Attention heads are 32 wide, as in the
original, whatever the published folders of these weights say. Tokenizers are in no checkpoint. Unless set
otherwise, group norms have 32 groups, recordings 1024 mel frames, and noise is what is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.cards.card import write_card
from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown, true_or_false
from hubsep.hub.models import MAX_SHARD_SIZE, atomic_folder, check_folder
from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.registry import SYSTEMS

from ..audiomae import convert_encoder
from ..clap import TOWERS, clap_config, clap_state, feature_extractor
from ..common import check_overrides, conversion_errors, no_such_override, read_tensors
from ..writing import card, check_licence
from .back import write_original
from .fields import check_names, filled, merged
from .language import (
    GENERATION,
    convert_gpt2,
    convert_phonemes,
    convert_projection,
    convert_t5,
    load_tokenizer,
    t5_from_folder,
)
from .networks import convert_unet, convert_vae, convert_vocoder
from .parts import BETAS, SCALE, Parts, check_choice, split


# overrides that are tables of configuration fields, and the others
TABLES = ("unet", "vae", "vocoder", "language_model", "text_encoder", "audio_mae", "scheduler")
OPTIONS = ("text_encoder_2", "tokenizer", "tokenizer_2", "clap", "ema")
INDEX = "model_index.json"
TOKENIZER, T5_TOKENIZER = "FacebookAI/roberta-base", "google/flan-t5-large"
T5_TOKENS = 128
SPARE_POSITIONS = 2  # RoBERTa counts positions from behind its padding's
BETA_TOLERANCE = 1e-6


def convert(source: Path, output: Path | None = None, *, licence: str | None = None, **overrides: Any) -> Any:
    """Converts an AudioLDM 2 checkpoint; see `hubsep.conversion.convert`.

    Args:
        source: the `.pth`, a folder with nothing else of that kind in it, or a `.safetensors` file of the same keys;
            or, for the way back, a folder of an `AudioLDM2Pipeline`.
        output: folder to write; on the way back, a `.safetensors` file.
        licence: of the weights.
        overrides: `unet`, `vae`, `vocoder`, `language_model`, `text_encoder` (in parts, `text_config` and
            `audio_config`), `audio_mae` and `scheduler`, each a table of configuration fields; `text_encoder_2`, such
            a table, or the folder of a T5 for files without one; `tokenizer` and `tokenizer_2`, folders or
            repositories, by default those of RoBERTa and Flan-T5, while that of phonemes has to be set; `clap`, which
            of two copies that differ is taken; `ema`, whether the U-Net's averaged weights are.

    Returns:
        The pipeline, which is no single model.
    """
    check(overrides)
    tables, options = _checked(overrides)
    if (source / INDEX).is_file():
        check_back(source.name, output, overrides)
        assert output is not None
        return write_original(source, output, check_licence(licence))
    file = source_file(source)
    parts = split(read_tensors(file), clap=options.get("clap"), ema=options.get("ema", False))
    pipe = _language_pipeline(parts, tables, options) if parts.gpt2 else _clap_pipeline(parts, tables, options)
    if output is not None:
        fields = card(
            title="AudioLDM 2", tag="audioldm2", paper=SYSTEMS["audioldm2"].paper, licence=licence, sources=[file],
            task="text-to-audio", topic="audio-generation",
        )  # fmt: skip
        _write(output, pipe, fields)
    return pipe


def _checked(overrides: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {name: {} for name in (*TABLES, "text_encoder_2")}
    options: dict[str, Any] = {}
    for name, value in overrides.items():
        if name in tables and isinstance(value, Mapping):
            tables[name] = dict(value)
        elif name in OPTIONS:
            options[name] = value
        elif name in TABLES:
            raise ConversionError(f"{name} must be a table of configuration fields, got {shown(value)}")
        else:
            raise no_such_override(name, (*TABLES, *OPTIONS))
    for name, value in tables["text_encoder"].items():
        if name not in TOWERS or not isinstance(value, Mapping):
            raise ConversionError(f"text_encoder takes tables {' and '.join(TOWERS)}, got {shown(name)}")
    with conversion_errors("ema"):
        true_or_false("ema", options.get("ema", False))
    check_choice(options.get("clap"))
    return tables, options


def check(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that no checkpoint of the system could take, before there is one.

    Raises:
        ConversionError: naming the override.
    """
    tables, _ = _checked(overrides)
    if any(tables.values()):
        _check_tables(tables)


def _check_tables(tables: Mapping[str, Mapping[str, Any]]) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler
    from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
    from transformers import GPT2Config, SpeechT5HifiGanConfig, T5Config, VitsConfig

    kinds: dict[str, tuple[type, ...]] = {
        "unet": (AudioLDM2UNet2DConditionModel,), "vae": (AutoencoderKL,), "vocoder": (SpeechT5HifiGanConfig,),
        "language_model": (GPT2Config,), "text_encoder_2": (T5Config, VitsConfig), "scheduler": (DDIMScheduler,),
    }  # fmt: skip
    for part, classes in kinds.items():
        check_names(part, tables[part], *classes, extra=GENERATION if part == "language_model" else ())
    check_overrides(tables["audio_mae"], AudioMAEConfig)


def check_back(name: str, output: Path | None, overrides: Mapping[str, Any]) -> None:
    """Refuses what is no way from diffusers' layout back to a file of the authors' names.

    Raises:
        ConversionError: saying which way there is.
    """
    if output is None or output.suffix != ".safetensors" or overrides:
        raise ConversionError(
            f"{shown(name)} is in diffusers' layout already; load it with AudioLDM2Pipeline, or convert it "
            "back to a file OUTPUT.safetensors, without anything set"
        )


def source_file(source: Path) -> Path:
    """The file weights are read from.

    Raises:
        ConversionError: a folder holds no such file, or several.
    """
    if not source.is_dir():
        return source
    files = sorted(source.glob("*.pth"))
    if len(files) != 1:
        raise ConversionError(f"{shown(source.name)} holds {len(files)} .pth files; name the one to convert")
    return files[0]


def _shared(parts: Parts, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The components every model has."""
    vae = convert_vae(parts.vae, parts.numbers[SCALE], tables["vae"])
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    return {
        "vae": vae,
        "unet": convert_unet(parts.unet, tables["unet"], scale),
        "vocoder": convert_vocoder(parts.vocoder, tables["vocoder"]),
        "scheduler": convert_scheduler(parts.numbers[BETAS], tables["scheduler"]),
    }


def _language_pipeline(parts: Parts, tables: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    from hubsep.pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    speech = bool(parts.phonemes)
    text_encoder = convert_clap(parts.clap, tables["text_encoder"])
    second = _second_text_encoder(parts, tables["text_encoder_2"], options.get("text_encoder_2"))
    language_model = convert_gpt2(parts.gpt2, tables["language_model"], speech=speech)
    components = {
        **_shared(parts, tables),
        "text_encoder": text_encoder,
        "feature_extractor": feature_extractor(text_encoder.config),
        "text_encoder_2": second,
        "projection_model": convert_projection(parts.projection, parts.positions if speech else {}),
        "language_model": language_model,
        "audio_mae": _audio_mae(parts.audio_mae, tables["audio_mae"]),
        "tokenizer": _clap_tokenizer(text_encoder.config.text_config, options),
    }
    limit = parts.positions["learnable_positional_embedding"].shape[2] if speech else T5_TOKENS
    name = options.get("tokenizer_2", None if speech else T5_TOKENIZER)
    of = "the VitsTokenizer of this model's phonemes" if speech else f"{T5_TOKENIZER}'s"
    components["tokenizer_2"] = load_tokenizer("tokenizer_2", name, of, second.config.vocab_size, limit)
    _check_widths(components)
    return AudioLDM2Pipeline(**components)


def _second_text_encoder(parts: Parts, fields: Mapping[str, Any], folder: Any) -> Any:
    if (parts.t5 or parts.phonemes) and folder is not None:
        raise ConversionError(f"the source holds its own text encoder; leave text_encoder_2={shown(folder)} out")
    if parts.phonemes:
        if "learnable_positional_embedding" not in parts.positions:
            raise ConversionError("the source is missing 'learnable_positional_embedding' of its phonemes")
        return convert_phonemes(parts.phonemes, fields)
    if parts.t5:
        return convert_t5(parts.t5, fields)
    if folder is None:
        raise ConversionError(
            "the source holds no T5; set text_encoder_2= to a folder or repository that holds the encoder of "
            f"{T5_TOKENIZER}"
        )
    return t5_from_folder(str(folder))


def _clap_pipeline(parts: Parts, tables: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The 48 kHz model, whose U-Net takes the embedding of CLAP beside the time."""
    from diffusers import AudioLDMPipeline
    from transformers import ClapTextModelWithProjection

    components = _shared(parts, tables)
    if components["unet"].config.class_embed_type is None:
        raise ConversionError(
            "the source holds neither a language model nor a U-Net that takes CLAP: this is the model that hears T5 "
            "alone, for which there is no pipeline"
        )
    clap = convert_clap(parts.clap, tables["text_encoder"])
    heard = {name: tensor for name, tensor in clap.state_dict().items() if name.startswith("text_")}
    config = clap.config.text_config
    config.projection_dim = clap.config.projection_dim
    components["text_encoder"] = filled("text_encoder", lambda: ClapTextModelWithProjection(config), lambda: heard)
    return AudioLDMPipeline(**components, tokenizer=_clap_tokenizer(config, options))


def convert_clap(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> Any:
    """CLAP, both towers."""
    from transformers import ClapModel

    config = clap_config(tensors, overrides)
    return filled("text_encoder", lambda: ClapModel(config), lambda: clap_state(tensors, config))


def _clap_tokenizer(text_config: Any, options: Mapping[str, Any]) -> Any:
    limit = text_config.max_position_embeddings - SPARE_POSITIONS
    name = options.get("tokenizer", TOKENIZER)
    return load_tokenizer("tokenizer", name, f"{TOKENIZER}'s", text_config.vocab_size, limit)


def _audio_mae(tensors: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> Any:
    return convert_encoder(tensors, overrides) if tensors else None


def convert_scheduler(betas: Tensor, overrides: Mapping[str, Any]) -> Any:
    """The noise schedule, from the betas the file holds.

    Raises:
        ConversionError: they are not the squares of evenly spaced numbers, the only ones AudioLDM 2 was trained with.
    """
    from diffusers import DDIMScheduler

    if betas.dim() != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
        raise ConversionError(f"betas of shape {tuple(betas.shape)} are no schedule of noise")
    first, last = (float(f"{float(beta):.6g}") for beta in (betas[0], betas[-1]))
    if not torch.allclose(
        betas.double(), torch.linspace(first**0.5, last**0.5, len(betas)).double() ** 2, atol=BETA_TOLERANCE
    ):
        raise ConversionError(f"betas go from {first} to {last}, but their roots are not evenly spaced")
    fields = {"num_train_timesteps": len(betas), "beta_start": first, "beta_end": last}
    fields = merged("scheduler", fields, overrides, DDIMScheduler)
    defaults = {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMScheduler(**{**defaults, **fields})


def _check_widths(components: Mapping[str, Any]) -> None:
    """What one component makes, the next has to take."""
    unet, gpt2 = components["unet"].config, components["language_model"].config
    projection, second = components["projection_model"].config, components["text_encoder_2"].config
    contexts = [width for width in unet.cross_attention_dim[0] if width is not None]
    states = [gpt2.n_embd] if components["text_encoder_2"].config.model_type == "vits" else None
    expected = states or [gpt2.n_embd, second.hidden_size]
    pairs = {
        "the U-Net's contexts": (contexts, expected),
        "what GPT-2 takes": (projection.langauge_model_dim, gpt2.n_embd),
        "what is projected from CLAP": (projection.text_encoder_dim, components["text_encoder"].config.projection_dim),
        "what is projected from the second text encoder": (projection.text_encoder_1_dim, second.hidden_size),
        "the latents of U-Net and VAE": (unet.in_channels, components["vae"].config.latent_channels),
    }
    if components["audio_mae"] is not None:
        pairs["the language of audio"] = (components["audio_mae"].config.hidden_size, gpt2.n_embd)
    for what, (size, wanted) in pairs.items():
        if size != wanted:
            raise ConversionError(f"{what}: {shown(size)} and {shown(wanted)} do not belong together")


def _write(output: Path, pipe: Any, fields: Mapping[str, Any]) -> None:
    from diffusers import DiffusionPipeline

    from hubsep.pipelines.audioldm2.loading.folder import write_stable_index

    with atomic_folder(output) as folder:
        try:
            # not our pipeline's own save_pretrained: that would make this unfinished folder look finished
            DiffusionPipeline.save_pretrained(pipe, folder, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        except OSError as error:
            raise ConversionError(f"{shown(str(output), 200)} could not be written: {error}") from error
        write_stable_index(folder / INDEX)
        write_card(folder, fields)
        check_folder(folder)


__all__ = ["check", "check_back", "convert", "convert_clap", "convert_scheduler", "source_file"]
