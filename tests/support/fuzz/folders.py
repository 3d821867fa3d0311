# SPDX-License-Identifier: Apache-2.0
"""Model folders of every system, and the processor of the one that is asked in words.

What is asked: a refusal, or a model whose weights are those of the file, finite, and whose sources of a short
recording are finite and as long as it is.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tiny_audiosep import tiny_audiosep
from tiny_audioslots import tiny_audioslots
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter

import hubsep
from fuzz.cases import Action, Case, Kind, expect
from fuzz.hostile_keys import EVIL, PROCESSOR_KEYS, REDIRECTIONS
from fuzz.planted import Bomb
from fuzz.tensors import change_weights, shard
from fuzz.values import changed_bytes, changed_json, changed_text
from hubsep.errors import HubsepError


SYSTEMS: dict[str, Callable[[], Any]] = {
    "audiosep": tiny_audiosep,
    "audioslots": tiny_audioslots,
    "conv_tasnet": tiny_conv_tasnet,
    "sepformer": tiny_sepformer,
    "spleeter": tiny_spleeter,
}
CANARY = "open({!r}, 'w')\nclass Evil:\n    from_pretrained = classmethod(lambda *a, **k: None)\n"


def prepare_models(place: Path) -> None:
    """A folder of each system, and each loaded and run once."""
    for name, build in SYSTEMS.items():
        model, processor = build()
        model.save_pretrained(place / name)
        if name == "audiosep":
            processor.save_pretrained(place / name)
        use(place / name)


def make_model(case: Case) -> Action:
    """A folder of some system, changed, and what it makes of a recording."""
    name = case.random.choice(sorted(SYSTEMS))
    case.note(name)
    folder = copied(case, name)
    for _ in range(case.random.choice([1, 1, 1, 2])):
        roll = case.random.random()
        if roll < 0.06:
            case.note("as it was")
        elif roll < 0.45:
            change_json_file(folder / "config.json", case, REDIRECTIONS)
        elif roll < 0.7 and (folder / "model.safetensors").is_file():
            try_to(case, change_weights, folder / "model.safetensors")
        elif roll < 0.8 and (folder / "model.safetensors").is_file():
            try_to(case, shard, folder)
        else:
            case.choose(LAYOUTS)(folder, case)
    return lambda: use(folder)


def make_processor(case: Case) -> Action:
    """The folder of the model that is asked in words, its processor changed."""
    folder = copied(case, "audiosep", case.templates.parent / "models")
    names = ["processor_config.json", "tokenizer.json", "tokenizer_config.json"]
    for _ in range(case.random.choice([1, 1, 2])):
        roll = case.random.random()
        name = case.random.choice(names)
        if roll < 0.15:
            case.note("as it was")
        elif roll < 0.75:
            change_json_file(folder / name, case, PROCESSOR_KEYS)
        elif roll < 0.8:
            case.note(f"{name} is gone")
            (folder / name).unlink(missing_ok=True)
        else:
            case.choose(PROCESSOR_LAYOUTS)(folder, case)
    return lambda: use(folder, text="dog barking rain zebra " * case.random.choice([1, 200]))


def copied(case: Case, name: str, place: Path | None = None) -> Path:
    """A copy of a template, and decoys beside it."""
    source = (place or case.templates) / name
    shutil.copytree(source, case.folder / name)
    shutil.copytree(source, case.outside, dirs_exist_ok=True)
    (case.outside / "token").write_text("hf_secret")
    (case.folder / name / "evil.py").write_text(CANARY.format(str(case.outside / "canary")))
    return case.folder / name


def change_json_file(path: Path, case: Case, keys: dict[str, list[Any]]) -> None:
    """Changes a JSON file in its place; one that is no longer JSON keeps its text, and what is no file is left."""
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return
    path.write_bytes(changed_json(content, case, keys, path.name))


def try_to(case: Case, change: Any, *arguments: Any) -> None:
    """A second change that finds no file it understands leaves things as they are."""
    try:
        change(*arguments, case)
    except Exception as error:
        case.note(f"not possible: {type(error).__name__}")


def extra(name: str, content: Any) -> Any:
    def layout(folder: Path, case: Case) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        data = pickle.dumps(Bomb(case.outside / "canary")) if content == "bomb" else json.dumps(content).encode()
        path.write_bytes(data.replace(b"{outside}", str(case.outside).encode()))

    return layout


def link(folder: Path, case: Case) -> None:
    """A file in the folder becomes a link, a folder or a pipe."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    name = case.random.choice([*files, "generation_config.json", "vocab.json", "special_tokens_map.json", "more"])
    path, roll = folder / name, case.random.randrange(6)
    case.note(f"{name}, {roll}")
    path.unlink(missing_ok=True)
    if roll == 0:
        path.symlink_to(case.outside / name)
    elif roll == 1:
        path.symlink_to(f"../../outside/{name}")
    elif roll == 2:
        path.symlink_to(case.random.choice(["/etc/passwd", "/dev/zero", "nowhere", name]))
    elif roll == 3:
        os.mkfifo(path)
    elif roll == 4:
        path.mkdir()
    else:
        path.symlink_to(case.outside)


def spoiled(folder: Path, case: Case) -> None:
    """A file is empty, cut, another's content, or has a few other bytes."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    path, other = case.random.choice(files), case.random.choice(files)
    case.note(path.name)
    data = path.read_bytes()
    choices = {
        "empty": b"",
        "cut": data[: case.random.randrange(len(data) + 1)],
        "another": other.read_bytes(),
        "text": changed_text(data, case, path.name),
        "bytes": changed_bytes(data, case),
        "huge": data + bytes(3_000_000),
    }
    path.write_bytes(case.choose(choices))


def moved(folder: Path, case: Case) -> None:
    """A file has another name, or is gone."""
    path = case.random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    name = case.random.choice(
        [
            "",
            path.name.upper(),
            path.stem + ".bin",
            path.name + ".bak",
            "sub/" + path.name,
            "é\n.json",
            ".hidden",
            "x" * 250,
        ]
    )
    case.note(f"{path.name} to {name!a}")
    (folder / "sub").mkdir(exist_ok=True)
    if name:
        path.rename(folder / name)
    else:
        path.unlink()


def many(folder: Path, case: Case) -> None:
    """More files, or deeper folders, than any model has."""
    if case.chance(0.5):
        for number in range(case.random.choice([300, 3_000])):
            (folder / f"{number}.json").write_text("{}")
    else:
        (folder / "/".join(["a"] * 60)).mkdir(parents=True)


MAPPED = {"auto_map": EVIL, "processor_class": "Evil"}
LAYOUTS: dict[str, Any] = {
    "link": link,
    "spoiled": spoiled,
    "moved": moved,
    "many": many,
    "spoiled again": spoiled,
    "moved again": moved,
    "pickle": extra("pytorch_model.bin", "bomb"),
    "pickled arguments": extra("training_args.bin", "bomb"),
    "generation": extra("generation_config.json", {"max_new_tokens": 1e9, **MAPPED}),
    "adapter": extra("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "{outside}"}),
    "hidden": extra(".hub/config.json", MAPPED),
    "index": extra("model_index.json", {"_class_name": "Evil"}),
    "custom generate": extra("custom_generate/generate.py", "x"),
    "unfinished": extra(".hubsep-unfinished", {"moves": ["{outside}/x"]}),
    "manifest": extra("manifest.json", {"files": {"../x": 1}}),
    "safetensors index": extra(
        "model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": "../../outside/model.safetensors"}}
    ),
    "original": extra("original/params.json", {"dim": -1}),
}
PROCESSOR_LAYOUTS: dict[str, Any] = {
    "link": link,
    "spoiled": spoiled,
    "moved": moved,
    "video": extra("video_preprocessor_config.json", MAPPED),
    "image": extra("image_processor_config.json", MAPPED),
    "preprocessor": extra("preprocessor_config.json", {"feature_extractor_type": "Evil", **MAPPED}),
    "audio tokenizer": extra(
        "audio_tokenizer_config.json",
        {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "{outside}"},
    ),
    "chat": extra("chat_template.jinja", "{{ 1 }}"),
    "chat JSON": extra("chat_template.json", {"chat_template": "x"}),
    "chats": extra("additional_chat_templates/x.jinja", "x"),
    "special": extra("special_tokens_map.json", {"pad_token": "zzz", "x": 3}),
    "added": extra("added_tokens.json", {"zebra": 10**9, "dog": -1}),
    "vocabulary": extra("vocab.json", {"dog": 10**9}),
    "sentencepiece": extra("spiece.model", "bomb"),
    "tokenizer.model": extra("tokenizer.model", "bomb"),
    "tiktoken": extra("tekken.json", {"a": 1}),
    "merges": extra("merges.txt", "x y"),
    "vocab.txt": extra("vocab.txt", "[UNK]"),
    "empty processor": extra("processor_config.json", {}),
    "empty tokenizer": extra("tokenizer_config.json", {}),
    "no tokenizer": extra("tokenizer.json", {}),
    "feature extractor": extra("feature_extractor_config.json", MAPPED),
    "tokenizer pickle": extra("tokenizer.pkl", "bomb"),
}


def use(folder: Path, text: str = "dog barking") -> str:
    """Loads a folder, and separates a short recording with what came out."""
    separator = hubsep.pipeline(model=folder)
    model = separator.model
    state = model.state_dict()
    expect(all(tensor.isfinite().all() for tensor in state.values()), "the weights hold NaN or infinities")
    for path in folder.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            held = state.get(name)
            same = (
                held is not None
                and held.shape == tensor.shape
                and torch.equal(held.double(), tensor.to(held.dtype).double())
            )
            expect(same, f"{name} is not what the file holds")
    rate = model.config.sampling_rate
    samples = min(max(rate // 4, 500), 24_000)
    waveform = 0.1 * np.sin(np.arange(samples) / 9, dtype=np.float32)
    queries: dict[str, Any] = {}
    if model.config.is_text_queried:
        queries = {"queries": text}
        attempt_query(separator, waveform, rate)
    for result in separator({"array": waveform[None], "sampling_rate": rate}, **queries):
        expect(result["audio"].shape[-1] == samples, f"{result['audio'].shape[-1]} of {samples} samples came out")
        expect(np.isfinite(result["audio"]).all(), "NaN or infinities came out")
    return "used"


def attempt_query(separator: Any, waveform: np.ndarray, rate: int) -> None:
    """An example sound as the query goes through the feature extractor."""
    example = {"array": waveform[None], "sampling_rate": rate}
    try:
        separator(example, query_audio=example)
    except HubsepError as error:
        expect(str(error), "a refusal says nothing")


MODELS = Kind(prepare_models, make_model)
PROCESSORS = Kind(lambda place: None, make_processor)


__all__ = ["CANARY", "MODELS", "PROCESSORS", "change_json_file", "copied", "link", "spoiled", "try_to"]
