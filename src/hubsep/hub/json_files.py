# SPDX-License-Identifier: Apache-2.0
"""Reading JSON that somebody else wrote.

Size is checked before the file is read, nesting before anything walks the result, and a key that occurs twice is an
error: two readers of the same file would otherwise see two different configurations. Keys by which transformers would
fetch code, another file or another repository are refused wherever they stand in a configuration.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .bounds import shown


MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 8 << 20
MAX_TOKENIZER_BYTES = 32 << 20
MAX_DEPTH = 32
MAX_LAYERS = 1_024
MAX_INTEGER = 1 << 40

CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code", "code_revision")
KERNEL_KEYS = ("_attn_implementation_internal", "_experts_implementation_internal")
REDIRECTING_KEYS = (
    "audio_tokenizer", "configuration_files", "fusion_config", "gguf_file", "quantization_config",
    "transformers_weights",
)  # fmt: skip
FORBIDDEN_KEYS = frozenset(CODE_KEYS + KERNEL_KEYS + REDIRECTING_KEYS)
LAYER_WORDS = ("num_layers", "num_hidden_layers", "num_blocks", "num_repeats", "n_layer", "depth", "depths")
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
ATTENTION_NAMES = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16")


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES, *, name: str | None = None) -> dict[str, Any]:
    """Read a JSON object with no duplicate key, at most `limit` bytes and 32 levels.

    `name` is what errors call the file; its own name when left out.

    Raises:
        CheckpointError: naming the file and the reason.
        FileNotFoundError: if there is no such file.
    """
    label = name or shown(path.name)
    return _as_object(read_json_value(path, limit, name=name), label)


def read_json_value(path: Path, limit: int = MAX_CONFIG_BYTES, *, name: str | None = None) -> Any:
    """Read JSON of any kind as `read_json` does.

    Raises:
        CheckpointError: naming the file and the reason.
        FileNotFoundError: if there is no such file.
    """
    label = name or shown(path.name)
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for whoever writes to it
        raise CheckpointError(f"{label} is no regular file.")
    if facts.st_size > limit:
        raise CheckpointError(f"{label} has {facts.st_size} bytes; at most {limit} are accepted.")
    return parse_json_value(path.read_bytes(), label)


def parse_json(content: bytes, label: str) -> dict[str, Any]:
    """Parse a JSON object as `read_json` does.

    Raises:
        CheckpointError: naming `label` and the reason.
    """
    return _as_object(parse_json_value(content, label), label)


def parse_json_value(content: bytes, label: str) -> Any:
    """Parse JSON of any kind as `read_json` does.

    Raises:
        CheckpointError: naming `label` and the reason.
    """
    try:
        result = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except CheckpointError as error:
        raise CheckpointError(f"{label}: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{label} is nested more than {MAX_DEPTH} levels deep.") from None
    except ValueError as error:  # not UTF-8, not JSON, or a whole number of thousands of digits
        raise CheckpointError(f"{label} is not valid JSON: {shown(str(error), 120)}.") from None
    for depth, _, _ in walk(result):
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{label} is nested more than {MAX_DEPTH} levels deep.")
    return result


def _as_object(value: Any, label: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{label} holds {type(value).__name__} where an object is expected.")
    return value


def walk(value: Any) -> Iterator[tuple[int, str, Any]]:
    """Yield (depth, key, value) of all there is in parsed JSON; the entries of a list have the key of the list."""
    pending: list[tuple[int, str, Any]] = [(0, "", value)]
    while pending:
        depth, key, item = pending.pop()
        yield depth, key, item
        if isinstance(item, dict):
            pending.extend((depth + 1, child, content) for child, content in item.items())
        elif isinstance(item, list):
            pending.extend((depth + 1, key, content) for content in item)


def check_code_keys(content: dict[str, Any], label: str) -> None:
    """Refuse keys that make transformers fetch code, other files or kernels.

    Raises:
        CheckpointError: naming `label` and the key.
    """
    for _, key, value in walk(content):
        if key in FORBIDDEN_KEYS and value not in (None, False):
            raise CheckpointError(
                f"{label} sets {key}, which would load code or weights from elsewhere. Remove the key if the folder "
                "works without it."
            )
        if key in ATTENTION_KEYS and value is not None and value not in ATTENTION_NAMES:
            raise CheckpointError(f"{label}: {key} is {shown(value)}; accepted are {', '.join(ATTENTION_NAMES)}.")


def check_config_values(content: dict[str, Any], label: str) -> None:
    """Refuse numbers in a model's `config.json` that no model can be built from, whatever its type.

    A configuration's own validator knows tighter limits; this one also covers the parts that other libraries validate.

    Raises:
        CheckpointError: naming `label`, the key and the value.
    """
    for _, key, value in walk(content):
        if (isinstance(value, float) and not math.isfinite(value)) or key == "__float__":
            raise CheckpointError(f"{label}: {shown(key)} is not a finite number.")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise CheckpointError(f"{label}: {shown(key)} is {shown(value)}, beyond every accepted range.")
        if key in LAYER_WORDS and isinstance(value, int) and value > MAX_LAYERS:
            raise CheckpointError(f"{label}: {key} is {value}; at most {MAX_LAYERS} are accepted.")
        if key == "num_labels" and value is not None and not (isinstance(value, int) and 0 <= value <= 100_000):
            raise CheckpointError(f"{label}: num_labels is {shown(value)}, outside the accepted range 0 to 100000.")
        if key in ("dtype", "torch_dtype") and value is not None and value not in DTYPE_NAMES:
            raise CheckpointError(f"{label}: {key} is {shown(value)}; accepted are {', '.join(DTYPE_NAMES)}.")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CheckpointError(f"the key {shown(twice)} occurs twice.")
    return result


__all__ = [
    "check_code_keys",
    "check_config_values",
    "parse_json",
    "parse_json_value",
    "read_json",
    "read_json_value",
    "walk",
]
