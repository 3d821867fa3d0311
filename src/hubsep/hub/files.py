# SPDX-License-Identifier: Apache-2.0
"""Which files may lie in a model's folder: those that are checked, those that nothing reads, and no others.

Libraries look for files by name: put a file of the right name into a folder, and loading opens another folder, asks to
run code, or goes to the network. Every release adds such names. So a file is accepted because its name is known here,
never because it is not known to be dangerous. Of what nothing reads, the kind is known by its ending.

A user who knows better sets the environment variable `HUBSEP_IGNORE_FILES`; a folder cannot.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

from ..errors import CheckpointError
from .bounds import shown


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
INDEX = re.compile(r"\.safetensors\.index(\.[\w-]+)?\.json$")  # a variant stands before the last ending
TEMPLATES = "additional_chat_templates/"  # the one folder that transformers looks for in every folder
CHECKED_NAMES = frozenset((*CONFIG_NAMES, *TOKENIZER_NAMES, *VOCABULARY_NAMES))

# each of these makes a library read or run something else; no user can want that here, so they cannot be ignored
REFUSED_NAMES = frozenset(
    """adapter_config.json audio_tokenizer_config.json chat_template.jinja chat_template.json
    image_processor_config.json modular_config.json modular_model_index.json quantize_config.json tekken.json
    tiktoken.model tokenizer.model video_preprocessor_config.json""".split()
)
# JSON that hubsep, the Trainer or the Hub write beside a model and that loading does not read
UNREAD_JSON = frozenset(
    """accuracy.json args.json audio_tower.json before.json began_with.json card.json complete.json curve.json
    dataset_dict.json dataset_info.json dataset_infos.json deepspeed_config.json ds_config.json evaluation.json
    fine_tune.json history.json hparams.json id2label.json label2id.json labels.json manifest.json metadata.json
    metrics.json modelcard.json package-lock.json package.json params.json results.json sounds.json trainer_state.json
    training.json training_args.json training_data.json training_params.json tsconfig.json""".split()
)
# the first word of a name; what follows may be an ending or anything else
UNREAD_NAMES = frozenset(
    """authors change changelog changes checkpoint checksums citation code codeowners contributing copying copyright
    credits dockerfile gemfile history icon install latest licence license maintainers makefile md5sums news notice
    patents pipfile procfile readme security sha1sums sha256sums sha512sums third thumbs todo version""".split()
)
FIRST_WORD = re.compile(r"[-._\s]")
UNREAD_BEGINNINGS = ("events.out.tfevents.", "#", "~$")
# the Trainer writes `<split>_results.json`, a split being whatever its user calls it
UNREAD_JSON_ENDINGS = ("_results.json", "_metrics.json", ".bin.index.json", ".msgpack.index.json", ".h5.index.json")
UNREAD_ENDINGS = frozenset(
    """.md .markdown .txt .rst .adoc .org .rtf .pdf .ps .eps .doc .docx .odt .ppt .pptx .odp .xls .xlsx .ods .drawio
    .html .htm .css .scss .xml .xsd .svg .png .jpg .jpeg .gif .webp .avif .heic .ico .icns .bmp .tif .tiff .psd
    .wav .w64 .rf64 .flac .mp3 .ogg .oga .opus .m4a .aac .aif .aiff .aifc .au .caf .wma .amr .ac3 .raw .pcm .mid .midi
    .mp4 .mkv .webm .mov .avi .3gp .mpg .mpeg .npy .npz .mat .sf2 .m3u .m3u8 .cue
    .srt .vtt .lrc .textgrid .rttm .uem .ctm .stm .lab .eval .eaf .pho .lst .list .scp
    .csv .tsv .jsonl .ndjson .parquet .arrow .feather .sqlite .db .lmdb .tfrecord .log .out .err .yaml .yml .toml .cfg
    .ini .conf .env .properties .bib .cff .lock .sbatch .slurm .service .wandb .asc .sig .pem .crt
    .sha1 .sha256 .sha512 .md5 .metadata .part .incomplete .partial .download .crdownload .aria2 .url .webloc .torrent
    .bin .pt .pth .pt2 .pte .ckpt .pkl .pickle .th .t7 .joblib .h5 .hdf5 .keras .msgpack .ot .onnx .onnx_data .ort
    .tflite .pb .pbtxt .gguf .ggml .nemo .pdparams .pdopt .pdmodel .pdiparams .params .distcp .torchscript .jit .ptl
    .mar .trt .plan .engine .mlmodel .ncnn .mnn .npu .index .meta .data-00000-of-00001
    .zip .tar .gz .tgz .bz2 .xz .zst .7z .rar
    .py .pyi .pyc .pyx .ipynb .sh .bat .ps1 .js .mjs .ts .c .cc .cpp .cu .cuh .h .hpp .rs .r .rmd .m .jl .go .java .lua
    .swift .sql .mk .cmake .dockerfile .tex .diff .patch .bak .orig .old .tmp .swp .sav .save""".split()
)


def check_name(name: str) -> None:
    """Check that a file of this name, relative to the folder, is one that is checked, or one that nothing reads.

    Raises:
        CheckpointError: naming the file and the way out.
    """
    base = name.rpartition("/")[2]
    if base in REFUSED_NAMES or TEMPLATES in name:
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
    return base in CHECKED_NAMES or is_weights(base) or INDEX.search(base) is not None


def is_weights(base: str) -> bool:
    """Whether a file of this name holds weights; beside them, macOS puts notes of its own into `._x.safetensors`."""
    return base.endswith(".safetensors") and not base.startswith(".")


def is_unread(base: str) -> bool:
    """Whether a file of this name is of a kind that nothing reads when a model is loaded."""
    lower = base.lower()
    if lower.startswith((".", *UNREAD_BEGINNINGS)) or lower.endswith("~"):
        return True
    if lower.endswith(".json"):
        return base in UNREAD_JSON or base.endswith(UNREAD_JSON_ENDINGS)
    return lower[lower.rfind(".") :] in UNREAD_ENDINGS or FIRST_WORD.split(lower)[0] in UNREAD_NAMES


def is_ignored(name: str) -> bool:
    """Whether the user said that a file, by its name or its path in the folder, is to be passed over."""
    patterns = [part.strip() for part in os.environ.get(IGNORE_VARIABLE, "").split(",")]
    return any(
        fnmatchcase(text, pattern) for text in {name, name.rpartition("/")[2]} for pattern in patterns if pattern
    )


__all__ = [
    "CONFIG_NAMES",
    "IGNORE_VARIABLE",
    "INDEX",
    "TEMPLATES",
    "TOKENIZER_NAMES",
    "VOCABULARY_NAMES",
    "check_name",
    "is_checked",
    "is_ignored",
    "is_unread",
    "is_weights",
]
