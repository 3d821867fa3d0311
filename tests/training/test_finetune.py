# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: the dataset contract, the documented commands over the wire, runs that are killed and go on."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from bells import BRIEF, RATE, bells, save_listener, write_table
from children import Children
from finetune_child import EVERY, SETTINGS
from hub_server import HubServer
from huggingface_hub import ModelCard
from rounding import TINY_MODEL, assert_same
from safetensors.torch import load_file
from songs import songs
from sounds import corpus
from speakers import speakers
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_spleeter import tiny_spleeter

from hubsep import pipeline
from hubsep.cli import main as command
from hubsep.data.contract import read_clips, read_rows
from hubsep.errors import CheckpointError, DataError
from hubsep.hub import verify_manifest
from hubsep.training.finetune import run as finetune
from hubsep.training.finetune.material import two_parts
from hubsep.training.finetune.trainer import FineTuneCallback


DOCS = Path(__file__).parents[2] / "docs" / "fine-tune.md"
ADDRESS = "org/audiosep-bell"


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.get("path") and not row["path"].startswith((".", "no")):
            sf.write(folder / row["path"], np.full(100, 0.1), RATE)
    if rows:
        write_table(folder, list(rows))
    return folder


def row(number: int, **columns: Any) -> dict[str, Any]:
    return {"path": f"{number}.wav", "label": "bell", **columns}


BROKEN: list[tuple[Callable[[Path], Path], str]] = [
    (lambda place: place / "nowhere", "there is no folder"),
    (lambda place: table(place), "has no metadata.csv"),
    (lambda place: table(place, {"file": "1.wav", "sound": "bell"}), "must have the columns path .* and label"),
    (lambda place: table(place, row(1), row(2, path="no.wav")), "row 3: there is no 'no.wav'"),
    (lambda place: table(place, row(1, path="../1.wav")), "leaves the folder"),
    (lambda place: table(place, row(1, label="")), "label is empty"),
    (lambda place: table(place, *(row(n, source_id="one") for n in range(9))), "recordings of 1 sources; at least 4"),
    (lambda place: table(place, *(row(n) for n in range(4))), "mixtures need other sounds.*--background"),
    (lambda place: table(place, *(row(n, commercial=False) for n in range(4))), "4 of 4 .*--non-commercial"),
]


@pytest.mark.parametrize(("make", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_each_way_to_break_the_contract_has_its_error(
    make: Callable[[Path], Path], told: str, tmp_path: Path, listener: Path
) -> None:
    with pytest.raises(DataError, match=told):
        finetune.main(str(listener), make(tmp_path / "data"), tmp_path / "run", lora=True, **BRIEF)
    assert not (tmp_path / "run").exists()


def test_tables_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    folder = table(tmp_path, row(1), row(2))
    for content, told in [("path,label\n", "no rows"), ("path,label\n1.wav\n", "another number of cells"),
                          ("path,label\n1.wav,\xff\n", "UTF-8")]:  # fmt: skip
        (folder / "metadata.csv").write_bytes(content.encode("latin-1"))
        with pytest.raises(DataError, match=told):
            read_rows(folder, "sounds")
    sf.write(folder / "1.wav", np.zeros(100), RATE)
    write_table(folder, [row(1)])
    with pytest.raises(DataError, match="silent"):
        read_clips(read_rows(folder, "sounds"), "sounds", RATE, "own")


class Rows(list[dict[str, Any]]):
    """What a `datasets` dataset is to us: rows, and features that name class numbers."""

    features = {"label": SimpleNamespace(int2str=["bell", "rain"].__getitem__)}


def test_a_dataset_is_read_like_a_folder(tmp_path: Path) -> None:
    folder = bells(tmp_path / "bells", count=3)
    from_folder = read_clips(read_rows(folder, "sounds"), "sounds", RATE, "own")
    waveforms = [sf.read(folder / f"{number}.wav", dtype="float32")[0] for number in range(3)]
    data = Rows({"audio": {"array": wave, "sampling_rate": RATE}, "label": 0} for wave in waveforms)
    from_dataset = read_clips(read_rows(data, "sounds"), "sounds", RATE, "own")
    assert [clip.labels for clip in from_dataset] == [("bell",)] * 3
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(from_folder, from_dataset, strict=True))
    with pytest.raises(DataError, match="columns audio and label"):
        read_rows([{"audio": None}], "sounds")


def test_what_is_reported_chose_nothing() -> None:
    named = [("bell", f"b{n % 3}") for n in range(6)] + [("rain", "r"), ("rain", "b0")]
    choosing, reporting, apart = two_parts(range(8), named, ["bell", "rain"])
    assert apart
    assert sorted(choosing + reporting) == list(range(8))
    assert not {named[n][1] for n in choosing} & {named[n][1] for n in reporting}
    assert {named[n][0] for n in choosing} == {named[n][0] for n in reporting} == {"bell", "rain"}
    assert two_parts(range(8), named, ["bell"], least=2) == (list(range(8)), list(range(8)), False)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_listener(tmp_path_factory.mktemp("models") / "tiny")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def settings_words(settings: dict[str, Any]) -> list[str]:
    """Settings as a command line has them."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def prepare_place(place: Path, listener: Path) -> None:
    """What the documented commands find where they are run."""
    shutil.copytree(listener, place / "tiny")
    bells(place / "my-sounds", licence="CC-BY-4.0", commercial="True", corpus="my bells")
    folder = corpus(place / "other-sounds", clips=6)
    text = (folder / "metadata.csv").read_text().splitlines()
    lines = [text[0] + ",licence", *(line.replace(",False", ",True") + ",CC0-1.0" for line in text[1:])]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    bell, _ = sf.read(place / "my-sounds" / "0.wav")
    sf.write(place / "street.wav", bell + 0.1 * np.random.default_rng(0).standard_normal(len(bell)), RATE)


def measured_again(loaded: Any, place: Path, settings: dict[str, Any]) -> dict[str, float]:
    """What the card says of a model, of one that was loaded."""
    recipe = finetune.fill_recipe("audiosep", None, {**settings, "non_commercial": True})
    data = place / "my-sounds", place / "other-sounds"
    return finetune.load_material(loaded.model, loaded.processor, recipe, *data).detail(loaded.model)


@pytest.mark.slow
def test_the_documented_commands_from_a_model_to_an_adapter_on_the_hub(
    hub: HubServer, tmp_path: Path, listener: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page one after the other, with a tiny model in place of the shipped one."""
    prepare_place(tmp_path, listener)
    train, push, separate = blocks("bash")[0].replace("audiosep-small", "tiny").strip().splitlines()
    changed = {**BRIEF, "bf16": True, "steps": 60, "eval_every": 20, "save_every": 20, "learning_rate": 0.01}
    monkeypatch.setattr(
        sys, "argv", [*shlex.split(train), *settings_words(changed)]
    )  # the card tells the command line
    assert command(sys.argv[1:]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed[printed.rindex("\n{\n") :])
    assert result["after"]["sdri"] > result["before"]["sdri"] + 0.2, "on bells that were not learnt from"
    assert command(shlex.split(push)[1:]) == 0
    assert command(shlex.split(separate)[1:]) == 0
    assert (tmp_path / "separated" / "street" / "bell.wav").is_file()

    files = hub.repositories[ADDRESS].files()
    assert {"adapter_config.json", "adapter_model.safetensors", "adapter.json", "curve.png", "README.md"} < set(files)
    assert not [name for name in files if name.startswith("model") or name.endswith((".bin", ".pt"))]
    card = ModelCard(files["README.md"].decode())
    told = card.data.to_dict()
    assert (told["license"], told["library_name"], told["base_model"]) == ("cc-by-4.0", "hubsep", "tiny")
    for part in (f"| {result['after']['sdri']} |", "hubsep train tiny", "my bells", "CC0-1.0", "curve.png", "bell"):
        assert part in card.text, part
    assert f'model="tiny", adapter="{ADDRESS}"' in card.text
    assert "which neither taught nor chose anything" in card.text
    assert str(tmp_path) not in card.text

    (python, _) = blocks("python")
    names: dict[str, Any] = {}
    exec(python.replace("audiosep-small", "tiny"), names)
    assert [source["label"] for source in names["sources"]] == ["bell"]
    separator = pipeline(model="tiny", adapter=tmp_path / "runs/bell/adapter")
    local = separator("street.wav", queries=["bell"])
    assert measured_again(separator, tmp_path, changed) == pytest.approx(result["after"], abs=0.002)
    np.testing.assert_array_equal(names["sources"][0]["audio"], local[0]["audio"])
    verify_manifest(tmp_path / "runs/bell/adapter")

    assert command(["merge", "tiny", ADDRESS, "merged"]) == 0
    merged = pipeline(model="merged")("street.wav", queries=["bell"])
    assert_same(merged[0]["audio"], local[0]["audio"], **TINY_MODEL, peak=1.0)
    assert command(shlex.split(push)[1:]) == 0, "each command works the second time as well"
    with pytest.raises(CheckpointError, match="trained on 'tiny'"):
        pipeline(model="conv-tasnet-small", adapter=ADDRESS)


def test_nothing_is_pushed_without_licences(tmp_path: Path, listener: Path) -> None:
    free = corpus(tmp_path / "others", clips=6)
    told = {"repository": ADDRESS, "licence": "CC-BY-4.0"}
    for data, changes, error in [
        (bells(tmp_path / "a"), {}, "no licence"),
        (bells(tmp_path / "b", licence="CC0-1.0"), {"licence": None}, "--licence"),
        (bells(tmp_path / "c", licence="CC-BY-NC-4.0", commercial="False"), {}, "no licence|allows commercial use"),
    ]:
        with pytest.raises(DataError, match=error):
            finetune.main(
                str(listener), data, tmp_path / "run", background=free, told={**told, **changes}, lora=True,
                non_commercial=True, **BRIEF,
            )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_wrong_name_lists_models_and_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "audiosep-smal", "--data", str(tmp_path)]) == 2
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert "or a name that `hubsep list` prints" in told
    assert "text_tower" in told
    assert "Did you mean audiosep-small?" in told
    assert command(["train", "speech", "--data", str(tmp_path), "--lora"]) == 2
    assert "--lora is for fine-tuning" in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


@pytest.mark.slow
def test_all_weights_of_a_model_of_songs(tmp_path: Path) -> None:
    tiny_spleeter(segment_frames=64)[0].save_pretrained(tmp_path / "base")
    data = songs(tmp_path / "songs")
    rows = [line for line in (data / "metadata.csv").read_text().splitlines() if not line.startswith("karaoke")]
    (data / "metadata.csv").write_text("\n".join(rows) + "\n")
    settings = {**BRIEF, "steps": 2, "eval_every": 1, "save_every": 1, "learning_rate": 1e-3, "non_commercial": True}
    stems = tiny_spleeter()[0].config.source_names
    if not set(stems) <= {"drums", "bass", "other", "vocals", "accompaniment"}:
        pytest.skip("the tiny model has other stems")
    result = finetune.main(str(tmp_path / "base"), data, tmp_path / "run", **settings)
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "run/model"))
    assert any(not (before[name] == after[name]).all() for name in before if name.endswith("conv.weight"))
    norms = [name for name in before if "running_" in name]
    assert norms
    assert all((before[name] == after[name]).all() for name in norms), "statistics of norms stay"
    assert result["after"].keys() == result["before"].keys()
    assert len(pipeline(model=tmp_path / "run/model")(data / "0 - song 0" / "drums.wav")) == len(stems)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    tiny_conv_tasnet()[0].save_pretrained(folder / "base")
    speakers(folder / "data", count=8)
    return folder


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    running = Children("finetune_child")
    yield running
    running.close()


def kill_and_resume(place: Path, children: Children, *, steps: int, lora: bool, kills: int, eval_every: int) -> None:
    """Kills a run after steps chosen at random; what it ends with is what a run left alone ends with.

    A process is killed right after a step, or while the next checkpoint, picture or result is written.
    """
    name = f"{'lora' if lora else 'full'}-{kills}"
    whole, killed = place / f"{name}-whole", place / f"{name}-killed"

    def run(output: Path, after: int, change: int = 0) -> tuple[int, str]:
        given = [str(place / "base"), str(place / "data"), str(output), steps, int(lora), eval_every, after, change]
        status, _, told = children.run("fine_tune", *given)
        return status, told[-2_000:]

    def taken() -> list[int]:
        return [int(number) for number in Path(f"{killed}.steps").read_text().split()]

    assert run(whole, -1)[0] == 0
    rng, done = random.Random(kills), EVERY
    for number in range(kills):
        # as many steps further, on average, as leave room for the kills that follow
        ahead = rng.randint(1, max(1, 2 * (steps - done) // (kills - number + 1) - 1))
        assert done + ahead < steps, "between the first and the last checkpoint"
        status, told = run(killed, done + ahead, rng.choice((0, 0, rng.randint(1, 12))))
        assert (os.WIFSIGNALED(status), os.WTERMSIG(status)) == (True, signal.SIGKILL), told
        done = max(taken())
    status, told = run(killed, -1)
    assert status == 0, told
    lost = [before + 1 - after for before, after in pairwise(taken())]
    assert set(range(1, steps + 1)) == set(taken())
    assert max(lost) <= EVERY, f"steps were taken again: {taken()}"
    assert sum(lost) > 0, "no kill cost a step, so nothing was tested"
    print(f"{kills} kills of {steps} steps cost {sum(lost)} steps, {max(lost)} at most")
    result = "adapter/adapter_model.safetensors" if lora else "model/model.safetensors"
    assert (killed / result).read_bytes() == (whole / result).read_bytes()
    curves = [json.loads((folder / "curve.json").read_text()) for folder in (whole, killed)]
    for curve in curves:
        for point in curve:
            del point["minutes"]
    assert curves[0] == curves[1]


class Interrupted(Exception):
    """Raised in the middle of a run."""


class Interrupting(FineTuneCallback):
    """Ends a run after its fourth step, once."""

    done = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 4 and not Interrupting.done:
            Interrupting.done = True
            raise Interrupted
        super().on_step_end(args, state, control, model=model, **kwargs)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, for speed; the slow tests kill."""
    given, settings = (str(place / "base"), place / "data"), {**SETTINGS, "steps": 5, "eval_every": 5}
    finetune.main(*given, tmp_path / "whole", **settings)
    monkeypatch.setattr(finetune, "FineTuneCallback", Interrupting)
    with pytest.raises(Interrupted):
        finetune.main(*given, tmp_path / "run", **settings)
    finetune.main(*given, tmp_path / "run", **settings)
    results = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert results[0] == results[1]
    assert results[0] != (place / "base" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(place: Path, children: Children) -> None:
    kill_and_resume(place, children, steps=12, lora=False, kills=2, eval_every=4)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_twenty_kills_cost_no_more_than_an_interval_each(place: Path, children: Children) -> None:
    kill_and_resume(place, children, steps=80, lora=True, kills=20, eval_every=20)


@pytest.mark.slow
def test_a_run_killed_before_its_first_step_begins_anew(place: Path, children: Children) -> None:
    given = [str(place / "base"), str(place / "data"), str(place / "early"), 2, 1, 1, 0]
    for change in (1, 2, 3, 5, 8):
        status, _, told = children.run("fine_tune", *given, change)
        assert os.WIFSIGNALED(status), told[-2_000:]
    status, _, told = children.run("fine_tune", *given[:-1], -1, 0)
    assert status == 0, told[-2_000:]
    assert (place / "early/adapter/adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_that_no_longer_improves_ends_early_and_stays_ended(place: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": 20, "eval_every": 1, "save_every": 10, "patience": 2, "learning_rate": 1e-12}
    given: list[Any] = [str(place / "base"), place / "data", tmp_path / "run"]
    finetune.main(*given, **settings)
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert len(curve) < 20
    finetune.main(*given, **settings)
    assert json.loads((tmp_path / "run" / "curve.json").read_text()) == curve


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_two_processes_train_together(place: Path, tmp_path: Path) -> None:
    words = settings_words({**BRIEF, "steps": 4, "eval_every": 2})
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines",
              "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "hubsep"]  # fmt: skip
    given = ["train", str(place / "base"), "--data", str(place / "data"), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [*launch, *given, "--non-commercial", *words], capture_output=True, text=True, check=False, timeout=1_000
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert [point["step"] for point in json.loads((tmp_path / "run/curve.json").read_text())] == [2, 4]


SIREN: dict[str, Any] = {
    "steps": 72, "eval_every": 24, "save_every": 24, "batch_size": 2, "mixing": {"seconds": 2.0},
    "validation_mixtures": 6, "final_mixtures": 16,
}  # fmt: skip
KNOWN = ("acoustic guitar", "baby crying", "chainsaw", "crackling fire", "dog barking", "flute", "helicopter", "rain",
         "rooster crowing", "saxophone", "sea waves", "violin or fiddle")  # fmt: skip


def copy_events(shared: Path, place: Path) -> None:
    """33 recordings of sirens, from 18 sources, as `my-sounds`, and 14 of each known sound as `other-sounds`."""
    with (shared / "data/events/metadata.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    free = [row for row in listed if row["commercial"] == "True"]
    others = [row for label in KNOWN for row in [row for row in free if row["label"] == label][:14]]
    for name, part in (("my-sounds", [row for row in listed if row["label"] == "siren"]), ("other-sounds", others)):
        for entry in part:
            path = place / name / entry["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shared / "data/events" / entry["path"], path)
        write_table(place / name, part)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.needs_shared
def test_the_shipped_model_learns_a_siren_by_the_documented_commands(
    hub: HubServer, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page says was measured; the figures after are those of the adapter that came back from the Hub."""
    copy_events(shared, tmp_path)
    train, push, _ = (
        blocks("bash")[0].replace("bell", "siren").replace("CC-BY-4.0", "CC-BY-NC-4.0").strip().split("\n")
    )
    monkeypatch.setattr(sys, "argv", [*shlex.split(train), "--non-commercial", *settings_words(SIREN)])
    assert command(sys.argv[1:]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed[printed.rindex("\n{\n") :])
    before, after = result["before"], result["after"]
    assert before["sdri"] == 0, "the model knows no siren, and is silent"
    assert command(shlex.split(push)[1:]) == 0
    loaded = pipeline("audio-separation", model="audiosep-small", adapter="org/audiosep-siren")
    found = measured_again(loaded, tmp_path, SIREN)
    with capsys.disabled():
        print(json.dumps({"before": before, "after": after, "reloaded": found}))
    assert found == pytest.approx(after, abs=0.01)
    assert found["siren"] > before["siren"] + 2
    assert found["known_sdri"] > before["known_sdri"] - 1
