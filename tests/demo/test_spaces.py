# SPDX-License-Identifier: Apache-2.0
"""The demos without a browser: their folders, what they accept, how they decode it, how they are pushed.

Decoding runs in real child processes; the Hub is the one of the tests. What needs a page is in
`test_spaces_browser.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hub_client import point_at
from hub_server import WRITER, HubServer
from huggingface_hub.utils import close_session

from hubsep.cli import main
from hubsep.demo.gate import Gate
from hubsep.demo.gpu import on_gpu, on_zero
from hubsep.demo.intake import child_environment, take_in
from hubsep.demo.limits import DemoLimits
from hubsep.demo.pictures import draw, portrait_of
from hubsep.demo.pushing import front_matter, push_space, space_files
from hubsep.demo.stopping import Runs
from hubsep.demo.workspace import Workspace
from hubsep.errors import AudioError, CheckpointError, HubsepError
from hubsep.texts import split_words, with_word


ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted(path.parent for path in (ROOT / "spaces").glob("*/app.py"))
LIMITS = DemoLimits()
RATE = 8_000

each_space = pytest.mark.parametrize("space", SPACES, ids=lambda path: path.name)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    path = tmp_path / "a tone.wav"
    samples = np.stack([np.sin(np.arange(RATE) / 9), np.cos(np.arange(RATE) / 9)], axis=1)
    sf.write(path, 0.5 * samples, RATE, subtype="FLOAT")
    return path


def refusal(path: Path | None, folder: Path, limits: DemoLimits = LIMITS) -> str:
    with pytest.raises(AudioError) as caught:
        take_in(path, limits, folder)
    assert not list(folder.glob("*.f32")), "what was decoded is gone"
    return str(caught.value)


def test_there_are_two_spaces() -> None:
    assert [path.name for path in SPACES] == ["separation", "text-to-audio"]


@each_space
def test_folder_is_ready_to_push(space: Path) -> None:
    front = front_matter(space)
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"\ngradio=={front['sdk_version']}\n" in constraints, "the version that was tested"
    assert len(front["short_description"]) <= 60, "the Hub's own limit"
    assert set(space_files(space)) >= {"app.py", "README.md", "requirements.txt"}
    compile((space / "app.py").read_text(), "app.py", "exec")
    for name in re.findall(r"HUBSEP_DEMO_(\w+)", (space / "README.md").read_text()):
        assert hasattr(LIMITS, name.lower())


def test_examples_of_the_space_are_those_of_the_repository() -> None:
    for path in (ROOT / "spaces/separation/examples").iterdir():
        assert path.read_bytes() == (ROOT / "examples" / path.name).read_bytes()


@pytest.mark.slow
def test_what_a_card_says_is_no_code_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs gradio: pip install 'hubsep[demo]'")
    from hubsep.demo.page import card_of, facts

    told = {"summary": "Runs with `hubsep generate <b>`.", "limits": ["<script>", "a `sound`"], "licence": "MIT<i>"}
    shown = facts({**card_of(tmp_path), **told})
    assert "<code>hubsep generate &lt;b&gt;</code>." in shown
    assert "<li>&lt;script&gt;</li><li>a <code>sound</code></li>" in shown
    assert "MIT&lt;i&gt;" in shown


def test_upload_comes_back_as_it_is(tone: Path, tmp_path: Path) -> None:
    recording, notes = take_in(tone, LIMITS, tmp_path)
    assert notes == []
    assert (recording.name, recording.sampling_rate) == ("a tone", RATE)
    assert np.array_equal(recording.waveform.T, sf.read(tone, dtype="float32")[0])
    assert not list(tmp_path.glob("*.f32"))


def test_wrong_files_are_refused_in_words(tone: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("these are notes, not a recording")
    assert "no recording yet" in refusal(None, tmp_path)
    assert re.match(r"This file cannot be used: .*no audio.*reads WAV", refusal(text, tmp_path))
    assert "longer than 1 seconds" not in refusal(text, tmp_path, replace(LIMITS, max_seconds=1))
    short = replace(LIMITS, max_seconds=1)
    sf.write(tone, np.zeros((RATE + 1, 1)), RATE)
    assert "longer than 1 second" in refusal(tone, tmp_path, short)
    sf.write(tone, np.zeros((RATE, 9)), RATE)
    assert "1 to 8 channels" in refusal(tone, tmp_path)
    tone.write_bytes(bytes(2 * 2**20))
    assert "2 MB, more than 1 MB" in refusal(tone, tmp_path, replace(LIMITS, max_upload_mb=1))


def test_length_is_counted_where_a_header_lies(tone: Path, tmp_path: Path) -> None:
    content = bytearray(tone.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = (len(content) * 4).to_bytes(4, "little")
    tone.write_bytes(content)
    _, notes = take_in(tone, LIMITS, tmp_path)
    assert "cut short" in notes[0]
    assert "longer than" in refusal(tone, tmp_path, replace(LIMITS, max_values=100))


def test_decoder_that_dies_hangs_or_eats_costs_one_upload(tone: Path, tmp_path: Path) -> None:
    assert "more than 0 seconds" in refusal(tone, tmp_path, replace(LIMITS, decode_seconds=0))
    assert "time or memory" in refusal(tone, tmp_path, replace(LIMITS, decode_memory_mb=40))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of processes")
def test_the_child_is_confined() -> None:
    code = """import json, os, resource, sys
from hubsep.demo.decoder import confine
confine(json.loads(sys.argv[1]))
kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)
print(json.dumps([resource.getrlimit(kind)[0] for kind in kinds]))"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asdict(LIMITS))],
        env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [2**31, 30, LIMITS.max_values * 4 + 2**20, 0]


def test_the_child_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert WRITER not in str(child_environment())
    assert set(child_environment()) <= {
        "PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANG",
        "SYSTEMROOT", "LD_LIBRARY_PATH",
    }  # fmt: skip


def test_limits_from_the_environment() -> None:
    assert DemoLimits.from_environment({"HUBSEP_DEMO_MAX_SECONDS": "7"}) == replace(LIMITS, max_seconds=7)
    for wrong in ("0", "-1", "many", ""):
        with pytest.raises(AudioError, match="HUBSEP_DEMO_QUEUE_SIZE must be"):
            DemoLimits.from_environment({"HUBSEP_DEMO_QUEUE_SIZE": wrong})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 second"), (45, "45 seconds"), (60, "1 minute"), (90, "1.5 minutes"), (600, "10 minutes")],
)
def test_times_in_words(seconds: int, words: str) -> None:
    pytest.importorskip("gradio")
    from hubsep.demo.page import duration, foot

    assert duration(seconds) == words
    said = foot(replace(LIMITS, keep_seconds=seconds), "What it does.", "hubsep <command>").value
    assert f"deleted after {words}." in said
    assert "hubsep &lt;command&gt;" in said


def test_what_goes_wrong_stays_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    from hubsep.demo.page import answered, in_words

    def fails(error: Exception) -> list[Any]:
        def work() -> list[Any]:
            with in_words():
                raise error

        return answered(work, lambda: ["rest"])

    said, rest = fails(AudioError("there is no recording <b>yet</b>"))
    assert "role='alert'>There is no recording &lt;b&gt;yet&lt;/b&gt;</div>" in said
    assert rest == "rest"
    assert "by no fault of yours" in fails(RuntimeError("a secret"))[0]
    assert "a secret" not in fails(RuntimeError("a secret"))[0]
    assert "RuntimeError: a secret" in capsys.readouterr().err, "which is for the log"
    assert answered(lambda: ["done", 1], lambda: ["rest"]) == ["done", 1]


def test_lists_of_sounds() -> None:
    assert split_words(" rain,\n dog  barking; Rain ,,\n") == ["rain", "dog barking"]
    assert split_words("") == []
    assert with_word("", "rain") == "rain"
    assert with_word("rain", "dog barking") == "rain, dog barking"
    assert with_word("rain, dog barking", "Rain") == "dog barking", "a second click takes it back"


def test_files_of_a_run_go_by_age_and_with_the_process(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, keep_seconds=60)
    old, new = workspace.new(), workspace.new()
    (old / "file").write_text("x")
    os.utime(old, (time.time() - 61, time.time() - 61))
    workspace.sweep()
    assert not old.exists()
    assert new.exists()
    workspace.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_lasts_longer_keeps_its_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, keep_seconds=60)
    with workspace.run() as folder:
        os.utime(folder, (time.time() - 61, time.time() - 61))
        workspace.sweep()
        assert folder.exists()
    workspace.sweep()
    assert folder.exists(), "its time begins when the run ends"
    os.utime(folder, (time.time() - 61, time.time() - 61))
    workspace.sweep()
    assert not folder.exists()
    workspace.close()


def test_what_broken_uploads_left_goes_by_age_and_nothing_else(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, keep_seconds=60)
    part, new, hers, empty, full = (
        tmp_path / name for name in ("tmpab12_x9z", "tmpcd34_x9z", "notes", "0" * 64, "f" * 64)
    )
    empty.mkdir()
    full.mkdir()
    for file in (part, new, hers, full / "a.wav"):
        file.write_text("x")
    for place in (part, hers, empty, full):
        os.utime(place, (time.time() - 61, time.time() - 61))
    workspace.sweep()
    assert [place.exists() for place in (part, new, hers, empty, full)] == [False, True, True, False, True]
    workspace.close()


def test_nothing_is_kept_of_who_runs_nothing() -> None:
    runs = Runs()
    for number in range(100):
        runs.stop(f"{number}" * 10_000)
    with runs.of("a page") as shall_stop, runs.of(None) as other:
        runs.stop("another page")
        assert not shall_stop()
        runs.stop("a page")
        assert shall_stop()
        assert not other()
        assert len(runs) == 2
    assert len(runs) == 0
    with runs.of("a page") as shall_stop:
        assert not shall_stop(), "a new run is not stopped by an old wish"


def gated(
    path: str = "/gradio_api/queue/join", body: bytes = b"", query: bytes = b"", root: str = "", **headers: str
) -> tuple[int, bytes]:
    """What a request of a page gets: status, and what the app behind the gate read."""
    read, answers = [], []
    pieces = [body[start : start + 50_000] for start in range(0, len(body), 50_000)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        answers.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            read.append(message["body"])
        read.append(message["body"])
        await send({"type": "http.response.start", "status": 200})

    lines = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in lines.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": query,
        "headers": pairs,
        "root_path": root,
    }
    asyncio.run(Gate(app, replace(LIMITS, max_upload_mb=1))(scope, receive, send))
    return answers[0]["status"], b"".join(read)


def test_requests_are_bounded_whatever_they_hold() -> None:
    upload = "/gradio_api/upload"
    assert gated(upload, bytes(2**20)) == (200, bytes(2**20))
    assert gated(upload, bytes(2**20 + 2**17)) == (413, b""), "two files of a megabyte are one upload"
    assert gated(upload, bytes(100), transfer_encoding="chunked") == (411, b"")
    assert gated(upload, b"x", content_length="-1") == (400, b"")
    assert gated(upload, b"x", content_length=str(10**12)) == (413, b"")
    assert gated("/gradio_api/component_server", bytes(2**19)) == (413, b"")
    assert gated("/x" * 4_000) == (414, b"")
    assert gated(f"/demo{upload}", bytes(2**20), root="/demo") == (200, bytes(2**20)), "behind another server"
    assert gated(query=b"x" * 5_000) == (414, b"")


@pytest.mark.parametrize(
    "before", ["/call", "/run", "/api", "/queue/join", "/stream", "/call/v2", "/component_server"]
)
def test_only_the_route_of_uploads_takes_uploads(before: str) -> None:
    for path in (f"/gradio_api{before}/upload", f"/gradio_api{before}/upload/", f"{before}/upload", "/upload"):
        assert gated(path, b'{"data":[' + b"{}," * 100_000 + b"{}]}") == (413, b""), path
        assert gated(path, b'{"session_hash":"' + b"a" * 1_000 + b'"}') == (400, b""), path


@pytest.mark.parametrize("name", ["a" * 65, "a" * 100_000, "", "../x", "\n", 7, ["a"]])
def test_pages_have_short_names(name: Any) -> None:
    assert gated(body=json.dumps({"session_hash": name, "data": []}).encode()) == (400, b"")


def test_names_of_pages_in_addresses_are_short_too() -> None:
    long = "a" * 65
    assert gated(path="/gradio_api/queue/data", query=f"session_hash={long}".encode())[0] == 400
    assert gated(path="/gradio_api/upload_progress", query=f"upload_id={long}".encode())[0] == 400
    for path in (long, f"{long}/", "%2F" + long, f"{long}%2Fb", f"a/{long}", f"{'%25' * 30}2Fb", ""):
        assert gated(path=f"/gradio_api/heartbeat/{path}")[0] == 400, path
        assert gated(path=f"/demo/gradio_api/heartbeat/{path}", root="/demo")[0] == 400, path
    assert gated(path="/gradio_api/heartbeat/4bqzfn7h1vb", query=b"session_hash=4bqzfn7h1vb")[0] == 200


@pytest.mark.parametrize(
    "call",
    [
        {"data": ["rain"], "session_hash": "4bqzfn7h1vb"},
        {"data": [], "session_hash": None},
        [1],
        {"data": "é" * 60_000},
    ],
)
def test_calls_of_pages_arrive_as_they_are(call: Any) -> None:
    body = json.dumps(call, ensure_ascii=False).encode()
    assert gated(body=body) == (200, body)
    assert gated(body=b"{" + body) == (200, b"{" + body), "what is no JSON is the app's to refuse"


def test_a_recording_that_is_gone_is_explained(tmp_path: Path) -> None:
    assert "Upload it again" in refusal(tmp_path / "gone.wav", tmp_path)


def test_uploads_of_those_who_wait_stay_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradio's own queue: three requests for one place, each with a file as old as it may be."""
    gradio = pytest.importorskip("gradio", reason="needs gradio: pip install 'hubsep[demo]'")
    from gradio.data_classes import PredictBodyInternal
    from gradio.queueing import Event

    from hubsep.demo.waiting import explained, touch_waiting_files

    cache, outside = tmp_path / "cache", tmp_path / "outside.wav"
    cache.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    with gradio.Blocks() as blocks:
        recording = explained(gradio.Audio(type="filepath"))
        recording.change(len, recording, None)
    files = [cache / f"{number}.wav" for number in range(3)]
    old = time.time() - 1_000
    for file in (*files, outside):
        file.write_text("x")
        os.utime(file, (old, old))
    queue = blocks._queue
    queue.create_event_queue_for_fn(function := next(iter(blocks.fns.values())))

    def waiting(*paths: Path) -> Event:
        event = Event("page", function, None, None)
        event.data = PredictBodyInternal(data=[{"path": str(path)} for path in paths], request=None)
        return event

    next(iter(queue.event_queue_per_concurrency_id.values())).queue.append(waiting(files[0], outside))
    queue.active_jobs = [None, [waiting(files[1], tmp_path / "gone.wav")]]
    touch_waiting_files(blocks)
    assert [file.stat().st_mtime > old + 500 for file in (*files, outside)] == [True, True, False, False]
    with pytest.raises(gradio.Error, match="Upload it again"):
        recording.move_resource_to_block_cache(str(cache / "gone.wav"))


def test_off_zero_gpu_nothing_is_decorated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not on_zero()
    assert on_gpu(60)(portrait_of) is portrait_of
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.chdir(ROOT)  # where a folder is called as the package is
    if "spaces" not in sys.modules:
        with pytest.raises(CheckpointError, match="needs the package spaces"):
            on_gpu(60)


def test_picture_of_a_second_an_hour_and_silence() -> None:
    loud = portrait_of(np.sin(np.arange(RATE) / 9, dtype=np.float32)[None], RATE)
    assert loud.peak == pytest.approx(1, abs=1e-3)
    for samples in (1, RATE, 400 * RATE):
        picture = draw(portrait_of(np.zeros((2, samples), dtype=np.float32), RATE), loud)
        assert picture.startswith("data:image/png;base64,")
        assert len(picture) < 200_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    point_at(monkeypatch, server.url, tmp_path / "home", WRITER)
    yield server
    server.stop()
    close_session()


@each_space
def test_push_is_one_commit_and_works_again(hub: HubServer, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["push-space", str(space), "org/demo", "--private"]) == 0
        assert capsys.readouterr().out.startswith(f"{hub.url}/spaces/org/demo/commit/")
    repository = hub.repositories["spaces/org/demo"]
    assert repository.messages == ["first", "Upload Space"], "the second time there is nothing to push"
    assert repository.private
    held = {name: data for name, data in repository.files().items() if name != ".gitattributes"}
    assert held == {name: path.read_bytes() for name, path in space_files(space).items()}


def test_push_of_a_version_that_is_not_published(hub: HubServer, tmp_path: Path) -> None:
    wheel = tmp_path / "hubsep-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    push_space(SPACES[0], "org/demo", wheel=wheel)
    files = hub.repositories["spaces/org/demo"].files()
    assert files[wheel.name] == b"a wheel"
    line = f"hubsep[demo,video] @ {hub.url}/spaces/org/demo/resolve/main/{wheel.name}\n"
    assert line in files["requirements.txt"].decode()
    with pytest.raises(CheckpointError, match="no wheel of hubsep"):
        push_space(SPACES[0], "org/demo", wheel=tmp_path / "other.whl")


def test_push_that_is_cut_leaves_the_old_space(hub: HubServer) -> None:
    push_space(SPACES[0], "org/demo")
    before = hub.repositories["spaces/org/demo"].files()
    hub.fault(r"POST /api/models/spaces/org/demo/commit", status=500, times=10)
    with pytest.raises(CheckpointError, match="could not be pushed to"):
        push_space(SPACES[1], "org/demo")
    assert hub.repositories["spaces/org/demo"].files() == before


@pytest.mark.parametrize(
    ("front", "complaint"),
    [(b"title: &a [x]\nsdk: *a", "alias"), (b"title: caf\xe9", "not in UTF-8: byte 14"),
     (b"d: 2026-99-99", "not YAML"), (b"sdk: " + b"[" * 3_000, "nested"), (b"- a", "name: value"),
     (b"sdk: " + b"[" * 300 + b"]" * 300, "in more than 32 others"), (b"- x\n" * 100_000, "too long"),
     (b"title: t\nsdk: 0x" + b"f" * 9_000, "bits")],
)  # fmt: skip
def test_a_readme_that_says_nonsense_is_refused_before_the_hub_is_asked(
    front: bytes, complaint: str, hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(b"---\n" + front + b"\n---\n")
    (tmp_path / "requirements.txt").write_text("hubsep[demo]\n")
    with pytest.raises(HubsepError, match=re.escape(complaint)):
        push_space(tmp_path, "org/demo")
    assert not hub.requests


def test_what_is_no_space_is_refused_before_the_hub_is_asked(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "space"
    complaints = []

    def attempt() -> None:
        with pytest.raises(CheckpointError) as caught:
            push_space(folder, "org/demo")
        complaints.append(str(caught.value))

    attempt()
    folder.mkdir()
    attempt()
    card = folder / "README.md"
    (folder / "requirements.txt").write_text("hubsep[demo]\n")
    front = {"title": "T", "sdk": "gradio", "sdk_version": "6", "app_file": "app.py", "license": "mit"}
    for fields in (None, {**front, "license": ""}, {**front, "sdk": "docker"}, front):
        lines = "" if fields is None else "".join(f"{name}: {value}\n" for name, value in fields.items())
        card.write_text(f"---\n{lines}---\n" if lines else "# T\n")
        attempt()
    (folder / "app.py").write_text("")
    (folder / ".env").write_text(f"HF_TOKEN={WRITER}")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/app.pyc").write_bytes(b"")
    assert set(space_files(folder)) == {"README.md", "app.py", "requirements.txt"}
    (folder / "link").symlink_to(tmp_path)
    attempt()
    expected = ["no folder", "needs README.md", "begin with ---", "say license", "'docker'", "app_file", "is a link"]
    assert all(part in text for part, text in zip(expected, complaints, strict=True)), complaints
    assert not hub.requests
