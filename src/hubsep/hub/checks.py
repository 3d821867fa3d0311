# SPDX-License-Identifier: Apache-2.0
"""Checks of a model folder before anything is loaded from it.

The order is from cheap to dear, so a refusal comes early: what kinds of files there are, then configurations, then
headers and indexes of the weights, and at last the weights themselves, read once. Pickles (`.bin`, `.pt`, `.ckpt`,
`.pkl`) may lie in a folder, as the Trainer puts them there, but are never opened.

A file is looked at by its name: it is of a kind that is checked here, of a kind that nothing reads, or it is refused
(`hub.files`). What each JSON file may hold is in tables (`hub.processors`, `hub.tokenizers`).

Links that lead out of the folder are refused, since what they name is outside what the user chose. The exception is
the layout of the Hub's own cache, whose snapshots consist of links to `blobs/`. Libraries look for names in the folder
itself and in those that `model_index.json` names; in others (samples, logs, another framework's weights) a name that
is not known here is harmless. Hidden folders and `checkpoint-*` are not part of a model and are not looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .bounds import bounded, bounded_list, one_of, shown
from .files import CONFIG_NAMES, INDEX, TEMPLATES, TOKENIZER_NAMES, VOCABULARY_NAMES, check_name, is_weights
from .json_files import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    MAX_TOKENIZER_BYTES,
    check_code_keys,
    check_config_values,
    read_json,
)
from .processors import (
    check_generation,
    check_preprocessor,
    check_processor,
    check_special_tokens,
    check_tokenizer_config,
)
from .tensors import StoredTensor, check_finite, check_places, read_header
from .tokenizers import check_added_tokens, check_tokenizer, check_vocabulary, check_vocabulary_file


MAX_ENTRIES = 10_000
MAX_FOLDER_DEPTH = 8
MAX_WEIGHT_BYTES = 16 << 30
# as transformers and diffusers name parts of weights; a variant stands before or behind their numbers
SHARD = re.compile(r"(.*/)?([\w-]*?model)(\.[\w-]+?)?-(\d{5})-of-(\d{5})(\.[\w-]+)?\.safetensors")

# what each file may hold; the rest of `config.json` is checked by the class that is built from it
CONTENTS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "added_tokens.json": check_added_tokens,
    "config.json": lambda label, content: check_config_values(content, label),
    "generation_config.json": check_generation,
    "preprocessor_config.json": check_preprocessor,
    "processor_config.json": check_processor,
    "special_tokens_map.json": check_special_tokens,
    "tokenizer.json": check_tokenizer,
    "tokenizer_config.json": check_tokenizer_config,
    "vocab.json": check_vocabulary,
}


def check_folder(folder: str | os.PathLike[str], *, finite: bool = True) -> list[StoredTensor]:
    """Check everything in a model folder that loading would touch; return the tensors of the model's own weights.

    The folder must hold `config.json` with `.safetensors` weights beside it, or `model_index.json` with its components
    in folders below. `finite=False` leaves the weights themselves unread.

    Raises:
        CheckpointError: naming the file and the reason. Nothing outside the folder is read, and no pickle is opened.
    """
    root = Path(folder)
    files = _files(root)
    _check_main_files(root, files)
    _check_contents(files)
    headers = {name: read_header(path, name=shown(name)) for name, path in files.items() if _is_weights(name)}
    _check_shards(files)
    for name in files:
        if INDEX.search(name):
            _check_index(name, files, headers)
    if finite:
        for name, header in headers.items():
            check_finite(files[name], header, name=shown(name))
            check_places(files[name], header, name=shown(name))
    return [tensor for name, header in headers.items() if "/" not in name for tensor in header]


def check_files(folder: str | os.PathLike[str]) -> None:
    """Check all there is in a folder but weights: one that holds, for instance, only a processor.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    _check_contents(_files(Path(folder)))


def check_tokenizer_files(folder: str | os.PathLike[str]) -> None:
    """Check what a tokenizer is read from, in a folder that may hold anything else, as one a recipe starts from.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    for name, path in _files(Path(folder)).items():
        if name in (*TOKENIZER_NAMES, *VOCABULARY_NAMES, "special_tokens_map.json", "tokenizer_config.json"):
            check_name(name)
            _check_content(name, path)


def _files(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise CheckpointError(f"{shown(str(root))} is not a folder.")
    return {path.relative_to(root).as_posix(): path for path in regular_files(root)}


def regular_files(root: Path) -> Iterator[Path]:
    """Every file of the model; folders, links and special files on the way are checked, never opened."""
    pending, entries = [(root, 0)], 0
    while pending:
        folder, depth = pending.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            entries += 1
            if entries > MAX_ENTRIES:
                raise CheckpointError(f"the folder holds more than {MAX_ENTRIES} files: it is not a model's folder.")
            path, name = Path(entry.path), shown(os.path.relpath(entry.path, root))
            if entry.is_symlink():
                if _check_link(path, root, name, depth):
                    yield path
            elif entry.is_dir() and entry.name.endswith((".json", ".safetensors")):
                raise CheckpointError(f"{name} is a folder; a file belongs there.")
            elif entry.is_dir():
                if depth >= MAX_FOLDER_DEPTH:
                    raise CheckpointError(f"{name}: folders are nested more than {MAX_FOLDER_DEPTH} deep.")
                if not entry.name.startswith((".", "checkpoint-")):
                    pending.append((path, depth + 1))
            elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                raise CheckpointError(f"{name} is a pipe, socket or device, not a regular file.")
            else:
                yield path


def read_before_checks(root: Path, name: str) -> dict[str, Any]:
    """A JSON file of a folder that is not checked yet; nothing if it is not there.

    Args:
        root: the folder.
        name: of the file, in folders below it perhaps.

    Raises:
        CheckpointError: if it leads out of the folder by a link, or is no JSON object.
    """
    path = root / name
    if not path.is_file():
        return {}
    _check_place(path.resolve(), root.resolve(), shown(name))
    return read_json(path, MAX_CONFIG_BYTES, name=shown(name))


def _check_link(path: Path, root: Path, name: str, depth: int) -> bool:
    """Whether a link is one to a file; one to a folder is passed over where loading would not open the folder."""
    try:
        target, whole = path.resolve(strict=True), root.resolve()
    except (OSError, RuntimeError):
        raise CheckpointError(f"{name} is a link that leads nowhere.") from None
    _check_place(target, whole, name)
    unopened = path.name.startswith("checkpoint-") or (depth > 0 and path.name != TEMPLATES.rstrip("/"))
    if not target.is_file() and not (unopened and target.is_dir()):
        raise CheckpointError(f"{name} is a link to something that is not a regular file.")
    return target.is_file()


def _check_place(target: Path, root: Path, name: str) -> None:
    if not any(target.is_relative_to(place) for place in (root, *blob_folders(root))):
        raise CheckpointError(
            f"{name} is a link to a place outside the folder. Replace it by a copy of the file it names."
        )


def blob_folders(root: Path) -> list[Path]:
    """Where links of a Hub cache may lead: the repository's `blobs/`, and the store all repositories share."""
    for commit in (root, *root.parents):
        if commit.parent.name == "snapshots":
            repository = commit.parent.parent
            return [repository / "blobs", repository.parent / "blobs"]
    return []


def _check_main_files(root: Path, files: dict[str, Path]) -> None:
    if "adapter_config.json" in files:  # transformers would follow it to another folder or repository
        raise CheckpointError(
            "adapter_config.json: the folder holds an adapter. Load the model it was trained on with "
            "pipeline(model=..., adapter=folder)."
        )
    if "config.json" not in files and "model_index.json" not in files:
        raise CheckpointError(
            f"{shown(root.name or str(root))} holds no config.json: it is not a saved model. "
            "Name a model that `hubsep list` prints, or a folder that `save_pretrained`, `hubsep convert` or "
            "`hubsep train` wrote."
        )
    if "model_index.json" in files:
        return
    weights = [name for name in files if _is_weights(name) and "/" not in name]
    if not weights:
        pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        way_out = f" {shown(pickles[0])} is never opened here; `hubsep convert` reads it." if pickles else ""
        raise CheckpointError(f"{shown(root.name or str(root))} holds no .safetensors weights.{way_out}")
    size = sum(files[name].stat().st_size for name in weights)
    if size > MAX_WEIGHT_BYTES:
        raise CheckpointError(f"the weights have {size} bytes; at most {MAX_WEIGHT_BYTES} are accepted.")
    for name in weights:
        if name.startswith("shard-"):  # transformers would read these instead of model.safetensors
            raise CheckpointError(f"{shown(name)} is part of a distributed checkpoint; consolidate it first.")


def _check_contents(files: dict[str, Path]) -> None:
    """Check each file; an unknown name is refused where libraries look for files by name."""
    components = read_json(files["model_index.json"]).keys() if "model_index.json" in files else ()
    for name, path in files.items():
        if "/" not in name or TEMPLATES in name or name.partition("/")[0] in components:
            check_name(name)
        _check_content(name, path)


def _check_content(name: str, path: Path) -> None:
    base, label = name.rpartition("/")[2], shown(name)
    if base in VOCABULARY_NAMES:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            size = path.stat().st_size
            raise CheckpointError(f"{label} has {size} bytes; at most {MAX_TOKENIZER_BYTES} are accepted.")
        check_vocabulary_file(label, base, path.read_bytes())
    elif base in CONFIG_NAMES:
        content = read_json(path, MAX_CONFIG_BYTES, name=label)
        check_code_keys(content, label)
    elif base in TOKENIZER_NAMES:
        content = read_json(path, MAX_TOKENIZER_BYTES, name=label)
    else:
        return
    if base in CONTENTS:
        CONTENTS[base](label, content)


def _check_shards(files: dict[str, Path]) -> None:
    """Refuses parts of weights that no index puts together: what is loaded is the file with all, or none."""
    for name in files:
        match = SHARD.fullmatch(name)
        if match is None:
            continue
        stem, variant = (match[1] or "") + match[2], match[3] or match[6] or ""
        index, whole = f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors"
        if index not in files and whole not in files:
            raise CheckpointError(
                f"{shown(name)} is part {int(match[4])} of {int(match[5])} of the weights, and the list of all parts, "
                f"{shown(index)}, is not in the folder: copy it from where the parts came from, or save the model "
                "again."
            )


def _check_index(name: str, files: dict[str, Path], headers: dict[str, list[StoredTensor]]) -> None:
    label = shown(name)
    content = read_json(files[name], MAX_INDEX_BYTES, name=label)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or not isinstance(content.get("metadata"), dict):
        raise CheckpointError(f"{label} needs a metadata object and a weight_map with at least one entry.")
    folder = name[: name.rfind("/") + 1]
    if INDEX.sub(r"\1.safetensors", name) in files:
        raise CheckpointError(f"{label} stands beside a file with all the weights; only one of the two can be meant.")
    held: dict[str, str] = {}
    for shard in sorted({_shard_name(shard, label) for shard in places.values()}):
        if folder + shard not in headers:
            raise CheckpointError(f"{label} names {shown(shard)}, which is not in the folder.")
        for tensor in headers[folder + shard]:
            if tensor.name in held:
                raise CheckpointError(
                    f"{shown(tensor.name)} is in both {shown(held[tensor.name])} and {shown(shard)}."
                )
            held[tensor.name] = shard
    for tensor_name in held.keys() | places.keys():
        if held.get(tensor_name) != places.get(tensor_name):
            raise CheckpointError(
                f"{label} says that {shown(tensor_name)} is in {shown(places.get(tensor_name))}; it is in "
                f"{shown(held.get(tensor_name))}."
            )


def _shard_name(value: Any, label: str) -> str:
    """A shard is a plain file name on every system: no folder, drive, stream, device or trailing dot."""
    plain = isinstance(value, str) and value.endswith(".safetensors") and not value.startswith(".")
    if not plain or not value.isprintable() or set('/\\:*?"<>|') & set(value) or len(value) > 255:
        raise CheckpointError(f"{label} names {shown(value)}; a shard must be a .safetensors file in the same folder.")
    return value


def _is_weights(name: str) -> bool:
    return is_weights(name.rpartition("/")[2])


__all__ = [
    "blob_folders",
    "bounded",
    "bounded_list",
    "check_files",
    "check_folder",
    "check_tokenizer_files",
    "one_of",
    "read_before_checks",
    "regular_files",
    "shown",
]
