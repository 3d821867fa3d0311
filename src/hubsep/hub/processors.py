# SPDX-License-Identifier: Apache-2.0
"""Checks of the small JSON files from which processors, feature extractors and tokenizers are built.

Decisions: the classes they may name are listed here, so no file can ask for another one; a processor consists of a
feature extractor and a tokenizer, so a file that adds a third part, as an audio tokenizer in another folder, is
refused; and sizes are bounded by the memory that the arrays made from them take, not only one by one.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .bounds import bounded, shown
from .fields import (
    Check,
    Table,
    check_fields,
    choice,
    either,
    flag,
    items,
    nothing,
    number,
    optional,
    table,
    text,
    whole,
)


MAX_TOKENS = 1 << 20  # ids of a vocabulary
MAX_SPECIAL_TOKENS = 4_096
MAX_QUERY_TOKENS = 8_192
UNLIMITED = int(1e30)  # what transformers writes for "no limit"
# numbers of a complex spectrogram of the longest recording, and of a table of mel filters
MAX_SPECTROGRAM = 1 << 24
MAX_FILTERS = 1 << 22

TOKENIZER_CLASSES = (
    "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast",
    "T5Tokenizer", "T5TokenizerFast", "TokenizersBackend", "VitsTokenizer",
)  # fmt: skip
PROCESSOR_CLASSES = ("AudioSepProcessor", "ClapProcessor")
CLAP, AUDIOMAE = "ClapFeatureExtractor", "AudioMAEFeatureExtractor"

LENGTH: Check = whole(1, 1 << 28)
BASE_FIELDS: Table = {
    "feature_extractor_type": choice(CLAP, AUDIOMAE),
    "processor_class": optional(choice(*PROCESSOR_CLASSES)),
    "transformers_version": text(64),
}
CLAP_FIELDS: Table = {
    **BASE_FIELDS,
    "feature_size": whole(1, 1_024),
    "sampling_rate": whole(1_000, 192_000),
    "hop_length": whole(1, 65_536),
    "max_length_s": whole(1, 120),
    "fft_window_size": whole(16, 16_384),
    "padding_value": number(-1e6, 1e6),
    "padding_side": choice("right", "left"),
    "return_attention_mask": flag,
    "frequency_min": number(0, 96_000),
    "frequency_max": number(1, 96_000),
    "top_db": optional(number(1, 1_000)),
    "truncation": choice("fusion", "rand_trunc"),
    "padding": choice("repeatpad", "repeat", "pad"),
    "nb_frequency_bins": LENGTH,  # this and the next follow from the others
    "nb_max_samples": LENGTH,
    "nb_max_frames": LENGTH,  # of older releases
    "chunk_length_s": whole(1, 120),
    "n_fft": LENGTH,
}
AUDIOMAE_FIELDS: Table = {
    **BASE_FIELDS,
    "sampling_rate": whole(1_000, 192_000),
    "num_frames": whole(1, 1 << 15),
    "num_mel_bins": whole(4, 1_024),
    "mean": number(-1e3, 1e3),
    "std": number(1e-3, 1e3),
}

ADDED_TOKEN: Table = {
    "__type": choice("AddedToken"),
    "content": text(256),
    "single_word": flag,
    "lstrip": flag,
    "rstrip": flag,
    "normalized": flag,
    "special": flag,
}
TOKEN: Check = either(text(256), table(ADDED_TOKEN, required=("content",)))
TOKENS: Check = either(items(TOKEN, MAX_SPECIAL_TOKENS), table({}))
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_TOKENS: Table = {
    **dict.fromkeys(NAMED_TOKENS, optional(TOKEN)),
    "additional_special_tokens": optional(TOKENS),
    "extra_special_tokens": optional(TOKENS),
}
FLAGS = (
    "add_bos_token add_eos_token add_blank add_prefix_space clean_up_tokenization_spaces do_basic_tokenize "
    "do_lower_case is_local is_uroman legacy local_files_only normalize phonemize split_special_tokens strip_accents "
    "tokenize_chinese_chars trim_offsets"
).split()
SIDE: Check = choice("left", "right")
TOKENIZER_FIELDS: Table = {
    **SPECIAL_TOKENS,
    **dict.fromkeys(FLAGS, optional(flag)),
    "tokenizer_class": choice(*TOKENIZER_CLASSES),
    "processor_class": optional(choice(*PROCESSOR_CLASSES)),
    "backend": choice("tokenizers", "custom", "sentencepiece", "python"),
    "model_input_names": items(choice("input_ids", "attention_mask", "token_type_ids"), 3, least=1),
    "model_max_length": either(whole(1, UNLIMITED), number(1, 1e30)),
    "extra_ids": whole(0, 1_024),
    "errors": choice("replace", "strict", "ignore"),
    "language": optional(text(64)),
    "padding_side": SIDE,
    "truncation_side": SIDE,
    "max_length": optional(whole(0, MAX_QUERY_TOKENS)),
    "stride": optional(whole(0, MAX_QUERY_TOKENS)),
    "truncation_strategy": optional(choice("longest_first", "only_first", "only_second", "do_not_truncate")),
    "pad_to_multiple_of": optional(whole(1, 1_024)),
    "pad_token_type_id": optional(whole(0, 16)),
    "vocab_size": optional(whole(1, MAX_TOKENS)),
    "sp_model_kwargs": table({}),
    "init_inputs": items(nothing, 0),
    "never_split": nothing,
    # transformers puts the folder in the place of the first, and never opens the second
    "name_or_path": optional(text(1_024)),
    "special_tokens_map_file": optional(text(1_024)),
    "tokenizer_file": nothing,
    "vocab_file": nothing,
    "merges_file": nothing,
    "transformers_version": text(64),
}


def check_preprocessor(label: str, content: dict[str, Any]) -> None:
    """Check `preprocessor_config.json`, or the part of a processor that is called `feature_extractor`.

    Raises:
        CheckpointError: naming the field, its value and the limits.
    """
    kind = content.get("feature_extractor_type") if isinstance(content, dict) else None
    check_fields(label, content, AUDIOMAE_FIELDS if kind == AUDIOMAE else CLAP_FIELDS)
    if kind != AUDIOMAE:
        _check_clap_sizes(label, content)


def _check_clap_sizes(label: str, content: dict[str, Any]) -> None:
    rate, bins = content.get("sampling_rate", 48_000), content.get("fft_window_size", 1_024) // 2 + 1
    samples, mels = content.get("max_length_s", 10) * rate, content.get("feature_size", 64)
    low, high = content.get("frequency_min", 0), content.get("frequency_max", 14_000)
    if not low < high <= rate / 2:
        raise CheckpointError(
            f"{label}: frequency_min is {low} and frequency_max is {high}; they must rise, up to half of the "
            f"sampling_rate, {rate / 2:g}."
        )
    for name, value in (("nb_frequency_bins", bins), ("nb_max_samples", samples)):
        if content.get(name, value) != value:
            raise CheckpointError(f"{label}: {name} is {shown(content[name])}; by the other fields it is {value}.")
    bounded(f"{label}: feature_size x bins of fft_window_size", mels * bins, 1, MAX_FILTERS)
    frames = samples // content.get("hop_length", 480) + 1
    bounded(f"{label}: max_length_s x sampling_rate / hop_length x bins", frames * bins, 1, MAX_SPECTROGRAM)


def check_processor(label: str, content: dict[str, Any]) -> None:
    """Check `processor_config.json`: a feature extractor, and nothing else beside the tokenizer's own files.

    Raises:
        CheckpointError: naming the field, its value and what is accepted.
    """
    fields: Table = {
        "processor_class": choice(*PROCESSOR_CLASSES),
        "feature_extractor": check_preprocessor,
        "transformers_version": text(64),
    }
    check_fields(label, content, fields, required=("processor_class",))


def check_tokenizer_config(label: str, content: dict[str, Any]) -> None:
    """Check `tokenizer_config.json`.

    Raises:
        CheckpointError: naming the field, its value and what is accepted.
    """
    check_fields(label, content, {**TOKENIZER_FIELDS, "added_tokens_decoder": _check_decoder})


def check_special_tokens(label: str, content: dict[str, Any]) -> None:
    """Check `special_tokens_map.json`.

    Raises:
        CheckpointError: naming the field, its value and what is accepted.
    """
    check_fields(label, content, SPECIAL_TOKENS)


def check_generation(label: str, content: dict[str, Any]) -> None:
    """Check `generation_config.json`: numbers and yes or no, so that nothing in it names a class or a place.

    Raises:
        CheckpointError: naming the field and its value.
    """
    for name, value in content.items():
        if name in ("transformers_version", "_from_model_config"):
            continue
        for part in value if isinstance(value, list) and len(value) <= 64 else [value]:
            if part is not None and not isinstance(part, bool):
                bounded(f"{label}: {shown(name)}", part, -MAX_TOKENS, MAX_TOKENS, kind=float)


def _check_decoder(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(value) > MAX_SPECIAL_TOKENS:
        raise CheckpointError(f"{name} must be an object of at most {MAX_SPECIAL_TOKENS} tokens, not {shown(value)}.")
    for key, token in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 8 and int(key) < MAX_TOKENS):
            raise CheckpointError(f"{name} has the key {shown(key)}; it must be a number below {MAX_TOKENS}.")
        check_fields(f"{name}[{key}]", token, ADDED_TOKEN, required=("content",))


__all__ = [
    "AUDIOMAE",
    "AUDIOMAE_FIELDS",
    "CLAP",
    "MAX_QUERY_TOKENS",
    "MAX_SPECIAL_TOKENS",
    "MAX_TOKENS",
    "TOKENIZER_CLASSES",
    "check_generation",
    "check_preprocessor",
    "check_processor",
    "check_special_tokens",
    "check_tokenizer_config",
]
