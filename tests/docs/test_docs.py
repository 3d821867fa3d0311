# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: their code runs, in order, beside the recordings of examples/, and their links lead somewhere.

A comment above a fence keeps a block out: `<!-- not run: REASON -->` for what needs the network or somebody else's
files, `<!-- generator -->` for what needs the shipped text-to-audio model, which runs among the slow tests where that
model is. Recordings are cut to a second, and what a page expects to lie there is made small.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import published_conv_tasnet
import pytest
import soundfile as sf
from speakers import speakers
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.cards import finetuned_card, read_card, write_card
from hubsep.cli import main
from hubsep.shipped import SHIPPED


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("index", "separate-by-text", "speakers", "music", "generate", "convert", "publish", "evaluate")
# their own tests run the first ones; the others have no code to run
ELSEWHERE = (
    "fine-tune", "scale-out", "from-speechbrain", "from-asteroid", "from-audiosep", "from-diffusers", "models",
    "leaderboard", "measured", "architecture",
)  # fmt: skip
SECONDS = 1
FENCE = re.compile(r"^(?:<!-- (?P<mark>.+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its language, what the comment above it says, and where it begins."""

    language: str
    code: str
    mark: str
    line: int

    @property
    def needs_generator(self) -> bool:
        return self.mark == "generator"

    @property
    def runs(self) -> bool:
        return self.language in ("bash", "python") and not self.mark.startswith("not run: ")


def blocks_of(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [
        Block(match["language"], match["code"], match["mark"] or "", text[: match.start("code")].count("\n") + 1)
        for match in FENCE.finditer(text)
    ]


def prepare_text(folder: Path) -> None:
    (folder / "recordings").mkdir()
    shutil.copyfile(folder / "street.wav", folder / "recordings" / "one.wav")


def prepare_convert(folder: Path) -> None:
    published_conv_tasnet.write(folder / "pytorch_model.bin", "asteroid")


def prepare_evaluate(folder: Path) -> None:
    speakers(folder / "speech", count=4, clips=1, sampling_rate=16_000)
    shutil.copyfile(folder / "street.wav", folder / "target.wav")
    with (folder / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mixture", "target", "caption"])
        writer.writerows([["street.wav", "target.wav", caption] for caption in ("dog barking", "rain", "a bell")])
    tiny_conv_tasnet(sampling_rate=16_000)[0].save_pretrained(folder / "my-model")
    told: dict[str, Any] = {
        "data": [],
        "licence": "CC0-1.0",
        "commercial": True,
        "training": "Not trained.",
        "commands": [],
    }
    base = read_card(SHIPPED["conv-tasnet-small"])
    write_card(folder / "my-model", finetuned_card(base, name="my-model", **told))


PREPARE: dict[str, Callable[[Path], None]] = {
    "separate-by-text": prepare_text, "convert": prepare_convert, "evaluate": prepare_evaluate,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("street.wav", "talk.wav", "noisy.wav", "song.flac"):
        source = ROOT / "examples" / name
        waveform, sampling_rate = sf.read(source)
        sf.write(tmp_path / name, waveform[: SECONDS * sampling_rate], sampling_rate, sf.info(source).subtype)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: str, folder: Path, *, generator: bool) -> None:
    """Runs the blocks of a page one after the other; Python keeps its names from block to block."""
    PREPARE.get(page, lambda folder: None)(folder)
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if not block.runs or (block.needs_generator and not generator):
            continue
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(DOCS / f"{page}.md"), "exec"), names)
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "hubsep", f"{page}.md, line {block.line}: {line}"
            assert main(words[1:]) == 0, f"{page}.md, line {block.line}: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, folder: Path):
    if not any(block.runs and not block.needs_generator for block in blocks_of(page)):
        pytest.skip("every block needs the text-to-audio model; see the slow test")
    run(page, folder, generator=False)
    if page == "index":
        written = {path.name for path in (folder / "separated" / "street").glob("*.wav")}
        assert written == {"dog_barking.wav", "rain.wav", "residual.wav"}


@pytest.mark.slow
def test_the_code_that_makes_sounds_runs(folder: Path):
    run("generate", folder, generator=True)
    assert {path.name for path in folder.glob("weather*.wav")} == {"weather-1.wav", "weather-2.wav"}


def test_every_page_is_listed_and_every_mark_is_known():
    assert {path.stem for path in DOCS.glob("*.md")} <= {*PAGES, *ELSEWHERE}
    for page in PAGES:
        blocks = blocks_of(page)
        assert blocks
        for block in blocks:
            known = block.mark in ("", "generator") or re.fullmatch(r"not run: .{10,}", block.mark)
            assert known, f"{page}.md, line {block.line}: {block.mark}"


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (DOCS / target).exists(), f"{page}.md links to {target}"
