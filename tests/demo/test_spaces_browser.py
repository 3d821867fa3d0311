# SPDX-License-Identifier: Apache-2.0
"""The demos as people meet them: in a browser, all at once, with wrong files, and from those who look for holes.

Each app runs in a process of its own; the separation page has the shipped models and a tiny random one, which the
crowd uses.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from pages import Demo, Page, chromium, wait
from tiny_audiosep import tiny_audiosep

from hubsep import AudioSeparationPipeline


if importlib.util.find_spec("gradio") is None:  # looked for, not imported: that takes seconds of every collection
    pytest.skip("needs gradio: pip install 'hubsep[demo]'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "examples/street.wav"
SOON, PATIENCE = 120, 300  # seconds, on a busy machine; 1 and 10 on an idle one

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1800)]


def handle_file(path: Any) -> Any:
    import gradio_client

    return gradio_client.handle_file(path)


@pytest.fixture(scope="module")
def separation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    place = tmp_path_factory.mktemp("separation")
    model, processor = tiny_audiosep()
    AudioSeparationPipeline(model=model, processor=processor, device="cpu").save_pretrained(place / "tiny")
    limits = {"HUBSEP_DEMO_MAX_SECONDS": "20", "HUBSEP_DEMO_MAX_UPLOAD_MB": "2", "HUBSEP_DEMO_KEEP_SECONDS": "1200"}
    demo = Demo("separation", place, HUBSEP_MODEL=str(place / "tiny"), **limits)
    yield demo
    demo.close()


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    from tiny_audioldm2 import published_folder

    place = tmp_path_factory.mktemp("generation")
    limits = {"HUBSEP_DEMO_GENERATED_SECONDS": "3", "HUBSEP_DEMO_GENERATED_STEPS": "4"}
    limits["OMP_NUM_THREADS"] = "1"  # 7 s; two threads wait for each other for minutes where a core is busy
    demo = Demo("text-to-audio", place, HUBSEP_MODEL=str(published_folder(place / "tiny")), **limits)
    yield demo
    demo.close()


@pytest.fixture(params=[1280, 390], ids=["desktop", "telephone"])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    if chromium() is None or shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and chromedriver")
    pytest.importorskip("selenium", reason="needs selenium")
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(8_000), 8_000)
    return path


def plays(page: Page, card: str) -> None:
    """Plays a card's recording, and stops."""
    page.click(f"{card} button[aria-label='Play']")
    wait(lambda: bool(page.find(f"{card} button[aria-label='Pause']")), SOON)
    wait(lambda: bool(re.search(r"0:0[1-9]", page.text(f"{card} .timestamps, {card} time") or page.text(card))), SOON)


def asks_for(page: Page, word: str) -> None:
    """Waits until a word stands in the box."""
    wait(lambda: word in page.run("return document.querySelector('#queries textarea').value"), SOON)


def shows(page: Page, text: str, selector: str = "body") -> None:
    """Waits until a text can be read."""
    wait(lambda: text in page.text(selector), PATIENCE)


def downloaded(page: Page, selector: str, folder: Path) -> Path:
    """Clicks and waits for a whole file; while it comes, Chromium has two, of which the one of that name is empty."""
    before = set(folder.iterdir())
    page.click(selector)

    def new() -> list[Path]:
        return sorted(set(folder.iterdir()) - before)

    def whole() -> bool:
        return len(found := new()) == 1 and not found[0].name.startswith(".") and found[0].suffix != ".crdownload"

    wait(whole, SOON)
    return new()[0]


def test_a_person_separates_plays_and_downloads(separation: Demo, downloads: Path, width: int) -> None:
    page = Page(separation.url, downloads, width)
    try:
        page.click("#model input")
        page.click("#model li, ul.options li, li[role=option]", "audiosep-small")
        wait(lambda: "Licence CC-BY-4.0" in page.text(), PATIENCE)
        assert "commercial use allowed" in page.text()
        page.upload(STREET)
        wait(lambda: bool(page.find("#recording .waveform-container, #recording audio")), SOON)
        assert page.width() <= width, "a recording does not widen the page"
        for word in ("dog barking", "rain"):
            page.click(".suggestions button", word)
            asks_for(page, word)
        wait(lambda: bool(page.find("#recording .waveform-container, #recording audio")), SOON)
        page.click("#go")
        wait(lambda: "sounds. Play" in page.text("#status"), PATIENCE)
        headings = [element.text for element in page.find(".card h3") if element.is_displayed()]
        assert headings == ["street", "dog barking", "rain", "residual"]
        badges = [element.text for element in page.find(".badge") if element.is_displayed()]
        assert badges == ["the recording", "in this recording", "in this recording", "everything else"]
        pictures = page.run("return [...document.querySelectorAll('.card img')].map(each => each.naturalWidth)")
        assert min(pictures) > 800
        for number in range(4):
            plays(page, f"#result-{number}")
        file = downloaded(page, "#result-1 [aria-label='Download'], #result-1 a[download] button", downloads)
        sound, rate = sf.read(file)
        assert (sound.shape, rate) == (sf.read(STREET)[0].shape, 44_100)
        with zipfile.ZipFile(downloaded(page, "#archive", downloads)) as archive:
            sources = [sf.read(io.BytesIO(archive.read(name)))[0] for name in archive.namelist()]
        assert np.abs(sum(sources) - sf.read(STREET)[0]).max() < 1e-6, "they add up, to the last of 24 bits"
        assert page.width() <= width, "nothing sticks out"
        assert page.errors() == []
    finally:
        page.close()


def test_a_model_with_sources_of_its_own_takes_no_queries(separation: Demo, downloads: Path) -> None:
    page = Page(separation.url, downloads)
    try:
        page.click("button", "A band and a voice")
        wait(lambda: "no commercial use" in page.text(), PATIENCE)
        wait(lambda: not any(element.is_displayed() for element in page.find("#queries")), SOON)
        assert "always gives: vocals, accompaniment" in page.text()
        page.click("#go")
        wait(lambda: "sounds. Play" in page.text("#status"), PATIENCE)
        headings = [element.text for element in page.find(".card h3") if element.is_displayed()]
        assert headings == ["song", "vocals", "accompaniment", "residual"]
        assert page.errors() == []
    finally:
        page.close()


def test_wrong_files_are_explained(separation: Demo, downloads: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.wav"
    wrong.write_text("no recording")
    long = tmp_path / "long.wav"
    sf.write(long, np.zeros(21 * 8_000), 8_000)
    page = Page(separation.url, downloads)
    try:
        page.click("#go")
        wait(lambda: "There is no recording yet" in page.text(), PATIENCE)
        for path, reason in ((wrong, "This file cannot be used"), (long, "longer than 20 seconds")):
            page.upload(path)
            page.run("document.querySelector('#queries textarea').value = ''")
            page.click(".suggestions button", "rain")
            wait(lambda: bool(page.find("#recording button[aria-label='Clear']")), SOON)
            page.click("#go")
            shows(page, reason, "#status")
            time.sleep(12)  # longer than a message in the corner stays
            assert reason in page.text("#status")
            assert "Error" not in page.text("#status")
            assert "Ready." not in page.text("#status")
    finally:
        page.close()


def visitor(demo: Demo, **options: Any) -> Any:
    """Somebody without a browser, who waits as patiently as one."""
    import gradio_client

    return gradio_client.Client(demo.url, verbose=False, httpx_kwargs={"timeout": PATIENCE}, **options)


def ask(client: Any, path: Path, queries: str = "dog barking") -> list[dict[str, Any]]:
    """Separates with the tiny model."""
    asked = client.submit(handle_file(path), "own", queries, True, api_name="/separate")
    return list(asked.result(timeout=PATIENCE))


def test_a_crowd_with_bad_files_among_them(separation: Demo, short: Path, tmp_path: Path) -> None:
    """20 at once, every fifth with a file that is none: the others get theirs, in bounded memory."""
    wrong = tmp_path / "wrong.wav"
    wrong.write_bytes(b"RIFF" + bytes(2_000))
    clients = [visitor(separation, download_files=False) for _ in range(20)]
    ask(clients[0], short)
    before = separation.peak_mb()

    def one(number: int) -> str:
        try:
            return str([sound["label"] for sound in ask(clients[number], wrong if number % 5 == 0 else short)])
        except Exception as error:
            return str(error)

    with ThreadPoolExecutor(20) as crowd:
        answers = list(crowd.map(one, range(20)))
    for number, answer in enumerate(answers):
        assert ("This file cannot be used" if number % 5 == 0 else "['dog barking', 'residual']") in answer
    assert separation.process.poll() is None
    grown = separation.peak_mb() - before
    assert grown < 200, f"{grown:.0f} MiB"
    assert "Traceback" not in separation.said()


def test_what_is_not_there_is_said_to_be_not_there(separation: Demo, downloads: Path, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    sf.write(silence, np.zeros(8_000), 8_000)
    page = Page(separation.url, downloads)
    try:
        page.upload(silence)
        page.click(".suggestions button", "rain")
        wait(lambda: bool(page.find("#recording button[aria-label='Clear']")), SOON)
        page.click("#go")
        shows(page, "Probably not in this recording: rain.")
        assert "probably not in this recording" in page.text(".badge.no")
    finally:
        page.close()


def test_a_program_gets_label_score_and_file_of_each_sound(separation: Demo, short: Path) -> None:
    mixture = sf.read(short)[0]
    sounds = ask(visitor(separation), short, "dog barking, rain")
    assert [set(sound) for sound in sounds] == [{"label", "score", "file"}] * 3
    assert [sound["label"] for sound in sounds] == ["dog barking", "rain", "residual"]
    assert all(0 <= sound["score"] <= 1 for sound in sounds[:2])
    assert sounds[2]["score"] is None
    assert np.abs(sum(sf.read(sound["file"])[0] for sound in sounds) - mixture).max() < 1e-6
    assert "<" not in str(ask(visitor(separation, download_files=False), short)), "no HTML"


def test_the_sound_of_a_video_is_taken(separation: Demo, downloads: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs av: pip install 'hubsep[video]'")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        picture, sound = film.add_stream("mpeg4", rate=10), film.add_stream("aac", rate=16_000)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            film.mux(picture.encode(av.VideoFrame(64, 48, "yuv420p")))
        noise = 0.1 * np.random.default_rng(0).standard_normal((1, 16_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        film.mux(sound.encode(frame))
        for stream in (picture, sound):
            film.mux(stream.encode(None))
    assert [each["label"] for each in ask(visitor(separation), path)] == ["dog barking", "residual"]
    page = Page(separation.url, downloads)
    try:
        wait(lambda: bool(page.find("#video input[type=file]")), SOON)
        page.find("#video input[type=file]")[0].send_keys(str(path))
        wait(lambda: "film" in page.text("#video"), SOON)
        page.click(".suggestions button", "rain")
        page.click("#go")
        wait(lambda: "sounds. Play" in page.text("#status"), PATIENCE)
        assert "film" in [element.text for element in page.find(".card h3")]
    finally:
        page.close()


def test_too_many_are_told_so(separation: Demo, short: Path) -> None:
    clients = [visitor(separation, download_files=False) for _ in range(2)]
    file = handle_file(short)
    jobs = [clients[number % 2].submit(file, "own", "rain", False, api_name="/separate") for number in range(40)]
    answers = []
    for job in jobs:
        try:
            answers.append(str([sound["label"] for sound in job.result(timeout=PATIENCE)]))
        except Exception as error:
            answers.append(str(error).lower())
    assert sum(answer == "['rain']" for answer in answers) >= 20
    assert any("queue" in answer and "full" in answer for answer in answers)


def status_of(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_other_file_is_served(separation: Demo, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    places = [
        "/etc/passwd",
        "/proc/self/environ",
        str(secret),
        str(ROOT / "spaces/separation/app.py"),
        str(ROOT / "setup.py"),
    ]
    for place in [*places, "..%2f..%2f..%2fetc%2fpasswd", "examples/../app.py"]:
        assert status_of(f"{separation.url}/gradio_api/file={place}") in (403, 404), place
    assert status_of(f"{separation.url}/gradio_api/file={ROOT / 'spaces/separation/examples/talk.wav'}") == 200


def test_uploads_are_bounded_and_addresses_are_not_fetched(separation: Demo) -> None:
    border = "border"
    head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'.encode()
    body = head + bytes(3 * 2**20) + f"\r\n--{border}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
    assert status_of(f"{separation.url}/gradio_api/upload", body, **kind) == 413
    half = head + bytes(3 * 2**19)
    assert status_of(f"{separation.url}/gradio_api/upload", half + f"\r\n--{border}--\r\n".encode(), **kind) == 200
    twice = half + b"\r\n" + half + f"\r\n--{border}--\r\n".encode()
    assert status_of(f"{separation.url}/gradio_api/upload", twice, **kind) == 413, "the sum counts, not each file"
    join = f"{separation.url}/gradio_api/queue/join"
    for length, status in ((1_000_000, 413), (100_000, 400), (65, 400)):
        asks = json.dumps({"data": [], "fn_index": 0, "session_hash": "x" * length}).encode()
        assert status_of(join, asks, **{"Content-Type": "application/json"}) == status
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    inside = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=inside.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{inside.server_port}/a.wav"
    for path in (address, "/etc/passwd"):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "own", "rain", False]
        asks = json.dumps({"data": data}).encode()
        status_of(f"{separation.url}/gradio_api/call/separate", asks, **{"Content-Type": "application/json"})
    time.sleep(3)
    inside.shutdown()
    assert asked == []
    assert separation.process.poll() is None


def test_a_person_makes_a_sound(generation: Demo, downloads: Path, width: int) -> None:
    page = Page(generation.url, downloads, width)
    try:
        page.click(".suggestions button", "rain")
        tops = [slider.rect["y"] for slider in page.find("input[type=range]") if slider.is_displayed()]
        assert width < 500 or tops[0] == tops[1], "sliders of a row stand at one height"
        page.click("#go")
        wait(lambda: "Made with seed" in page.text("#status"), PATIENCE)
        plays(page, "#result-0")
        file = downloaded(page, "#result-0 [aria-label='Download'], #result-0 a[download] button", downloads)
        assert sf.info(file).duration == pytest.approx(3, abs=0.01)
        assert page.width() <= width
        assert width > 500 or page.find("#go")[0].rect["x"] < 12, "margins are narrow on a telephone"
        assert page.errors() == []
    finally:
        page.close()


def test_candidates_seeds_and_recordings(generation: Demo, short: Path) -> None:
    from_words = "nothing: make it of words alone"
    client = visitor(generation)

    def make(
        prompt: str, path: Path | None = None, kind: str = from_words, count: int = 1, seed: int = 7
    ) -> list[Any]:
        heard = None if path is None else handle_file(path)
        found = client.predict(prompt, "", 0.5, 2, count, seed, heard, kind, 0.5, api_name="/generate")
        assert all(set(sound) == {"label", "score", "file"} for sound in found)
        return [sound["file"] for sound in found]

    once, again, other = (sf.read(make("rain", seed=seed)[0])[0] for seed in (7, 7, 8))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert len(make("rain", count=3)) == 3
    going_on = sf.read(make("rain", short, "its end: let it go on")[0])[0]
    assert len(going_on) == 24_000, "one second and half a second more"
    assert len(make("rain", short, "all of it: vary it", count=2)) == 2
    with pytest.raises(Exception, match="Say what is to be heard"):
        make(" ")
    with pytest.raises(Exception, match="at most 300"):
        make("rain " * 100)
    with pytest.raises(Exception, match=r"from 1 to 4, got 64|greater than maximum value 4"):
        make("rain", count=64)
