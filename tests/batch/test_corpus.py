# SPDX-License-Identifier: Apache-2.0
"""Corpora on any file system, by one worker here and by two of a local Ray, one of which is killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.batch.corpus import SeparateRecordings, Task
from hubsep.errors import DataError, QueryError


pytest.importorskip("pyarrow", reason="pyarrow comes with the extra ray: pip install 'hubsep[ray]'")

LABELS = ["speaker 1", "speaker 2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_conv_tasnet()[0].save_pretrained(folder)
    return str(folder)


def recordings(folder: Path, count: int, samples: int = 4_000) -> list[Path]:
    """Noises, by default of half a second."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        sf.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, samples), 8_000)
    return paths


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file, and what changes if it is written again."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_recording_is_separated_once(model: str, tmp_path: Path) -> None:
    (path,) = recordings(tmp_path / "in", 1)
    output = tmp_path / "out"
    task = Task(model, output=str(output), root=str(tmp_path / "in"))
    rows = SeparateRecordings(task)({"path": str(path), "speaker": "x"})
    assert [row["label"] for row in rows] == LABELS
    for row in rows:
        assert row["ok"]
        assert not row["skipped"]
        assert row["speaker"] == "x"
        assert sf.info(row["output"]).frames == 4_000
    before = files(output)
    assert sorted(before) == ["000.wav/separated.json", "000.wav/speaker_1.wav", "000.wav/speaker_2.wav"]

    again = SeparateRecordings(task)({"path": str(path)})
    assert all(row["skipped"] for row in again)
    assert [row["output"] for row in again] == [row["output"] for row in rows]
    assert files(output) == before

    (output / "000.wav/speaker_1.wav").write_bytes(b"edited")
    (row,) = SeparateRecordings(task)({"path": str(path)})
    assert "speaker_1.wav is there and was not written like this" in row["error"]
    (output / "000.wav/speaker_1.wav").unlink()
    assert not any(row["skipped"] for row in SeparateRecordings(task)({"path": str(path)}))
    recordings(tmp_path / "in", 1)  # the same bytes at another time: another recording, as far as one can tell
    before = files(output)
    other = Task(model, {"residual": True}, str(output), str(tmp_path / "in"))
    for foreign in (task, other):
        (row,) = SeparateRecordings(foreign)({"path": str(path)})
        assert not row["ok"]
        assert "was not written like this from this recording with these settings" in row["error"]
        assert files(output) == before
    rows = SeparateRecordings(replace(other, overwrite=True))({"path": str(path)})
    assert [row["label"] for row in rows] == [*LABELS, "residual"]
    (output / "000.wav/separated.json").unlink()
    (row,) = SeparateRecordings(other)({"path": str(path)})
    assert "speaker_1.wav is there" in row["error"]


def test_what_a_killed_worker_left_is_removed(model: str, tmp_path: Path) -> None:
    (path,) = recordings(tmp_path / "in", 1)
    worker = SeparateRecordings(Task(model, output=str(tmp_path / "out"), root=str(tmp_path / "in")))
    assert worker._store is not None
    left = Path(worker._store._unfinished("000.wav"))
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half a file")
    assert all(row["ok"] for row in worker({"path": str(path)}))
    assert not left.exists()


def test_contents_arrays_and_bad_recordings(model: str, tmp_path: Path) -> None:
    (path,) = recordings(tmp_path / "in", 1)
    worker = SeparateRecordings(Task(model))
    from_path, from_content = worker({"path": str(path)}), worker({"bytes": path.read_bytes(), "name": "x"})
    assert "bytes" not in from_content[0]
    for row, other in zip(from_path, from_content, strict=True):
        assert row["audio"].shape == (1, 4_000)
        assert row["sampling_rate"] == 8_000
        assert np.array_equal(row["audio"], other["audio"])
    (bad,) = worker({"bytes": b"no audio"})
    assert not bad["ok"]
    assert bad["error"]
    assert bad["audio"].shape == (0, 0)
    stored = SeparateRecordings(Task(model, output=str(tmp_path / "out")))
    (missing,) = stored({"path": str(tmp_path / "missing.wav")})
    assert "does not exist" in missing["error"]
    assert len(stored({"bytes": path.read_bytes()})) == 2  # named by its content
    with pytest.raises(DataError, match="needs 'path' or 'bytes'"):
        worker({"file": "x"})
    with pytest.raises(DataError, match="not below root"):
        SeparateRecordings(Task(model, output=str(tmp_path / "out"), root="/elsewhere"))({"path": str(path)})
    with pytest.raises(QueryError):
        SeparateRecordings(Task(model, {"queries": ["rain"]}))({"path": str(path)})
    with pytest.raises(DataError, match=r"needs \{label\}"):
        Task(model, output=str(tmp_path), template="{name}").check()
    with pytest.raises(DataError, match="cannot be opened"):
        Task(model, output="nothing://there").check()


def test_a_file_system_of_fsspec(model: str, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    (path,) = recordings(tmp_path / "in", 1)
    memory.pipe("/corpus/a/000.wav", path.read_bytes())
    task = Task(model, output="/corpus-out", root="/corpus", filesystem=memory)
    for skipped in (False, True):
        rows = SeparateRecordings(task)({"path": "/corpus/a/000.wav"})
        assert [row["skipped"] for row in rows] == [skipped, skipped], rows
    assert sorted(memory.find("/corpus-out")) == [
        f"/corpus-out/a/000.wav/{name}" for name in ("separated.json", "speaker_1.wav", "speaker_2.wav")
    ]
    memory.rm("/corpus-out", recursive=True)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on this machine, in processes of its own that nobody without the token of this test can use.

    Its agents take a minute to start on a busy machine. Ray gives up after 15 s where it waits for the ports they
    chose, so they are told which to take, and 30 s later where it waits for an answer. It does not tell how it is
    used: the thread for that outlives `ray.shutdown()` here and logs what it fails to reach, and Python 3.11 cannot
    lay out a traceback in one thread while another parses, as pytest does for its summary (SystemError, "AST
    constructor recursion depth mismatch"). When it ends it does not wait for what still runs, which took 30 s.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # before the import, which reads it
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'hubsep[ray]'")
    gcs, *agents = free_ports(5)
    names = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
    folder = tmp_path_factory.mktemp("ray", numbered=False)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=3", "--include-dashboard=false"]
    command += [f"--object-store-memory={80 << 20}"]
    command += [f"--{name}-port={port}" for name, port in zip(names, agents, strict=True)]
    patience = {"RAY_agent_register_timeout_ms": "600000", "RAY_worker_register_timeout_seconds": "600"}
    patience["RAY_worker_niceness"] = "0"  # of 15, which it is by default, workers got 1 % of a busy machine
    with (folder / "log.txt").open("w") as log:
        head = subprocess.Popen(command, env={**os.environ, **patience}, stdout=log, stderr=subprocess.STDOUT)
    try:
        while "Ray runtime started" not in (said := (folder / "log.txt").read_text()):
            assert head.poll() is None, said
            time.sleep(0.1)
        ray.init(address=f"127.0.0.1:{gcs}", _node_ip_address="127.0.0.1", log_to_driver=False)
        yield ray
    finally:
        ray.shutdown()
        head.terminate()  # it ends the others
        head.wait(300)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.usefixtures("cluster")
def test_two_hundred_recordings_by_two_workers_one_of_them_killed(model: str, tmp_path: Path) -> None:
    from hubsep.data.ray import find_recordings, separate_dataset

    count, output = 200, tmp_path / "out"
    recordings(tmp_path / "in", count, samples=2_000)
    task: dict[str, Any] = {"model": model, "output": str(output), "root": str(tmp_path / "in"), "workers": 2}
    before: dict[str, tuple[int, int]] = {}
    killer = threading.Thread(target=kill_worker, args=(output, 60, before), daemon=True)
    killer.start()
    rows = separate_dataset(find_recordings(str(tmp_path / "in")), **task).take_all()
    killer.join(60)
    assert len(before) >= 58 * 3  # each of two workers may have named a record and not yet its outputs
    assert len(rows) == 2 * count
    assert all(row["ok"] for row in rows)
    after = files(output)
    assert before.items() <= after.items()  # what was finished before the kill was not done again
    assert len(after) == 3 * count
    assert all(sf.info(output / name).frames == 2_000 for name in after if name.endswith(".wav"))
    workers = {json.loads(marker.read_text())["process"] for marker in output.glob("*/separated.json")}
    assert len(workers) >= 2

    rows = separate_dataset(find_recordings(str(tmp_path / "in")), **task).take_all()
    assert len(rows) == 2 * count
    assert all(row["skipped"] for row in rows)
    assert files(output) == after
    with pytest.warns(UserWarning, match="3 CPUs, which 3 workers take"):
        separate_dataset(find_recordings(str(tmp_path / "in")), **{**task, "workers": 3})


def kill_worker(output: Path, after: int, before: dict[str, tuple[int, int]]) -> None:
    """Kills the worker that finished last once `after` recordings are finished; notes the files there were."""
    while len(markers := list(output.glob("*/separated.json"))) < after:
        time.sleep(0.02)
    newest = max(markers, key=lambda marker: marker.stat().st_mtime_ns)
    os.kill(int(json.loads(newest.read_text())["process"].split("-")[1]), signal.SIGKILL)
    finished = [marker.parent.name for marker in output.glob("*/separated.json")]
    before |= {name: facts for name, facts in files(output).items() if name.partition("/")[0] in finished}
