# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a model folder: each case changes a good folder and names what the refusal must say."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


Attack = Callable[[Path], None]


def pack(header: Any, data: bytes = b"") -> bytes:
    """A `.safetensors` file from a header, as an object or as raw bytes, and its data."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def one(name: str = "a", dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def weights(content: bytes | Callable[[], bytes]) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content() if callable(content) else content)

    return attack


def sparse(size: int, prefix: bytes) -> Attack:
    """A file of `size` bytes that takes no room on the disk."""

    def attack(folder: Path) -> None:
        with (folder / "model.safetensors").open("wb") as file:
            file.write(prefix)
            file.truncate(size)

    return attack


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Attack:
    def attack(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return attack


def config(**fields: Any) -> Attack:
    def attack(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **fields}))

    return attack


def config_text(text: bytes) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "config.json").write_bytes(text)

    return attack


def index(shard: Any = "model-1.safetensors", **change: Any) -> Attack:
    """Turn the folder into a sharded one whose index names `shard`; a valid copy of it lies outside the folder."""

    def attack(folder: Path) -> None:
        os.rename(folder / "model.safetensors", folder / "model-1.safetensors")
        shutil.copy(folder / "model-1.safetensors", folder.parent / "outside.safetensors")
        names = load_file(folder / "model-1.safetensors")
        content = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(names, shard), **change}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return attack


def parts(name: str) -> Attack:
    """Weights under the name of a part, and no list of the parts."""
    return lambda folder: os.rename(folder / "model.safetensors", folder / name)


def link(name: str, target: str) -> Attack:
    def attack(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        if (folder / name).exists():
            os.rename(folder / name, outside / name)
        os.symlink(target.format(outside=outside), folder / name)

    return attack


def extra(name: str, content: bytes | str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return attack


def pipe(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return attack


def unix_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        previous = os.getcwd()
        os.chdir(folder)  # a socket's path has at most 107 characters
        server.bind("vocab.json")
        os.chdir(previous)


def million_keys(folder: Path) -> None:
    index()(folder)
    places = ",".join([f'"{number}":"model-1.safetensors"' for number in range(10**6)])
    (folder / "model.safetensors.index.json").write_text(f'{{"metadata":{{}},"weight_map":{{{places}}}}}')


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


HEADERS: dict[str, tuple[Attack, str]] = {
    "empty file": (weights(b""), "model.safetensors.*cut short"),
    "short prefix": (weights(b"\1\0\0"), "cut short"),
    "header of 2^63 bytes": (weights((1 << 63).to_bytes(8, "little") + b"{}"), "cut short"),
    "header longer than the file": (weights(pack({})[:-1]), "cut short"),
    "not JSON": (weights(pack(b"{nonsense}")), "not valid JSON"),
    "not UTF-8": (weights(pack(b'{"\xff": 1}')), "not valid JSON"),
    "a list": (weights(pack([])), "list where an object"),
    "no tensors": (weights(pack({})), "0 tensors"),
    "no tensors but metadata": (weights(pack({"__metadata__": {"format": "pt"}})), "0 tensors"),
    "other framework": (weights(pack({"__metadata__": {"format": "tf"}, **one()}, bytes(4))), "format is 'tf'"),
    "metadata not text": (weights(pack({"__metadata__": {"a": 1}, **one()}, bytes(4))), "__metadata__"),
    "overlap": (weights(pack({**one(), **one("b", offsets=(0, 4))}, bytes(4))), "overlaps"),
    "gap": (weights(pack({**one(), **one("b", offsets=(8, 12))}, bytes(12))), "gap"),
    "trailing bytes": (weights(pack(one(), bytes(5))), "describes"),
    "short data": (weights(pack(one(), bytes(3))), "describes"),
    "negative offset": (weights(pack(one(offsets=(-4, 0)))), "lists of sizes"),
    "negative size": (weights(pack(one(shape=(-1,)))), "lists of sizes"),
    "fraction as size": (weights(pack(one(shape=(1.0,)), bytes(4))), "lists of sizes"),
    "shape overflows": (weights(pack(one(shape=(1 << 40, 1 << 40)), bytes(4))), "bytes"),
    "shape and bytes differ": (weights(pack(one(shape=(2,)), bytes(4))), "bytes"),
    "unknown type": (weights(pack(one(dtype="F13"), bytes(4))), "type 'F13'"),
    "type is a list": (weights(pack(one(dtype=["F32"]), bytes(4))), "has the type"),
    "unknown field": (weights(pack({"a": {**one()["a"], "x": 1}}, bytes(4))), "nothing else"),
    "duplicate tensor": (
        weights(pack(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}', bytes(4))),
        "'a' occurs twice",
    ),
    "name with parent": (weights(pack(one("../../x"), bytes(4))), "not accepted as the name"),
    "name with slash": (weights(pack(one("/etc/passwd"), bytes(4))), "not accepted as the name"),
    "name with backslash": (weights(pack(one("a\\b"), bytes(4))), "not accepted as the name"),
    "name with two dots": (weights(pack(one("a..b"), bytes(4))), "not accepted as the name"),
    "name with NUL": (weights(pack(one("a\0b"), bytes(4))), "not accepted as the name"),
    "empty name": (weights(pack(one(""), bytes(4))), "not accepted as the name"),
    "long name": (weights(pack(one("a" * 513), bytes(4))), "not accepted as the name"),
    "deep header": (weights(pack(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)), "levels deep"),
    "digits": (weights(pack(b'{"a":' + b"1" * 100_000 + b"}")), "not valid JSON"),
    "100 MB of spaces": (weights(lambda: pack(b"{" + b" " * 100_000_000 + b"}")), "header of 100000002 bytes"),
    "100 000 tensors": (
        weights(lambda: pack({f"{i}": one("", "U8", [0], [0, 0])[""] for i in range(100_000)})),
        "header of .* bytes; at most 4194304",
    ),
    "20 GB of nothing": (sparse(20 << 30, pack(one())), "at most"),
}

WEIGHTS: dict[str, tuple[Attack, str]] = {
    "NaN": (
        tensors(lambda state: state["gains"].fill_(float("nan"))),
        "'gains' holds NaN or an infinity at element 0",
    ),
    "infinity": (tensors(lambda state: state["layers.0.weight"][7, 7].fill_(-torch.inf)), "element 63"),
    "missing": (tensors(lambda state: state.pop("gains")), "1 are missing.*'gains'"),
    "unexpected": (tensors(lambda state: state.update(more=torch.ones(1))), "1 belong to no part.*'more'"),
    "all other names": (
        tensors(lambda state: [state.update({f"x.{name}": state.pop(name)}) for name in list(state)]),
        "6 are missing|6 belong",
    ),
    "wrong shape": (tensors(lambda state: state.update(gains=torch.ones(3))), "another shape.*'gains'"),
    "whole numbers": (
        tensors(lambda state: state.update(gains=torch.ones(2, dtype=torch.int32))),
        "'gains' is stored as I32",
    ),
    "fractions": (tensors(lambda state: state.update(steps=torch.ones(3))), "'steps' is stored as F32"),
}

CONFIGS: dict[str, tuple[Attack, str]] = {
    "size 10^9": (config(hidden_size=10**9), "hidden_size is 1000000000, outside"),
    "size -1": (config(hidden_size=-1), "hidden_size is -1"),
    "size 0": (config(hidden_size=0), "hidden_size is 0"),
    "size 4.5": (config(hidden_size=4.5), "hidden_size must be a whole number"),
    "size as text": (config(hidden_size="4"), "hidden_size must be a whole number"),
    "size true": (config(hidden_size=True), "hidden_size must be a whole number"),
    "size a list": (config(hidden_size=[4]), "hidden_size must be a whole number"),
    "size null": (config(hidden_size=None), "hidden_size must be a whole number"),
    "size NaN": (config(hidden_size=float("nan")), "not a finite number"),
    "size 1e400": (config_text(b'{"model_type": "hubsep_tiny", "hidden_size": 1e400}'), "not a finite number"),
    "tagged infinity": (config(hidden_size={"__float__": "Infinity"}), "not a finite number"),
    "10^6 layers": (config(num_layers=10**6), "num_layers is 1000000"),
    "10^6 layers in a part": (config(text_config={"num_hidden_layers": 10**6}), "num_hidden_layers is 1000000"),
    "too many parameters": (config(hidden_size=4_096), "do not belong together"),
    "10^9 labels": (config(num_labels=10**9), "num_labels is 1000000000"),
    "unknown field": (config(hiden_size=8), "no field 'hiden_size'"),
    "other model": (config(model_type="bert"), "model_type is 'bert'"),
    "no model type": (config_text(b"{}"), "model_type is None"),
    "dtype names a function": (config(dtype="load"), "dtype is 'load'"),
    "labels a number": (config(id2label=5), "config.json.* cannot be built"),
    "auto_map": (config(auto_map={"AutoModel": "code.Model"}), "config.json' sets auto_map"),
    "auto_map in a part": (config(part={"auto_map": {"AutoModel": "code.Model"}}), "sets auto_map"),
    "custom_pipelines": (config(custom_pipelines={"x": {}}), "sets custom_pipelines"),
    "trust_remote_code": (config(trust_remote_code=True), "sets trust_remote_code"),
    "kernel": (config(_attn_implementation_internal="someone/kernel"), "sets _attn_implementation_internal"),
    "kernel by the public name": (config(attn_implementation="someone/kernel"), "attn_implementation is"),
    "other weights": (config(transformers_weights="../outside.safetensors"), "sets transformers_weights"),
    "other configuration": (config(configuration_files=["x.json"]), "sets configuration_files"),
    "quantization": (config(quantization_config={"quant_method": "awq"}), "sets quantization_config"),
    "deep": (config_text(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "levels deep"),
    "40 levels": (config_text(b'{"a":' * 40 + b"1" + b"}" * 40), "levels deep"),
    "2 MB": (config_text(b'{"a": "' + b"x" * 2_000_000 + b'"}'), "at most 1048576"),
    "key twice": (config_text(b'{"hidden_size": 8, "hidden_size": 9}'), "'hidden_size' occurs twice"),
    "not JSON": (config_text(b"\x80\x04."), "config.json' is not valid JSON"),
    "empty": (config_text(b""), "config.json' is not valid JSON"),
    "a list": (config_text(b"[]"), "list where an object"),
    "code in the tokenizer": (
        extra("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.T", null]}}'),
        "tokenizer_config.json' sets auto_map",
    ),
    "code in the processor": (extra("processor_config.json", '{"auto_map": {"AutoProcessor": "x.P"}}'), "processor_"),
    "deep tokenizer": (extra("tokenizer.json", "[" * 100_000), "tokenizer.json' is nested"),
    "adapter": (extra("adapter_config.json", '{"base_model_name_or_path": "someone/model"}'), "holds an adapter"),
}

INDEXES: dict[str, tuple[Attack, str]] = {
    "parent": (index("../outside.safetensors"), "index.json' names '../outside.safetensors'"),
    "through a folder": (index("a/../../outside.safetensors"), "same folder"),
    "folder": (index("a/b.safetensors"), "same folder"),
    "absolute": (index("/outside.safetensors"), "same folder"),
    "drive": (index("C:\\x.safetensors"), "same folder"),
    "drive without a slash": (index("C:x.safetensors"), "same folder"),
    "share": (index("\\\\host\\x.safetensors"), "same folder"),
    "NUL": (index("model-1.safetensors\0.safetensors"), "same folder"),
    "pickle": (index("model-1.bin"), "same folder"),
    "itself": (index("model.safetensors.index.json"), "same folder"),
    "hidden": (index(".safetensors"), "same folder"),
    "number": (index(1), "same folder"),
    "list": (index(["model-1.safetensors"]), "same folder"),
    "absent": (index("model-2.safetensors"), "not in the folder"),
    "no metadata": (index(metadata=None), "needs a metadata object"),
    "no weight_map": (index(weight_map=None), "weight_map"),
    "weight_map a list": (index(weight_map=["a"]), "weight_map"),
    "weight_map empty": (index(weight_map={}), "weight_map"),
    "tensor not there": (index(weight_map={"x": "model-1.safetensors"}), "says that"),
    "10^6 keys": (million_keys, "at most 8388608"),
}

FILES: dict[str, tuple[Attack, str]] = {
    "linked config": (link("config.json", "{outside}/config.json"), "config.json' is a link to a place outside"),
    "linked weights": (link("model.safetensors", "{outside}/model.safetensors"), "outside the folder"),
    "relative link": (link("model.safetensors", "../outside/model.safetensors"), "outside the folder"),
    "linked folder": (link("part", "{outside}"), "outside the folder"),
    "link to a device": (link("model.safetensors", "/dev/zero"), "outside the folder"),
    "link to itself": (link("part", "part"), "leads nowhere"),
    "dangling link": (link("part", "{outside}/absent"), "leads nowhere"),
    "pipe as config": (pipe("config.json"), "config.json' is a pipe"),
    "pipe as weights": (pipe("model.safetensors"), "model.safetensors' is a pipe"),
    "socket": (unix_socket, "vocab.json' is a pipe, socket"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "only a pickle": (only_pickle, "pytorch_model.bin' is never opened"),
    "distributed": (extra("shard-00000-model-00001-of-00001.safetensors", pack(one(), bytes(4))), "distributed"),
    "parts and no list": (parts("model-00001-of-00002.safetensors"), "part 1 of 2 .*'model.safetensors.index.json'"),
    "parts of a variant": (parts("model.fp16-00002-of-00002.safetensors"), "'model.safetensors.index.fp16.json'"),
    "broken weights in a part": (extra("part/model.safetensors", b"x"), "part/model.safetensors' is cut short"),
}

ALL = {
    f"{group}: {name}": case
    for group, cases in (
        ("header", HEADERS),
        ("weights", WEIGHTS),
        ("config", CONFIGS),
        ("index", INDEXES),
        ("files", FILES),
    )
    for name, case in cases.items()
}
