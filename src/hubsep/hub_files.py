# SPDX-License-Identifier: Apache-2.0
"""Which files may lie in a model's folder: those that are checked, those that nothing reads, and no others.

Libraries look for files by name: put a file of the right name into a folder, and loading opens another folder, asks to
run code, or goes to the network. Every release adds such names. So a file is accepted because its name is known here,
never because it is not known to be dangerous. Of what nothing reads, the kind is known by its ending.

A user who knows better sets the environment variable `HUBSEP_IGNORE_FILES`; a folder cannot.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from .errors import CheckpointError
from .hub_bounds import shown


IGNORE_VARIABLE = "HUBSEP_IGNORE_FILES"

CONFIG_NAMES = (
    "config.json",
    "generation_config.json",
    "model_index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
TOKENIZER_NAMES = ("added_tokens.json", "tokenizer.json", "vocab.json")
# not JSON, read by tokenizers
VOCABULARY_NAMES = ("merges.txt", "spiece.model", "vocab.txt")
INDEX_SUFFIX = ".safetensors.index.json"
CHECKED_NAMES = frozenset((*CONFIG_NAMES, *TOKENIZER_NAMES, *VOCABULARY_NAMES))

# each of these makes a library read or run something else; no user can want that here, so they cannot be ignored
REFUSED_NAMES = frozenset(
    """adapter_config.json audio_tokenizer_config.json chat_template.jinja chat_template.json
    image_processor_config.json modular_config.json modular_model_index.json quantize_config.json tekken.json
    tiktoken.model tokenizer.model video_preprocessor_config.json""".split()
)
# JSON that hubsep, the Trainer or the Hub write beside a model and that loading does not read
UNREAD_JSON = frozenset(
    """accuracy.json all_results.json audio_tower.json before.json card.json complete.json curve.json eval_results.json
    evaluation.json fine_tune.json manifest.json modelcard.json predict_results.json sounds.json train_results.json
    trainer_state.json training.json training_data.json""".split()
)
UNREAD_NAMES = frozenset(
    "authors changelog citation code_of_conduct contributing copying dockerfile licence license makefile notice "
    "readme version".split()
)
UNREAD_BEGINNINGS = ("events.out.tfevents.",)
UNREAD_JSON_ENDINGS = (".bin.index.json", ".msgpack.index.json", ".h5.index.json")
UNREAD_ENDINGS = frozenset(
    """.md .txt .rst .pdf .html .css .svg .png .jpg .jpeg .gif .webp .ico .bmp .tif .tiff
    .wav .flac .mp3 .ogg .opus .m4a .aac .aif .aiff .caf .mp4 .mkv .webm .mov .npy .npz .mat .midi .mid
    .csv .tsv .jsonl .parquet .arrow .log .yaml .yml .toml .cfg .ini .bib .cff .lock .sha256 .md5
    .bin .pt .pth .ckpt .pkl .pickle .th .joblib .h5 .hdf5 .keras .msgpack .ot .onnx .onnx_data .tflite .pb .gguf .ggml
    .index .meta .data-00000-of-00001 .mlmodel .engine .zip .tar .gz .tgz .xz .zst .7z
    .py .pyi .pyc .ipynb .sh .bat .js .ts .c .cpp .cu .h .rs .r .m .tex .diff .patch .bak .orig .old .tmp""".split()
)


def check_name(name: str) -> None:
    """Check that a file of this name, relative to the folder, is one that is checked, or one that nothing reads.

    Raises:
        CheckpointError: naming the file and the way out.
    """
    base = name.rpartition("/")[2]
    if base in REFUSED_NAMES or "additional_chat_templates/" in name:
        raise CheckpointError(
            f"{shown(name)} would make loading read or run something else; a model of hubsep has no such file. "
            "Delete it if the folder works without it."
        )
    if not (is_checked(base) or is_unread(base) or is_ignored(name)):
        raise CheckpointError(
            f"{shown(name)} is no file that belongs to a model, and its content cannot be checked. Delete it; or, if "
            f"you know that it is harmless, set the environment variable {IGNORE_VARIABLE} to its name (several are "
            "separated by commas, * stands for any characters)."
        )


def is_checked(base: str) -> bool:
    """Whether a file of this name is read when a model is loaded, and checked before that."""
    return base in CHECKED_NAMES or base.endswith((".safetensors", INDEX_SUFFIX))


def is_unread(base: str) -> bool:
    """Whether a file of this name is of a kind that nothing reads when a model is loaded."""
    lower = base.lower()
    if lower.startswith((".", *UNREAD_BEGINNINGS)):
        return True
    if lower.endswith(".json"):
        return base in UNREAD_JSON or base.endswith(UNREAD_JSON_ENDINGS)
    ending = lower[lower.rfind(".") :] if "." in lower else ""
    return ending in UNREAD_ENDINGS or (not ending and lower.partition("-")[0] in UNREAD_NAMES)


def is_ignored(name: str) -> bool:
    """Whether the user said that a file, by its name or its path in the folder, is to be passed over."""
    patterns = [part.strip() for part in os.environ.get(IGNORE_VARIABLE, "").split(",")]
    return any(
        fnmatchcase(text, pattern) for text in {name, name.rpartition("/")[2]} for pattern in patterns if pattern
    )


__all__ = [
    "CONFIG_NAMES",
    "IGNORE_VARIABLE",
    "INDEX_SUFFIX",
    "TOKENIZER_NAMES",
    "VOCABULARY_NAMES",
    "check_name",
    "is_checked",
    "is_ignored",
    "is_unread",
]
