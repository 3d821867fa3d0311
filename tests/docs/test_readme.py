# SPDX-License-Identifier: Apache-2.0
"""What README and cards say: the commands run, the numbers are those of the evaluation, the cards are up to date."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from hubsep.cards import render_card, render_index
from hubsep.cli.main import app
from hubsep.cli.train import RECIPES
from hubsep.hub import verify_manifest
from hubsep.shipped import DEFAULT_GENERATOR, DEFAULT_MODEL, SHIPPED


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    """The text of a code block of README.md."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[number]


def same(printed: str, shown: str) -> None:
    """Compares lines word by word, scores with a tolerance: another processor may round the last digit differently."""
    for line, expected in zip(printed.splitlines(), shown.splitlines(), strict=True):
        for word, wanted in zip(line.split(), expected.split(), strict=True):
            if re.fullmatch(r"[01]\.\d\d", wanted):
                assert float(word) == pytest.approx(float(wanted), abs=0.02)
            else:
                assert word == wanted


def test_a_stranger_reads_it_in_one_go():
    assert len(README.splitlines()) <= 150


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), f"README.md links to {target}"


def test_the_first_block_is_two_lines():
    lines = block("bash").splitlines()
    assert len(lines) == 2
    assert "hubsep separate" in lines[0]
    assert "pytest" in lines[1]


def test_the_first_line_writes_what_it_says(tmp_path: Path):
    command = shlex.split(block("bash").splitlines()[0].split("&&")[-1])[1:]
    command[command.index("examples/street.wav")] = str(ROOT / "examples" / "street.wav")
    command[command.index("separated")] = str(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    printed = result.stdout.replace(str(tmp_path), "separated")
    same(printed, block("console"))
    mixture, sampling_rate = sf.read(ROOT / "examples" / "street.wav")
    parts = {path.stem: sf.read(path)[0] for path in tmp_path.rglob("*.wav")}
    assert set(parts) == {"dog_barking", "rain", "residual"}
    assert all(part.shape == mixture.shape for part in parts.values())
    assert {sf.info(path).samplerate for path in tmp_path.rglob("*.wav")} == {sampling_rate}
    # three files of 16 bits, each rounded by half a step
    assert np.abs(sum(parts.values()) - mixture).max() <= 1.5 / 32_768
    picture = next(tmp_path.rglob("*.png"))
    assert picture.stat().st_size > 20_000


def test_the_command_against_noise_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = block("console", 1)
    command, expected = shown.split("\n", 1)
    words = shlex.split(command)
    assert words[:2] == ["$", "hubsep"]
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, [str(tmp_path) if word == "clean" else word for word in words[2:]])
    assert result.exit_code == 0, result.output
    same(result.stdout.replace(str(tmp_path), "clean"), expected)


def test_how_often_a_score_is_wrong_stands_beside_it():
    result = json.loads((SHIPPED[DEFAULT_MODEL] / "evaluation.json").read_text(encoding="utf-8"))
    assert f"{result['false_alarms']:.0%}".replace("%", " %") in README.partition("## Four uses")[0]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_python_examples_print_what_they_say(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    exec(compile(block("python", number), "README.md", "exec"), {})
    same(capsys.readouterr().out, block("text", number))


@pytest.mark.parametrize("name", SHIPPED)
def test_cards_are_up_to_date(name: str):
    folder = SHIPPED[name]
    assert (folder / "README.md").read_text(encoding="utf-8") == render_card(folder)


def test_cards_and_the_page_state_the_hours_of_training_that_the_list_prints():
    minutes = {}
    for name in SHIPPED:
        card = json.loads((SHIPPED[name] / "card.json").read_text(encoding="utf-8"))
        minutes[name] = card["training_minutes"]
        assert f"for about {minutes[name] / 60:.1f} hours on one" in " ".join(card["limits"]), name
    speakers = [f"{minutes[name] / 60:.1f}" for name in SHIPPED if name.startswith(("conv", "speech", "audioslots"))]
    assert f"trained for about {minutes[DEFAULT_MODEL] / 60:.1f} hours on one CPU core" in MEASURED
    assert f"trained for {min(speakers)} to {max(speakers)} hours on one CPU core" in MEASURED


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_code_of_a_card_runs_without_a_warning(name: str, tmp_path: Path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    code = json.loads((SHIPPED[name] / "card.json").read_text(encoding="utf-8"))["use"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    printed = re.sub(r".*(it/s|s/it)\]", "", result.stderr)  # bars of progress
    assert (result.returncode, result.stdout, printed.strip()) == (0, "", "")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_commands_of_cards_exist(name: str):
    commands = json.loads((SHIPPED[name] / "card.json").read_text(encoding="utf-8"))["commands"]
    trained = [shlex.split(command) for command in commands if command.startswith("hubsep train")]
    assert trained[-1][2] in ("release", "assemble")
    for words in trained:
        assert words[2] in RECIPES
        if "--config" in words:
            config = words[words.index("--config") + 1].replace("$RECIPES", "src/hubsep/training/recipes")
            assert (ROOT / config).is_file(), config


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_folders_are_what_was_written(name: str):
    verify_manifest(SHIPPED[name])


def test_the_index_of_cards_is_up_to_date():
    assert (ROOT / "MODEL_CARDS.md").read_text(encoding="utf-8") == render_index(list(SHIPPED.values()))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (
            "audiosep-small",
            ("sdri", "si_sdri", "seen_sdri", "unseen_sdri", "absent_level", "score_present", "score_absent"),
        ),
        ("conv-tasnet-small", ("si_snri", "si_snri_median", "sdri", "sdri_median")),
        ("speech-separation-small", ("si_snri", "si_snri_median", "sdri", "sdri_median")),
        ("conv-tasnet-live", ("si_snri", "si_snri_median", "sdri", "sdri_median")),
        ("audioslots-small", ("si_snri", "si_snri_median", "sdri", "sdri_median")),
    ],
)
def test_the_page_states_the_measured_numbers(model: str, names: tuple[str, ...]):
    result = json.loads((SHIPPED[model] / "evaluation.json").read_text(encoding="utf-8"))
    for name in names:
        assert f"{result[name]} dB" in MEASURED or f" {result[name]} " in MEASURED, name


@pytest.mark.parametrize("name", ["spleeter-small-2stems", "spleeter-small-4stems", "meta-tasnet-small"])
def test_the_page_states_the_measured_stems(name: str):
    result = json.loads((SHIPPED[name] / "evaluation.json").read_text(encoding="utf-8"))
    for label, row in result["classes"].items():
        cells = (label, *(row[column] for column in ("songs", "sdr", "sir", "sar", "sdr_mean", "sdr_mixture")))
        assert "| " + " | ".join(map(str, cells)) + " |" in MEASURED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_enough(name: str):
    sizes = [path.stat().st_size for path in SHIPPED[name].rglob("*") if path.is_file()]
    assert max(sizes) <= 15e6
    assert sum(sizes) <= (40e6 if name in (DEFAULT_GENERATOR, DEFAULT_MODEL) else 30e6)
