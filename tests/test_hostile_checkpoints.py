# SPDX-License-Identifier: Apache-2.0
"""Model folders that are broken or hostile: each is refused by one clear error, at once, with nothing else touched."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyConfig, TinyModel, saved_tiny, tiny_model

from hubsep.errors import CheckpointError
from hubsep.hub import check_folder, checked_folder, resolve_folder
from hubsep.hub_checks import bounded, bounded_list, one_of


TESTS = Path(__file__).parent
Attack = Callable[[Path], None]


def pack(header: Any, data: bytes = b"") -> bytes:
    """A `.safetensors` file from a header, as an object or as raw bytes, and its data."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def one(name: str = "a", dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def weights(content: bytes) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)

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
    "100 MB of spaces": (weights(pack(b"{" + b" " * 100_000_000 + b"}")), "header of 100000002 bytes"),
    "100 000 tensors": (
        weights(pack({f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)})),
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
    "labels a number": (config(id2label=5), "config.json cannot be built"),
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
    "absolute": (index("/tmp/outside.safetensors"), "same folder"),
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
    "10^6 keys": (index(weight_map={f"layer.{i}": "model-1.safetensors" for i in range(10**6)}), "at most 8388608"),
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


@pytest.mark.parametrize("case", ALL)
def test_refused(case: str, tmp_path: Path) -> None:
    attack, message = ALL[case]
    folder = saved_tiny(tmp_path / "model")
    attack(folder)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as caught:
        TinyModel.from_pretrained(folder)
    assert time.monotonic() - start < 2.0
    str(caught.value).encode("utf-8")  # printable whatever the folder holds


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_is_refused_before_anything_is_built(case: str, tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "model")
    CONFIGS[case][0](folder)
    start = time.process_time()
    with pytest.raises(CheckpointError):
        TinyModel.from_pretrained(folder)
    assert time.process_time() - start < 0.1


def test_a_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "model")
    os.symlink("/etc/passwd", os.fsencode(folder) + b"/\xff\xfe")
    with pytest.raises(CheckpointError, match=r"udcff") as caught:
        check_folder(folder)
    str(caught.value).encode("utf-8")


def test_memory_of_refusals_is_bounded(tmp_path: Path) -> None:
    cases = ["header: 100 MB of spaces", "header: 100 000 tensors", "index: 10^6 keys", "config: deep", "config: 2 MB"]
    folders = []
    for number, case in enumerate([*cases, "header: 20 GB of nothing"]):
        folders.append(str(saved_tiny(tmp_path / f"{number}" / "model")))
        ALL[case][0](Path(folders[-1]))
    megabytes = child("grown_by_refusals", *folders)
    assert megabytes < 120  # measured: 61, most of it the 100 000 tensors


def test_memory_of_the_finite_check_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    sizes = []
    for megabytes in (8, 256):
        folder = saved_tiny(tmp_path / f"{megabytes}")
        elements = megabytes << 18
        sparse(
            8 + 77 + elements * 4,
            pack(json.dumps(one("a", shape=[elements], offsets=[0, elements * 4])).encode().ljust(77)),
        )(folder)
        sizes.append(child("grown_by_check", str(folder)))
    assert sizes[1] - sizes[0] < 16


def test_loads_what_it_should(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "model")
    (folder / "hard_link.txt").hardlink_to(folder / "config.json")
    (folder / "checkpoint-5").mkdir()
    os.symlink("/etc", folder / "checkpoint-5" / "elsewhere")
    (folder / "training_args.bin").write_bytes(b"never opened")
    model = TinyModel.from_pretrained(folder)
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("options", [{"dtype": torch.float16}, {"dtype": "bfloat16"}, {"device_map": "cpu"}])
def test_loads_with_what_transformers_takes(options: dict[str, Any], tmp_path: Path) -> None:
    model, info = TinyModel.from_pretrained(saved_tiny(tmp_path / "m"), output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert str(model.gains.dtype).removeprefix("torch.") == str(options.get("dtype", "float32")).removeprefix("torch.")
    changed = TinyModel.from_pretrained(tmp_path / "m", output_hidden_states=True)
    assert changed.config.output_hidden_states is True


def test_field_replaced_while_loading_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="num_layers is 100000"):
        TinyModel.from_pretrained(saved_tiny(tmp_path / "m"), num_layers=100_000)


def test_weights_that_do_not_fit_only_when_asked(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "m")
    tensors(lambda state: state.update(gains=torch.ones(3)))(folder)
    model = TinyModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.gains.tolist() == [1.0, 1.0]
    tensors(lambda state: [state.pop("gains"), state.update(more=torch.ones(1))])(folder)
    model, info = TinyModel.from_pretrained(folder, strict=False, output_loading_info=True)
    assert info["missing_keys"] == {"gains"}
    assert info["unexpected_keys"] == {"more"}


@pytest.mark.parametrize(
    "options",
    [{"trust_remote_code": True}, {"use_safetensors": False}, {"weights_only": False}, {"gguf_file": "x.gguf"}],
)
def test_unsafe_ways_to_load_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is refused"):
        TinyModel.from_pretrained(saved_tiny(tmp_path / "m"), **options)


def test_subfolder_stays_inside(tmp_path: Path) -> None:
    saved_tiny(tmp_path / "outer" / "part")
    saved_tiny(tmp_path / "other")
    assert TinyModel.from_pretrained(tmp_path / "outer", subfolder="part").config.hidden_size == 8
    os.symlink(tmp_path / "other", tmp_path / "outer" / "link")
    for subfolder in ("../other", str(tmp_path / "other"), "link", "part\\..\\..\\other"):
        with pytest.raises(CheckpointError, match="must be inside"):
            TinyModel.from_pretrained(tmp_path / "outer", subfolder=subfolder)


def hub_cache(root: Path, folder: Path, *, shared: bool = False) -> Path:
    """Lay out a folder as the Hub's cache does, and return the snapshot."""
    repository = root / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    blobs, store = repository / "blobs", root / "blobs" / "ab"
    blobs.mkdir()
    store.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, (store if shared else blobs) / f"{number}")
        if shared:
            os.symlink(f"../../blobs/ab/{number}", blobs / f"{number}")
        os.symlink(f"../../blobs/{number}", snapshot / path.name)
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_links_of_the_hub_cache_are_followed(shared: bool, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", saved_tiny(tmp_path / "m"), shared=shared)
    assert torch.equal(TinyModel.from_pretrained(snapshot).gains, torch.ones(2))
    found = resolve_folder("someone/model", cache_dir=tmp_path / "hub", local_files_only=True)
    assert found.resolve() == snapshot.resolve()
    model = TinyModel.from_pretrained("someone/model", cache_dir=tmp_path / "hub", local_files_only=True)
    assert torch.equal(model.gains, torch.ones(2))


@pytest.mark.parametrize("target", ["../../../../outside", "../../refs/main", "/etc/passwd"])
def test_links_out_of_the_hub_cache_are_not(target: str, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", saved_tiny(tmp_path / "m"))
    (tmp_path / "outside").write_text("{}")
    (snapshot / "config.json").unlink()
    os.symlink(target, snapshot / "config.json")
    with pytest.raises(CheckpointError, match=r"config.json' is a link"):
        checked_folder(snapshot)


def test_blobs_folder_that_is_itself_a_link(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", saved_tiny(tmp_path / "m"))
    blobs = snapshot.parent.parent / "blobs"
    os.rename(blobs, tmp_path / "outside")
    os.symlink(tmp_path / "outside", blobs)
    with pytest.raises(CheckpointError, match="outside the folder"):
        checked_folder(snapshot)


def test_nothing_is_opened_that_should_not_be(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "model")
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(str(canary)))
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "random_states_0.pkl", "data.npz", "x.index"):
        (folder / name).write_bytes(bomb)
    for name in ("pipeline.py", "modeling_tiny.py", "configuration_tiny.py", "__init__.py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w')")
    hostile = []
    for number, case in enumerate(["index: parent", "files: linked weights", "config: auto_map", "config: kernel"]):
        hostile.append(str(saved_tiny(tmp_path / f"hostile-{number}" / "model")))
        ALL[case][0](Path(hostile[-1]))
    report = child("watched_load", str(folder), *hostile)
    assert report["loaded"] == 1
    assert report["refused"] == 4
    assert report["events"] == []
    assert report["opened"] == []
    assert report["watch_works"]
    assert not canary.exists()


def test_a_load_does_not_use_the_network(tmp_path: Path) -> None:
    assert child("sockets_of_a_load", str(saved_tiny(tmp_path / "model"))) == []


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def test_mutations(tmp_path: Path) -> None:
    counts = child("mutate", str(tmp_path), "2000", "0")
    assert counts["foreign"] == []
    assert counts["refused"] + counts["loaded"] == 2_000
    assert counts["refused"] > 500
    assert counts["loaded"] > 100  # else the mutations prove nothing


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_mutations(seed: int, tmp_path: Path) -> None:
    assert child("mutate", str(tmp_path), "10000", str(seed))["foreign"] == []


SECRET = "hf_ThisIsTheSecretToken"


@pytest.mark.parametrize("token", [SECRET, SECRET + "\n", SECRET + " x"])
def test_the_token_is_never_shown(token: str, tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "model")
    shown = child("load_with_token", str(folder), str(tmp_path / "copy"), token=token)
    assert "CheckpointError" in shown
    assert SECRET not in shown
    for path in (tmp_path / "copy").iterdir():
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["./absent", "/absent", "a/b/c", "~/absent", "a\\b", "C:\\models"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        resolve_folder(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "m")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_folder(folder / "model.safetensors")


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    folder = saved_tiny(tmp_path / "m")
    with pytest.raises(CheckpointError, match="NaN"):
        tiny_model(float("nan")).save_pretrained(folder)
    assert torch.equal(TinyModel.from_pretrained(folder).gains, torch.ones(2))
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_number_that_is_not_finite_is_found(dtype: torch.dtype, tmp_path: Path) -> None:
    largest = torch.finfo(dtype)
    values = torch.tensor([largest.max, largest.min, largest.tiny, largest.smallest_normal / 2, -0.0], dtype=dtype)
    fine, bad = tmp_path / "fine", tmp_path / "bad"
    for folder in (fine, bad):
        saved_tiny(folder)
    save_file({"a": values, "b": torch.zeros(3_000_000, dtype=dtype)}, fine / "model.safetensors")
    check_folder(fine)
    for position in (0, 2_999_999, 2_097_152 // values.element_size()):
        numbers = torch.zeros(3_000_000, dtype=dtype)
        numbers[position] = float("nan" if position else "-inf")
        save_file({"a": values, "b": numbers}, bad / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"'b' holds NaN or an infinity at element {position}"):
            check_folder(bad)


def test_bounded() -> None:
    assert bounded("n", 3, 1, 4) == 3
    assert bounded("n", 1, 0.5, 4.5, kind=float) == 1
    for value in (True, 3.0, "3", None, [3], 10**5_000, float("nan")):
        with pytest.raises(CheckpointError, match=r"^n "):
            bounded("n", value, 1, 4)
    with pytest.raises(CheckpointError, match="n is nan, outside the accepted range 1 to 4"):
        bounded("n", np.nan, 1, 4, kind=float)
    with pytest.raises(CheckpointError, match=r"n\[1\] is 9"):
        bounded_list("n", [1, 9], 1, 4)
    with pytest.raises(CheckpointError, match="0 entries"):
        bounded_list("n", [], 1, 4)
    with pytest.raises(CheckpointError, match="one of a, b"):
        one_of("n", ["a"], ("a", "b"))


def test_config_from_keywords_is_checked() -> None:
    with pytest.raises(CheckpointError, match="num_sources is 0"):
        TinyConfig(num_sources=0)
    with pytest.raises(CheckpointError, match="no field 'sources'"):
        TinyConfig(sources=2)


def child(function: str, *arguments: str, token: str = "") -> Any:
    """Run a function of `hostile_child` in a process of its own and return what it returns."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]), "OMP_NUM_THREADS": "1"}
    environment |= {"SECRET_UNDER_TEST": token, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-W", "ignore", str(TESTS / "hostile_child.py"), function, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout) if not token else done.stdout + done.stderr
