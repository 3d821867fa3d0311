# SPDX-License-Identifier: Apache-2.0
"""The pages for users of other packages: what they say runs, with tiny published files on a loopback Hub.

The options and settings they name are ones that there are.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import published_audiosep
import published_conv_tasnet
import published_sepformer
import pytest
import soundfile as sf
from hub_server import HubServer
from tiny_audioldm2 import published_folder

from hubsep.cli import main
from hubsep.hub.published import find_published, published


ROOT = Path(__file__).parents[2]
SERVED = "<!-- not run: a test of its own serves the published files -->\n"
FENCE = re.compile(rf"^{re.escape(SERVED)}```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def put(hub: HubServer, name: str, folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.publish(name, files)


def speechbrain(hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("speechbrain/sepformer-wsj02mix", "speechbrain/sepformer-wham-enhancement"):
        put(hub, name, published_sepformer.golden_folder(place / name))


def asteroid(hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place / "pytorch_model.bin"
    published_conv_tasnet.write_asteroid(file, published_conv_tasnet.tensors(), facts={"licenses": []})
    put(hub, "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k", place)


def audiosep(hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = find_published("audo/AudioSep")
    assert row is not None
    monkeypatch.setitem(published(), row.name, replace(row, options=published_audiosep.OVERRIDES))
    published_audiosep.write_lightning(place / row.files[0], published_audiosep.whole())
    put(hub, row.name, place)
    put(hub, row.companions["tokenizer"], published_audiosep.write_tokenizer(place / "tokenizer"))


def diffusers(hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, "cvssp/audioldm2", published_folder(place / "audioldm2"))


PUBLISH: dict[str, Callable[[HubServer, Path, pytest.MonkeyPatch], None]] = {
    "speechbrain": speechbrain, "asteroid": asteroid, "audiosep": audiosep, "diffusers": diffusers,
}  # fmt: skip


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"from-{page}.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PUBLISH)
def test_what_a_page_for_users_of_another_package_says_runs(
    page: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    PUBLISH[page](hub, tmp_path / "published", monkeypatch)
    for name in ("street.wav", "talk.wav", "noisy.wav"):
        waveform, sampling_rate = sf.read(ROOT / "examples" / name)
        sf.write(name, waveform[:sampling_rate], sampling_rate)
    blocks = FENCE.findall(text_of(page))
    assert {language for language, _ in blocks} == {"bash", "python"}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, f"from-{page}.md", "exec"), {})
            continue
        for line in code.splitlines():
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
    shutil.rmtree(tmp_path / "published")


@pytest.mark.parametrize("page", PUBLISH)
def test_a_page_for_users_of_another_package_has_its_parts(page: str) -> None:
    text = text_of(page)
    for part in ("What you write today", "Here", "## What differs", "## What is better", "## What is missing"):
        assert part in text
    for name in re.findall(r"[`\"]((?:speechbrain|JorisCos|audo|cvssp)/[\w.-]+)", text):
        assert find_published(name) is not None, name
