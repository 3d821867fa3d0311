# SPDX-License-Identifier: Apache-2.0
"""Sixty commands that are killed at random moments: no half file is seen, nothing is done twice, the next run ends it.

Each command has its rule: what may be there after a kill, what an earlier run finished and must stay as it is, and
what is there in the end. The moments are spread over what a run computes that nobody disturbs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import published_conv_tasnet as published
import pytest
import soundfile as sf
from bells import BRIEF
from children import KILLED, Children
from hub_server import HubServer
from numbered_saves import furnish, number_in, save_numbered
from speakers import speakers
from tiny_audioldm2 import tiny_audio_mae, tiny_components
from tiny_audiosep import tiny_audiosep
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep import AudioLDM2Pipeline
from hubsep.conversion import convert
from hubsep.hub import verify_manifest
from hubsep.hub.manifest import sha256


KILLS, TRIES = 10, 60
RATE = 8_000
CONVERSION: dict[str, Any] = {"num_blocks": 3, "sampling_rate": 16_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and recordings for all commands."""
    folder = tmp_path_factory.mktemp("kills")
    model, processor = tiny_audiosep()
    model.save_pretrained(folder / "audiosep")
    processor.save_pretrained(folder / "audiosep")
    tiny_conv_tasnet()[0].save_pretrained(folder / "conv-tasnet")
    AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae()).save_pretrained(folder / "audioldm2")
    published.write_asteroid(folder / "published.ckpt", published.tensors())
    (folder / "recordings").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).uniform(-0.4, 0.4, (RATE, 2))
        sf.write(folder / "recordings" / f"{number}.wav", noise, RATE, subtype="FLOAT")
    speakers(folder / "data", count=8)
    return folder


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("kills_child")
    yield children
    children.close()


class Victim:
    """Runs a command again and again and kills it at random moments.

    Args:
        child: that forks.
        arguments: of the command.
        seed: of the moments.
        hub: address of a Hub, "" for none.
    """

    def __init__(self, child: Children, arguments: list[str], seed: int, hub: str = "", home: str = ""):
        self.child, self.arguments, self.hub, self.home = child, arguments, hub, home
        self.moments = random.Random(seed)
        self.run()
        self.cpu_s, self.killed = child.cpu_s, 0

    def run(self) -> None:
        """Lets the command end."""
        status, result, output = self.child.run("command", self.arguments, self.hub, self.home)
        assert (status, result) == (0, 0), output[-3_000:]

    def kill(self) -> bool:
        """Whether the command was killed before it ended."""
        moment = self.moments.uniform(0.02, 1) * self.cpu_s
        status, result, output = self.child.run("command", self.arguments, self.hub, self.home, kill_after_s=moment)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == KILLED
        assert was_killed or (status, result) == (0, 0), output[-3_000:]
        self.killed += was_killed
        if not was_killed:  # the first run reads what later ones find in memory
            self.cpu_s *= 0.9
        return was_killed

    def kills(self, check: Callable[[bool], None]) -> None:
        """Kills the command until that has been enough, and calls what checks the rule after each."""
        for _ in range(TRIES):
            check(self.kill())
            if self.killed == KILLS:
                break
        assert self.killed == KILLS


def visible(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones and what is in hidden folders."""
    if not folder.exists():
        return []
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def contents(folder: Path) -> dict[str, str]:
    """A sum of each file; of a record without the times it lists, which are those of the run."""
    return {path.relative_to(folder).as_posix(): digest(path) for path in visible(folder)}


def digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(
        re.sub(rb'"modified_ns": [0-9]+', b"", content) if path.suffix == ".json" else content
    ).hexdigest()


def separate(place: Path, child: Children, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["separate", str(place / "recordings"), "-q", "rain", "--residual", "-o", str(output)]
    victim = Victim(child, [*arguments, "--model", str(place / "audiosep"), "--device", "cpu"], seed=1)
    expected = contents(output)
    assert len(expected) == 3 * 3
    shutil.rmtree(output)
    finished: dict[Path, int] = {}

    def check(killed: bool) -> None:
        records = {marker: json.loads(marker.read_text()) for marker in output.glob("*/separated.json")}
        begun = {f"{marker.parent.name}/{marker.name}" for marker, record in records.items() if not record["complete"]}
        now = contents(output)
        assert {name: digest for name, digest in now.items() if name not in begun}.items() <= expected.items(), "half"
        assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items()), "done twice"
        for marker, record in records.items():
            for entry in record["outputs"] if record["complete"] else ():
                path = marker.parent / entry["path"]
                finished[path] = path.stat().st_mtime_ns
        if not killed:
            assert now == expected
            assert sorted(path.name for path in output.iterdir()) == [".hubsep", "0", "1", "2"]
            shutil.rmtree(output)
            finished.clear()

    victim.kills(check)
    victim.run()
    check(False)


def generate(place: Path, child: Children, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["generate", "rain", "a dog", "-o", str(output / "x.wav"), "--model", str(place / "audioldm2")]
    arguments += ["--steps", "2", "--device", "cpu", "--candidates", "2", "--all", "--overwrite"]
    victim = Victim(child, arguments, seed=2)
    expected = contents(output)
    assert len(expected) == 4 + 1
    shutil.rmtree(output)

    def check(killed: bool) -> None:
        now = contents(output)
        record = output / "x.json"
        begun = record.exists() and not json.loads(record.read_text())["complete"]
        finished = {name: digest for name, digest in now.items() if not (begun and name == record.name)}
        assert finished.items() <= expected.items(), "a half file, or another sound of the same seed"
        if not killed:
            assert now == expected
            assert sorted(path.name for path in output.iterdir()) == sorted(expected)
            shutil.rmtree(output)

    victim.kills(check)
    victim.run()
    check(False)


def convert_(place: Path, child: Children, tmp_path: Path) -> None:
    output = tmp_path / "model"
    settings = [word for name, value in CONVERSION.items() for word in ("--set", f"{name}={value}")]
    arguments = ["convert", "conv_tasnet", str(place / "published.ckpt"), str(output), "--licence", "MIT", *settings]
    victim = Victim(child, arguments, seed=3)
    expected = contents(output)
    shutil.rmtree(output)

    def check(killed: bool) -> None:
        assert output.exists() or killed
        if output.exists():
            verify_manifest(output)
            assert contents(output) == expected
            shutil.rmtree(output)
        if not killed:
            assert os.listdir(tmp_path) == [], "a killed run's litter"

    victim.kills(check)
    victim.run()
    check(False)


def save(place: Path, child: Children, tmp_path: Path) -> None:
    target, moments = tmp_path / "model", random.Random(4)
    saving = Children("interruption_child")
    save_numbered(saving, target, 7)
    furnish(target)
    saving.close()
    numbers = []
    for number in range(KILLS):
        moment = moments.uniform(0.01, 0.3)
        status, _, output = child.run("save_for_ever", str(target), 1_000 * (number + 1), kill_after_s=moment)
        assert os.WTERMSIG(status) == KILLED, output
        numbers.append(number_in(target))
    assert numbers == sorted(numbers), "an older save came back"


def push(place: Path, child: Children, tmp_path: Path) -> None:
    server = HubServer()
    try:
        folders = []
        for licence in ("MIT", "Apache-2.0"):
            convert("conv_tasnet", place / "published.ckpt", tmp_path / licence, licence=licence, **CONVERSION)
            folders.append(tmp_path / licence)
        victims = [
            Victim(child, ["push", str(folder), "org/model"], 5, server.url, str(tmp_path)) for folder in folders
        ]
        # what complete pushes leave
        states = []
        for victim in victims:
            victim.run()
            states.append(server.repositories["org/model"].files())
        assert states[0] != states[1]

        def check(killed: bool) -> None:
            now = server.repositories["org/model"].files()
            assert now in states, "half of a push"
            victims.reverse()  # the other one is next

        for _ in range(TRIES):
            check(victims[0].kill())
            if sum(victim.killed for victim in victims) == KILLS:
                break
        assert sum(victim.killed for victim in victims) == KILLS
        victims[0].run()
        commit = server.repositories["org/model"].sha("main")
        victims[0].run()
        assert server.repositories["org/model"].sha("main") == commit, "the same was pushed twice"
    finally:
        server.stop()


def train(place: Path, child: Children, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = {
        **BRIEF, "mixing": {"seconds": 0.1}, "batch_size": 1, "validation_mixtures": 1, "patience": 0,
        "validation_seconds": 0.1, "final_mixtures": 1, "save_every": 3, "steps": 12, "eval_every": 4,
    }  # fmt: skip
    arguments = ["train", str(place / "conv-tasnet"), "--data", str(place / "data"), "--output", str(output)]
    arguments += ["--resume", "--non-commercial"]
    arguments += [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    victim = Victim(child, arguments, seed=6)
    expected = sha256(output / "model" / "model.safetensors")
    shutil.rmtree(output)

    def check(killed: bool) -> None:
        if (output / "model").exists():
            verify_manifest(output / "model")
            assert sha256(output / "model" / "model.safetensors") == expected, "steps were lost or taken twice"
        if not killed:
            assert (output / "model").exists()
            shutil.rmtree(output)

    victim.kills(check)
    victim.run()
    check(False)


RULES = {"convert": convert_, "save": save, "separate": separate, "push": push, "generate": generate, "train": train}


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("command", RULES)
def test_ten_kills_leave_no_half_file_and_nothing_is_done_twice(
    command: str, place: Path, child: Children, tmp_path: Path
) -> None:
    RULES[command](place, child, tmp_path)
