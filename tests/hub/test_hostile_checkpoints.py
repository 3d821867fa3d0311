# SPDX-License-Identifier: Apache-2.0
"""Model folders that are broken or hostile: each is refused by one clear error, at once, with nothing else touched."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import Children
from hostile_folders import ALL, CONFIGS, one, pack, sparse, tensors
from safetensors.torch import load_file, save_file
from tiny import TinyConfig, TinyModel, hub_cache, saved_tiny, tiny_model
from tiny_audiosep import tiny_audiosep
from torch import nn

from hubsep.errors import CheckpointError
from hubsep.hub import check_folder, checked_folder, resolve_folder
from hubsep.hub.checks import bounded, bounded_list, one_of
from hubsep.hub.clap import check_clap
from hubsep.hub.tensors import window_places


SECRET = "hf_ThisIsTheSecretToken"


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("hostile_child")
    yield children
    children.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return fresh(original, tmp_path)


def fresh(original: Path, place: Path) -> Path:
    return shutil.copytree(original, place / "model")


def test_beside_an_error_of_weights_that_do_not_fit_nothing_is_logged(folder: Path) -> None:
    records: list[logging.LogRecord] = []
    handler: Any = logging.Handler()
    handler.emit = records.append
    weights = load_file(folder / "model.safetensors")
    first = min(weights)
    library = logging.getLogger("transformers")
    level = library.level
    library.setLevel(logging.WARNING)  # a command before may have asked for errors alone
    library.addHandler(handler)
    try:
        for broken, says in (
            ({**weights, first: torch.zeros(3)}, "have another shape"),
            ({**weights, "more": torch.zeros(3)}, "belong to no part"),
            ({name: tensor for name, tensor in weights.items() if name != first}, "are missing"),
        ):
            save_file(broken, folder / "model.safetensors", {"format": "pt"})
            with pytest.raises(CheckpointError, match=says):
                TinyModel.from_pretrained(folder)
            assert not records
            TinyModel.from_pretrained(folder, strict=False)
            assert "LOAD REPORT" in records.pop().getMessage(), "who wants them all the same is told which"
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


@pytest.mark.parametrize("case", ALL)
def test_refused(case: str, folder: Path) -> None:
    attack, message = ALL[case]
    attack(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        TinyModel.from_pretrained(folder)
    str(caught.value).encode("utf-8")  # printable whatever the folder holds


@pytest.mark.parametrize("case", sorted(set(CONFIGS) - {"too many parameters"}))  # those are counted while it is built
def test_a_config_is_refused_before_anything_is_built(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONFIGS[case][0](folder)
    layers: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "__init__", lambda layer, *_, **__: layers.append(layer))
    with pytest.raises(CheckpointError):
        TinyModel.from_pretrained(folder)
    assert not layers


def test_a_name_that_is_not_utf8_can_be_shown(folder: Path) -> None:
    os.symlink("/etc/passwd", os.fsencode(folder) + b"/\xff\xfe")
    with pytest.raises(CheckpointError, match=r"udcff") as caught:
        check_folder(folder)
    str(caught.value).encode("utf-8")


@pytest.mark.slow
def test_memory_of_refusals_is_bounded(original: Path, child: Children, tmp_path: Path) -> None:
    cases = ["header: 100 MB of spaces", "header: 100 000 tensors", "index: 10^6 keys", "config: deep", "config: 2 MB"]
    folders = []
    for number, case in enumerate([*cases, "header: 20 GB of nothing"]):
        folders.append(str(fresh(original, tmp_path / f"{number}")))
        ALL[case][0](Path(folders[-1]))
    megabytes = child("grown_by_refusals", *folders)
    assert megabytes < 20  # measured: 2


@pytest.mark.slow
def test_memory_of_the_finite_check_does_not_grow_with_the_weights(
    original: Path, child: Children, tmp_path: Path
) -> None:
    sizes = []
    for megabytes in (8, 256):
        folder = fresh(original, tmp_path / f"{megabytes}")
        elements = megabytes << 18
        sparse(
            8 + 77 + elements * 4,
            pack(json.dumps(one("a", shape=[elements], offsets=[0, elements * 4])).encode().ljust(77)),
        )(folder)
        sizes.append(child("grown_by_check", folder))
    assert sizes[1] - sizes[0] < 4  # measured: 0


def test_loads_what_it_should(folder: Path) -> None:
    (folder / "hard_link.txt").hardlink_to(folder / "config.json")
    (folder / "checkpoint-5").mkdir()
    os.symlink("/etc", folder / "checkpoint-5" / "elsewhere")
    (folder / "training_args.bin").write_bytes(b"never opened")
    model = TinyModel.from_pretrained(folder)
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("options", [{"dtype": torch.float16}, {"dtype": "bfloat16"}, {"device_map": "cpu"}])
def test_loads_with_what_transformers_takes(options: dict[str, Any], folder: Path) -> None:
    model, info = TinyModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert str(model.gains.dtype).removeprefix("torch.") == str(options.get("dtype", "float32")).removeprefix("torch.")
    changed = TinyModel.from_pretrained(folder, output_hidden_states=True)
    assert changed.config.output_hidden_states is True


def test_field_replaced_while_loading_is_checked(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="num_layers is 100000"):
        TinyModel.from_pretrained(folder, num_layers=100_000)


def test_weights_that_do_not_fit_only_when_asked(folder: Path) -> None:
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
def test_unsafe_ways_to_load_are_refused(options: dict[str, Any], folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is refused"):
        TinyModel.from_pretrained(folder, **options)


def test_subfolder_stays_inside(original: Path, tmp_path: Path) -> None:
    fresh(original, tmp_path / "outer")
    other = fresh(original, tmp_path / "other")
    assert TinyModel.from_pretrained(tmp_path / "outer", subfolder="model").config.hidden_size == 8
    os.symlink(other, tmp_path / "outer" / "link")
    for subfolder in ("../other/model", str(other), "link", "model\\..\\..\\other"):
        with pytest.raises(CheckpointError, match="must be inside"):
            TinyModel.from_pretrained(tmp_path / "outer", subfolder=subfolder)


@pytest.mark.parametrize("shared", [False, True])
def test_links_of_the_hub_cache_are_followed(shared: bool, folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", folder, shared=shared)
    assert torch.equal(TinyModel.from_pretrained(snapshot).gains, torch.ones(2))
    found = resolve_folder("someone/model", cache_dir=tmp_path / "hub", local_files_only=True)
    assert found.resolve() == snapshot.resolve()
    model = TinyModel.from_pretrained("someone/model", cache_dir=tmp_path / "hub", local_files_only=True)
    assert torch.equal(model.gains, torch.ones(2))


@pytest.mark.parametrize("target", ["../../../../outside", "../../refs/main", "/etc/passwd"])
def test_links_out_of_the_hub_cache_are_not(target: str, folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", folder)
    (tmp_path / "outside").write_text("{}")
    (snapshot / "config.json").unlink()
    os.symlink(target, snapshot / "config.json")
    with pytest.raises(CheckpointError, match=r"config.json' is a link"):
        checked_folder(snapshot)


def test_blobs_folder_that_is_itself_a_link(folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", folder)
    blobs = snapshot.parent.parent / "blobs"
    os.rename(blobs, tmp_path / "outside")
    os.symlink(tmp_path / "outside", blobs)
    with pytest.raises(CheckpointError, match="outside the folder"):
        checked_folder(snapshot)


@pytest.mark.slow
def test_nothing_is_opened_that_should_not_be(original: Path, folder: Path, child: Children, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(str(canary)))
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "random_states_0.pkl", "data.npz", "x.index"):
        (folder / name).write_bytes(bomb)
    for name in ("pipeline.py", "modeling_tiny.py", "configuration_tiny.py", "__init__.py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w')")
    hostile = []
    for number, case in enumerate(["index: parent", "files: linked weights", "config: auto_map", "config: kernel"]):
        hostile.append(str(fresh(original, tmp_path / f"hostile-{number}")))
        ALL[case][0](Path(hostile[-1]))
    report = child("watched_load", str(folder), *hostile)
    assert report["loaded"] == 1
    assert report["refused"] == 4
    assert report["events"] == []
    assert report["opened"] == []
    assert report["watch_works"]
    assert not canary.exists()


def test_a_load_does_not_use_the_network(folder: Path, child: Children) -> None:
    assert child("sockets_of_a_load", folder) == []


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.slow
def test_mutations(child: Children, tmp_path: Path) -> None:
    counts = child("mutate", tmp_path, 2_000, 0)
    assert counts["foreign"] == []
    assert counts["refused"] + counts["loaded"] == 2_000
    assert counts["refused"] > 500
    assert counts["loaded"] > 100  # else the mutations prove nothing


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_many_mutations(seed: int, child: Children, tmp_path: Path) -> None:
    assert child("mutate", tmp_path, 10_000, seed)["foreign"] == []


@pytest.mark.parametrize("token", [SECRET, SECRET + "\n", SECRET + " x"])
def test_the_token_is_never_shown(token: str, folder: Path, child: Children, tmp_path: Path) -> None:
    status, _, shown = child.run("load_with_token", token, str(folder), str(tmp_path / "copy"))
    assert status == 0
    assert len(re.findall("(?:Checkpoint|Unreachable)Error: ", shown)) == 2
    assert SECRET not in shown
    for path in (tmp_path / "copy").iterdir():
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["./absent", "/absent", "a/b/c", "~/absent", "a\\b", "C:\\models"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        resolve_folder(name)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_folder(folder / "model.safetensors")


def test_a_model_that_is_not_finite_is_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="NaN"):
        tiny_model(float("nan")).save_pretrained(folder)
    assert torch.equal(TinyModel.from_pretrained(folder).gains, torch.ones(2))
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_number_that_is_not_finite_is_found(dtype: torch.dtype, original: Path, tmp_path: Path) -> None:
    largest = torch.finfo(dtype)
    values = torch.tensor([largest.max, largest.min, largest.tiny, largest.smallest_normal / 2, -0.0], dtype=dtype)
    fine, bad = fresh(original, tmp_path / "fine"), fresh(original, tmp_path / "bad")
    save_file({"a": values, "b": torch.zeros(3_000_000, dtype=dtype)}, fine / "model.safetensors")
    check_folder(fine)
    for position in (0, 2_999_999, 2_097_152 // values.element_size()):
        numbers = torch.zeros(3_000_000, dtype=dtype)
        numbers[position] = float("nan" if position else "-inf")
        save_file({"a": values, "b": numbers}, bad / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"'b' holds NaN or an infinity at element {position}"):
            check_folder(bad)


@pytest.mark.parametrize("change", ["behind the end", "before the start", "another place", "32 bits", "another size"])
def test_places_in_a_window_are_those_of_the_window(change: str, tmp_path: Path) -> None:
    """Attention looks up what it has learnt at them."""
    model = tiny_audiosep()[0]
    model.save_pretrained(tmp_path)
    check_folder(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if name.endswith("relative_position_index"))
    places = state[name]
    assert torch.equal(places, torch.from_numpy(window_places(math.isqrt(len(places)))))
    if change == "32 bits":
        places = places.int()
    elif change == "another size":
        places = places[:-1].clone()
    else:
        places[0, 0] = {"behind the end": 10**6, "before the start": -1, "another place": 0}[change]
    save_file({**state, name: places}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"attention\.self\.relati.* does not hold the places in a window"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [0, -1, 0.0, -14.3])
def test_what_a_logarithm_is_taken_of_is_positive(value: float) -> None:
    with pytest.raises(CheckpointError, match="logit_scale_init_value"):
        check_clap("config.json", {"logit_scale_init_value": value})


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


@pytest.mark.slow
def test_config_from_keywords_is_checked() -> None:
    with pytest.raises(CheckpointError, match="num_sources is 0"):
        TinyConfig(num_sources=0)
    with pytest.raises(CheckpointError, match="no field 'sources'"):
        TinyConfig(sources=2)
    with pytest.raises(CheckpointError, match="TinyConfig cannot be built"):
        TinyConfig.from_dict({"id2label": 5})
