# SPDX-License-Identifier: Apache-2.0
"""The pipeline and the command with the music systems: the promises, whole recordings in pieces, sums of stems."""

from __future__ import annotations

import io
import re
import resource
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from promises_pipeline import PipelinePromises, audio, recording
from published_spleeter import golden_files, golden_io, write_folder
from rounding import PROMISE, TINY_MODEL, assert_same, rounding
from safetensors.torch import load_file
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_spleeter import TINY, tiny_spleeter

from hubsep.audio import open_audio
from hubsep.chunking import Segments, overlap_add_many
from hubsep.cli import main
from hubsep.conversion import convert
from hubsep.errors import AudioError, QueryError
from hubsep.pipelines import AudioSeparationPipeline, pipeline


PAGE = (Path(__file__).parents[2] / "docs" / "music.md").read_text(encoding="utf-8")
RATE = 44_100
FOUR: dict[str, Any] = {"stems": ["vocals", "drums", "hi-hat", "bass"], "overlap_samples": 0}
WIENER = {"wiener_filter": True}
NO_CODECS = pytest.mark.filterwarnings("ignore:the weights do not tell these")


class TestSpleeterPipeline(PipelinePromises):
    @staticmethod
    def build() -> tuple[Any, None]:
        return tiny_spleeter()[0], None


class TestMetaTasNetPipeline(PipelinePromises):
    # random weights make sources that have little in common with the mixture, so their gains are rough: 28 dB and more
    half_db = {torch.bfloat16: 20, torch.float16: 30}

    @staticmethod
    def build() -> tuple[Any, None]:
        return tiny_meta_tasnet(segment_samples=6_144, overlap_samples=1_536)[0], None


@pytest.mark.slow
class TestSurveyedMetaTasNetPipeline(PipelinePromises):
    half_db = TestMetaTasNetPipeline.half_db

    @staticmethod
    def build() -> tuple[Any, None]:
        small = {"num_stages": 1, "sampling_rate": 8_000, "generated": False}
        return tiny_meta_tasnet(**small, rescale=True)[0], None


def four(**fields: Any) -> AudioSeparationPipeline:
    return AudioSeparationPipeline(model=tiny_spleeter(**{**FOUR, **fields})[0], device="cpu")


@pytest.fixture(scope="module")
def separate() -> AudioSeparationPipeline:
    return four()


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Three quarters of a second of stereo, in 16 bits."""
    sf.write(tmp_path / "song.wav", recording(33_075, 2).T, RATE, subtype="PCM_16")
    return tmp_path / "song.wav"


def whole(model: Any, mixture: np.ndarray) -> np.ndarray:
    """What the model makes of a recording in one go, as its authors' code does."""
    with torch.no_grad():
        return model(torch.from_numpy(mixture)[None]).sources[0].numpy()


@pytest.mark.parametrize("options", [{}, {"separation_exponent": 1.0, "extension_stem": "bass"}, WIENER], ids=str)
def test_pieces_give_what_the_whole_gives_however_they_are_cut(options: dict[str, Any]):
    """Lengths at, before and behind the edges of the network's segments of 8192 samples."""
    two = {**FOUR, "stems": ["vocals", "bass"]}
    separate = four(**two)
    expected_of = tiny_spleeter(**two, **options, **({"mask_extension": "stem"} if len(options) > 1 else {}))[0]
    for samples in (1, 8_192 - 512, 8_192 + 384 - 512, 8_192 + 385 - 512, 22_000):
        mixture = recording(samples, 2, seed=samples)
        expected = whole(expected_of, mixture)
        cuts: list[dict[str, Any]] = [{}, {"segment_s": 0.4, "batch_size": 3}]
        for cut in cuts:
            found = audio(separate(mixture, sampling_rate=RATE, model_options=options, **cut))
            assert_same(found, expected, **TINY_MODEL, peak=1.0)


@NO_CODECS
@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("tiny", {}),
        ("tiny_average", {"mask_extension": "average"}),
        ("tiny_exp1", {"separation_exponent": 1}),
        ("tiny_mwf", WIENER),
    ],
)
def test_the_pipeline_gives_the_waveforms_of_the_original(case: str, options: dict[str, Any], shared: Path):
    folder = shared / "golden" / "spleeter"
    separate = AudioSeparationPipeline(model=convert("spleeter", folder / "ckpt", **TINY), device="cpu")
    golden = load_file(folder / f"io_{case}.safetensors")
    found = audio(
        separate(golden["waveform"].T.numpy(), sampling_rate=RATE, overlap_s=0, model_options=options, segment_s=0.2)
    )
    for stem, name in zip(found, ("vocals", "accompaniment"), strict=True):
        assert_same(stem, golden[f"est.{name}"].T, **TINY_MODEL)


@NO_CODECS
def test_overlapping_segments_agree_but_for_what_their_edges_know(tmp_path: Path):
    """The golden weights, random as they are: cross-faded segments are 13 dB from the whole; real nets are nearer."""
    model = convert("spleeter", write_folder(tmp_path / "2stems", golden_files()), **TINY)
    mixture = golden_io("tiny")["waveform"].numpy()
    mixture = np.concatenate([mixture] * 4, axis=1)
    separate = AudioSeparationPipeline(model=model, device="cpu")
    exact = audio(separate(mixture, sampling_rate=RATE, overlap_s=0))
    faded = audio(separate(mixture, sampling_rate=RATE, segment_s=0.35, overlap_s=0.1))
    assert np.abs(exact - whole(model, mixture)).max() <= 2e-6
    assert 10 * np.log10(np.square(exact).sum() / np.square(exact - faded).sum()) > 8
    assert np.abs(np.diff(faded, axis=-1)).max() <= 1.2 * np.abs(np.diff(exact, axis=-1)).max()  # no clicks


def test_additive_segments_of_any_kind_add_up():
    mixture = torch.from_numpy(recording(1_003, 2))
    for segments in (Segments(100, 30, additive=True, lead=50), Segments(64, 0, additive=True)):
        told: list[bool] = []

        def process(batch: torch.Tensor, last: bool, told: list[bool] = told, overlap: int = segments.overlap) -> Any:
            told += [last] * len(batch)
            taken = batch.clone()
            if not last and overlap:
                taken[..., -overlap:] = 0  # the next one brings it
            return taken[:, None]

        blocks = overlap_add_many([[mixture]], process, segments, batch_size=3)
        assert torch.equal(torch.cat([sources for _, sources, _ in blocks], dim=-1)[0], mixture)
        assert told == [False] * (len(told) - 1) + [True]
    with pytest.raises(AudioError, match="do not suit"):
        Segments(100, 30, lead=80)


class OnceOnly(io.RawIOBase):
    """A pipe: bytes that can be read once, and not sought in."""

    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


@pytest.mark.slow
def test_whole_recordings_are_surveyed_whatever_they_come_from(song: Path, tmp_path: Path):
    separate = four(**WIENER, stems=["vocals", "other"])
    called = separate(song)
    expected = audio(called)
    waveform, _ = sf.read(song, dtype="float32")
    assert_same(expected, whole(separate.model, np.ascontiguousarray(waveform.T)), **TINY_MODEL, peak=1.0)
    data = song.read_bytes()
    behind = io.BytesIO(b"something else" + data)
    behind.seek(len(b"something else"))
    with song.open("rb") as opened:
        for kind in (data, opened, OnceOnly(data), {"bytes": data, "path": None}, behind):
            assert np.array_equal(audio(separate(kind)), expected), type(kind)
    streamed = [audio(block) for block in separate.stream(OnceOnly(data))]
    assert len(streamed) > 3
    assert np.array_equal(np.concatenate(streamed, axis=-1), expected)
    written = separate.separate_file(song, tmp_path / "out", template="{name}/{stem}.flac", subtype="PCM_24")
    assert [file["path"].name for file in written] == ["vocals.flac", "other.flac"]
    for file, result in zip(written, called, strict=True):
        assert np.abs(sf.read(file["path"], dtype="float32")[0].T - result["audio"]).max() <= 2**-23
        assert file["score"] == result["score"]
    both = separate([song, song], batch_size=4)
    for one in both:
        assert_same(audio(one), expected, **TINY_MODEL, peak=1.0)


@pytest.mark.slow
def test_levels_of_a_whole_song_as_the_published_evaluation_finds_them():
    """One gain a channel and instrument for all of the song: what is left is at right angles to every source."""
    model = tiny_meta_tasnet(num_stages=2, overlap_samples=0)[0]
    separate = AudioSeparationPipeline(model=model, device="cpu", model_options={"rescale": True})
    mixture = recording(3 * model.config.segment_samples, 2)
    mixture[:, : model.config.segment_samples] *= 0.1  # a soft beginning
    sources = audio(separate(mixture, sampling_rate=16_000)).astype(np.float64)
    for channel in range(2):
        rest = mixture[channel] - sources[:, channel].sum(axis=0)
        cosines = sources[:, channel] @ rest / np.linalg.norm(sources[:, channel], axis=1) / np.linalg.norm(rest)
        assert np.abs(cosines).max() <= rounding(1.0, terms=mixture.shape[1])
    apart = separate(mixture[:1], sampling_rate=16_000)
    # sources of random weights are much alike, and gains of what is alike are exact to few digits
    assert np.abs(audio(apart)[:, 0] - sources[:, 0]).max() <= PROMISE * np.abs(mixture).max()
    short = mixture[:1, :4_000]
    in_one = model(torch.from_numpy(short)[None]).sources[0, :, 0].detach()
    free = audio(separate(short, sampling_rate=16_000, model_options={"normalise": True}, rescale=False))[:, 0]
    assert_same(free, in_one, **TINY_MODEL, peak=1.0)


def test_options_of_a_call_change_nothing_else(separate: AudioSeparationPipeline):
    mixture = recording(20_000, 2)
    before = audio(separate(mixture, sampling_rate=RATE))
    config = separate.model.config.to_dict()
    done: dict[str, np.ndarray] = {}

    def call(name: str, options: dict[str, Any]) -> None:
        done[name] = audio(separate(mixture, sampling_rate=RATE, model_options=options))

    cases: dict[str, dict[str, Any]] = {
        "as it is": {},
        "wide": {"num_bins": 192},
        "average": {"mask_extension": "average"},
        "full": {"extension_stem": "bass"},
    }
    threads = [threading.Thread(target=call, args=case) for case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(done["as it is"], before)
    assert separate.model.config.to_dict() == config
    above = {name: np.abs(np.fft.rfft(sources)[..., 7_500:].sum(axis=0)).mean() for name, sources in done.items()}
    mean = np.abs(np.fft.rfft(mixture)[..., 7_500:]).mean()
    assert above["as it is"] < 0.05 * mean  # 128 of 257 bins: 11 kHz, and 10,000 of 20,000 here, less what leaks
    assert above["as it is"] < above["wide"] < above["average"] * 1.01
    assert above["full"] == pytest.approx(mean, rel=1e-3)
    assert np.abs(done["full"].sum(axis=0) - mixture).max() <= 2e-6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stems": ["a", "b"]}, "'stems' is no option of this spleeter model; it takes num_bins"),
        ({"mask_extension": "ones"}, "mask_extension is 'ones'"),
        ({"num_bins": 1_000}, "num_bins is 1000"),
        ({"num_bins": "many"}, "num_bins"),
        ({"wiener_filter": "yes"}, "wiener_filter must be true or false"),
        ({"extension_stem": "flute"}, "must be one of vocals, drums, hi-hat, bass"),
    ],
)
def test_options_a_model_does_not_take(separate: AudioSeparationPipeline, options: dict[str, Any], says: str):
    with pytest.raises(QueryError, match=says):
        separate(recording(100), sampling_rate=RATE, model_options=options)


def test_stems_and_sums_of_them(separate: AudioSeparationPipeline, song: Path):
    vocals, drums, hats, bass = audio(separate(song))
    mixture = sf.read(song, dtype="float32")[0].T
    wanted = ["bass", "Drums + hi-hat", "mixture-vocals", "karaoke=mixture-vocals-bass"]
    results = separate(song, sources=wanted, residual=True)
    assert [r["label"] for r in results] == ["bass", "drums+hi-hat", "mixture-vocals", "karaoke", "residual"]
    found = audio(results)
    expected = [bass, drums + hats, mixture - vocals, mixture - vocals - bass]
    assert np.abs(found[:-1] - np.stack(expected)).max() <= 1e-6
    assert np.abs(found.sum(axis=0) - mixture).max() <= 1e-6
    assert np.array_equal(audio(separate(song, sources=",".join(wanted))), found[:-1])
    named = separate(song, sources={"beat": "drums+hi-hat"})
    assert [r["label"] for r in named] == ["beat"]
    assert np.array_equal(audio(named)[0], found[1])
    streamed = list(separate.stream(song, sources="vocals"))
    assert np.abs(np.concatenate([audio(b) for b in streamed], axis=-1)[0] - vocals).max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("wanted", ["vocals,karaoke=mixture-vocals", "drums+bass,rest=mixture-drums-bass"])
def test_what_is_cut_out_of_the_recording_and_the_rest_add_up_to_the_last_bit(
    separate: AudioSeparationPipeline, model: Path, wanted: str, subtype: str, tmp_path: Path
):
    sf.write("song.wav", 0.5 * recording(33_075, 2).T, RATE, subtype=subtype)
    separate.separate_file("song.wav", "out/song", template="{label}.wav", subtype=subtype, sources=wanted)
    for done in (0, command(model, "--stems", wanted, "--overwrite")):
        assert done == 0
        outputs = sorted(Path("out/song").glob("*.wav"))
        assert len(outputs) == 2
        total = sum(sf.read(path, dtype="int32")[0].astype(np.int64) for path in outputs)
        assert np.array_equal(total, sf.read("song.wav", dtype="int32")[0])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("flute", "'flute' is no sum of sources of this model, which separates vocals, drums, hi-hat, bass"),
        ("vocals+vocals", "each name once"),
        ("-vocals", "'mixture-vocals' for everything but vocals"),
        ("vocals drums", "no sum of sources"),
        ("vocals+", "no sum of sources"),
        ("vocals,,drums", "'' is no sum"),
        ([], "sources is empty"),
        (7, "must be a text"),
        ([7], "by texts"),
        ("drums,DRUMS", "asked for twice"),
        ("a=drums,a=bass", "asked for twice"),
    ],
)
def test_sums_that_are_none(separate: AudioSeparationPipeline, wanted: Any, says: str):
    with pytest.raises(QueryError, match=says.replace("+", r"\+")):
        separate(recording(100), sampling_rate=RATE, sources=wanted)


def test_speakers_cannot_be_chosen_by_name():
    speakers = AudioSeparationPipeline(model=tiny_conv_tasnet()[0], device="cpu")
    with pytest.raises(QueryError, match="not known beforehand"):
        speakers(recording(100), sampling_rate=8_000, sources="speaker 1")


def test_parts_of_a_recording(separate: AudioSeparationPipeline, song: Path, tmp_path: Path):
    mixture = sf.read(song, dtype="float32")[0].T
    expected = audio(separate(mixture[:, 11_025:22_050], sampling_rate=RATE))
    sf.write(tmp_path / "song.flac", mixture.T, RATE, subtype="PCM_16")
    part: dict[str, Any] = {"offset_s": 0.25, "duration_s": 0.25}
    kinds: list[Any] = [song, song.read_bytes(), tmp_path / "song.flac", {"array": mixture, "sampling_rate": RATE}]
    for kind in kinds:
        assert np.array_equal(audio(separate(kind, **part)), expected)
    with pytest.warns(UserWarning, match=r"ends 0\.75 s before the 1 s that were asked for"):
        rest = audio(separate(song, offset_s=0.5, duration_s=1))
    assert rest.shape[-1] == 11_025
    surveyed = audio(separate(song, model_options=WIENER, **part))
    cut = separate(mixture[:, 11_025:22_050], sampling_rate=RATE, model_options=WIENER)
    assert np.array_equal(surveyed, audio(cut))
    for offset in (0.75, 100):
        with pytest.raises(AudioError, match=r"but the recording is 0\.75 s long"):
            separate(song, offset_s=offset)
    refused: list[dict[str, Any]] = [{"offset_s": -1}, {"duration_s": float("nan")}, {"duration_s": 0}]
    for wrong in (*refused, {"offset_s": "1"}):
        with pytest.raises(AudioError, match="|".join(wrong)):
            separate(song, **wrong)
    with open_audio(song, duration_s=0.25) as reader:
        assert reader.claimed_samples == sum(block.shape[1] for block in reader.blocks(1_000)) == 11_025


def command(model: Path, *arguments: str) -> int:
    return main(["separate", "song.wav", "--model", str(model), "-o", "out", *arguments])


@pytest.fixture
def model(separate: AudioSeparationPipeline, song: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(song.parent)
    separate.save_pretrained(song.parent / "model")
    return song.parent / "model"


def test_the_command_people_coming_from_spleeter_type(model: Path, capsys: pytest.CaptureFixture[str]):
    form = ["--format", "mp3", "--bitrate", "256k", "--template", "{name}/{stem}.{ext}"]
    assert (
        command(model, "--stems", "vocals,karaoke=mixture-vocals", *form, "--offset", "0.25", "--duration", "0.5") == 0
    )
    written = sorted(path.name for path in Path("out/song").iterdir())
    assert written == ["karaoke.mp3", "separated.json", "vocals.mp3"]
    info = sf.info("out/song/vocals.mp3")
    assert (info.format, info.samplerate, info.channels) == ("MP3", RATE, 2)
    assert abs(info.frames - 22_050) <= 2 * 1_152
    # one frame holds 1152 samples: 0.5 s are 20 of them and what the encoder adds
    assert Path("out/song/vocals.mp3").stat().st_size == pytest.approx(256e3 / 8 * 0.55, rel=0.15)
    assert "song.wav: " not in capsys.readouterr().err
    assert command(model, "--stems", "vocals", "--duration", "9", "--plot", "--overwrite") == 0
    assert "ends 8.25 s before the 9 s that were asked for" in capsys.readouterr().err
    assert command(model, "--stems", "vocals", "--offset", "9", "--overwrite") == 2
    assert "--offset is 9 s, but song.wav is 0.75 s long" in capsys.readouterr().err


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_sample_formats_and_model_options_of_the_command(model: Path, subtype: str):
    assert command(model, "--subtype", subtype, "--set", "separation_exponent=1", "--set", "extension_stem=bass") == 0
    assert {sf.info(path).subtype for path in Path("out/song").glob("*.wav")} == {subtype}
    total = sum(sf.read(path, dtype="float32")[0] for path in Path("out/song").glob("*.wav"))
    # four files of 16 bits, each rounded by half a step
    assert np.abs(total - sf.read("song.wav", dtype="float32")[0]).max() <= 2.1 / 32_768


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--stems", "flute"], 2, "which separates vocals, drums, hi-hat, bass"),
        (["--set", "wiener=true"], 2, "'wiener' is no option of this spleeter model"),
        (["--bitrate", "fast", "--format", "mp3"], 2, "such as 256 or 256k, got 'fast'"),
        (["--offset", "-1"], 2, "'--offset'"),
        (["--template", "{name}.{ext}"], 2, "needs {label} or {stem}"),
        (["--stems", "vocals,Vocals=drums"], 2, "asked for twice"),
        (["--stems", "a b=vocals,a.b=drums"], 2, "would both be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_lines_that_cannot_be_followed(
    model: Path, arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
):
    assert command(model, *arguments) == status
    assert says in " ".join(capsys.readouterr().err.split())
    assert not list(Path("out").rglob("*.*"))


@pytest.mark.slow
def test_the_page_for_people_coming_from_spleeter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it says runs, with a model of few channels and a low rate under that name."""
    text = PAGE.split("## Coming from Spleeter")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    model = tiny_spleeter(sampling_rate=8_000, segment_frames=512, segment_samples=65_536, overlap_samples=0)[0]
    AudioSeparationPipeline(model=model, device="cpu").save_pretrained("spleeter-2stems")
    sf.write("song.mp3", np.resize(recording(RATE, 2), (2, 31 * RATE)).T, RATE)
    commands = [shlex.split(line, comments=True) for line in text.split("```bash\n")[1].split("```")[0].splitlines()]
    with pytest.warns(UserWarning, match="ends 59"):
        exec(compile(text.split("```python\n")[1].split("```")[0], "music.md", "exec"), {"pipeline": pipeline})
    assert main(commands[2][1:]) == 0
    written = {path.as_posix() for folder in ("out", "separated") for path in Path(folder).rglob("*.mp3")}
    names = ["out/song/vocals", "out/song/accompaniment", "separated/song/vocals", "separated/song/karaoke"]
    assert written == {f"{name}.mp3" for name in names}
    for setting in re.findall(r"`--set (\S+)`", text):
        assert setting.partition("=")[0] in model.config.call_options


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, WIENER], ids=str)
def test_memory_does_not_grow_with_the_length_of_a_song(options: dict[str, Any], tmp_path: Path):
    """Eight minutes after one: their two stems are 340 MB. The published frames, with few channels."""
    published = {"n_fft": 4_096, "segment_frames": 512, "num_bins": 1_024, "segment_samples": 520_192}
    separate = four(**published, stems=["vocals", "bass"])
    ten_seconds = recording(10 * RATE, 2).T

    def peak_after(minutes: int) -> int:
        path = tmp_path / f"{minutes}.wav"
        with sf.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
            for _ in range(minutes * 6):
                file.write(ten_seconds)
        separate.separate_file(path, tmp_path / "out", subtype="PCM_16", clip="clamp", model_options=options)
        assert sf.info(tmp_path / "out" / f"{minutes}.bass.wav").frames == minutes * 60 * RATE
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = peak_after(1)
    # kB; what the allocator keeps goes up and down by some 40 MB, measured with one to four minutes
    assert peak_after(8) - first <= 100_000
