# SPDX-License-Identifier: Apache-2.0
"""The layout of channels is part of a recording: read, kept and written, in the order of every codec and container."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from layouts import RATE, heard, read_by_av, tones, written_by_av
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.audio import Layout, open_audio, read_audio, write_audio
from hubsep.audio.chunks import caf_chunks
from hubsep.cli import main
from hubsep.errors import AudioError
from hubsep.pipelines import pipeline


LAYOUTS = ("3.0", "quad", "5.0", "5.1", "5.1(side)", "6.1", "7.1")
WRITTEN = [("wav", "PCM_16"), ("wav", None), ("rf64", None), ("w64", "PCM_24"), ("flac", None), ("caf", None),
           ("aiff", None), ("caf", "ALAC_16"), ("ogg", None), ("opus", None)]  # fmt: skip


@pytest.mark.parametrize(("ending", "subtype"), WRITTEN)
def test_every_channel_comes_back_from_every_container(ending: str, subtype: str | None, tmp_path: Path) -> None:
    for name in LAYOUTS:
        path = write_audio(
            tmp_path / f"a.{ending}", tones(Layout.named(name).speakers), RATE, layout=name, subtype=subtype
        )
        recording = read_audio(path)
        stated = "5.1" if name == "5.1(side)" and ending in ("ogg", "opus") else name  # they know one 5.1
        assert str(recording.layout) == stated
        assert heard(recording.waveform) == Layout.named(name).speakers


@pytest.mark.parametrize(("ending", "subtype"), WRITTEN)
def test_ffmpeg_hears_the_same_in_what_is_written(ending: str, subtype: str | None, tmp_path: Path) -> None:
    pytest.importorskip("av")
    for name in ("3.0", "5.1", "5.1" if subtype == "ALAC_16" else "7.1"):  # ALAC's 7.1 has other loudspeakers
        path = write_audio(
            tmp_path / f"a.{ending}", tones(Layout.named(name).speakers), RATE, layout=name, subtype=subtype
        )
        stated, speakers, waveform = read_by_av(path)
        assert (stated, speakers, heard(waveform)) == (name, Layout.named(name).speakers, speakers)


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("m4a", "aac"), ("aac", "aac"), ("mkv", "flac"), ("webm", "libopus"), ("opus", "libopus"), ("m4a", "alac"),
     ("mov", "pcm_s16le"), ("wav", "pcm_s16le"), ("w64", "pcm_s16le"), ("avi", "pcm_s16le"), ("flac", "flac"),
     ("aif", "pcm_s16be"), ("caf", "pcm_s16be"), ("oga", "flac")],
)  # fmt: skip
def test_what_ffmpeg_writes_is_read_as_it_reads_it(ending: str, codec: str, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / f"a.{ending}"
    for name in ("3.0", "5.1"):
        written_by_av(path, codec, name)
        recording = read_audio(path)
        assert heard(recording.waveform) == Layout.named(name).speakers
        assert str(recording.layout) == read_by_av(path)[0]


def test_eight_channels_of_a_video_do_not_end_the_process(tmp_path: Path) -> None:
    pytest.importorskip("av")
    written_by_av(tmp_path / "a.mkv", "flac", "7.1")
    recording = read_audio(tmp_path / "a.mkv")
    assert (str(recording.layout), heard(recording.waveform)) == ("7.1", Layout.named("7.1").speakers)


@pytest.mark.parametrize(
    ("tag", "speakers"),
    [(122, "FL FR SL SR FC LFE"), (124, "FC FL FR SL SR LFE"), (127, "FC FLC FRC FL FR SL SR LFE")],
)
def test_orders_of_core_audio(tag: int, speakers: str, tmp_path: Path) -> None:
    """In CAF and QuickTime alike; PyAV ends the process over the latter."""
    order = tuple(speakers.split())
    chan = struct.pack(">III", tag << 16 | len(order), 0, 0)
    path = write_audio(tmp_path / "a.caf", tones(order), RATE, subtype="PCM_16")
    with path.open("rb") as file:
        start = next(chunk for chunk in caf_chunks(file) if chunk.name == b"data").start - 12
    data = path.read_bytes()
    path.write_bytes(data[:start] + struct.pack(">4sq", b"chan", 12) + chan + data[start:])
    recording = read_audio(path)
    assert recording.layout is not None
    assert recording.layout.speakers == heard(recording.waveform)
    assert sorted(recording.layout.speakers) == sorted(order)
    if len(order) != 6:
        return
    pytest.importorskip("av")
    written_by_av(tmp_path / "a.mov", "pcm_s16le", "5.1")
    video = (tmp_path / "a.mov").read_bytes()
    at = video.index(b"chan") + 8
    (tmp_path / "a.mov").write_bytes(video[:at] + chan + video[at + 12 :])
    moved = read_audio(tmp_path / "a.mov")
    assert moved.layout == recording.layout
    assert sorted(heard(moved.waveform)) == sorted(Layout.named("5.1").speakers)
    written = ("FL", "FR", "FC", "LFE", "BL", "BR")  # is in the file, whatever the box says
    assert heard(moved.waveform) == tuple(written[order.index(speaker)] for speaker in recording.layout.speakers)


def wave_mask(path: Path) -> tuple[int, int, bytes]:
    """Tag, mask and the end of SubFormat of a WAVE file."""
    data = path.read_bytes()
    at = data.index(b"fmt ") + 8
    return (
        *struct.unpack("<H", data[at : at + 2]),
        *struct.unpack("<I", data[at + 20 : at + 24]),
        data[at + 28 : at + 40],
    )


@pytest.mark.parametrize("mask", [0, 0x4, 0x3, 0x600, 0x3F, 0x80000000, 0x1])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_masks_are_kept_even_odd_ones(mask: int, channels: int, tmp_path: Path) -> None:
    """As many bits as channels or not, centre alone, bits that mean nothing."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, 500)).astype(np.float32)
    write_audio(tmp_path / "a.wav", samples, RATE, layout=Layout(mask))
    assert wave_mask(tmp_path / "a.wav")[:2] == (0xFFFE, mask)
    recording = read_audio(tmp_path / "a.wav")
    assert recording.layout == Layout(mask)
    for ending, subtype, rounding in (("rf64", "FLOAT", 0), ("w64", "PCM_24", 2.0**-24)):
        path = write_audio(tmp_path / f"b.{ending}", samples, RATE, layout=recording.layout, subtype=subtype)
        again = read_audio(path)
        assert again.layout == Layout(mask)
        np.testing.assert_allclose(again.waveform, samples, atol=rounding)


def test_ambisonics_stay_ambisonics(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 500)).astype(np.float32)
    layout = Layout(tag=107 << 16 | 4)
    samples = np.round(samples * 2**15) / np.float32(2**15)
    for ending in ("wav", "rf64", "w64", "caf", "aiff"):
        path = write_audio(tmp_path / f"a.{ending}", samples, RATE, layout=layout, subtype="PCM_16")
        recording = read_audio(path)
        assert recording.layout == layout
        np.testing.assert_array_equal(recording.waveform, samples)
    assert wave_mask(tmp_path / "a.wav")[2] == bytes.fromhex("2107d3118644c8c1ca000000")


def test_what_nobody_states_is_not_guessed(tmp_path: Path) -> None:
    samples = tones(Layout.named("quad").speakers)
    for ending in ("wav", "rf64", "w64", "aiff", "caf", "au"):
        path = write_audio(tmp_path / f"a.{ending}", samples, RATE)
        assert open_audio(path).layout in (None, Layout(0))
    with sf.SoundFile(tmp_path / "plain.wav", "w", RATE, 4, "PCM_16", format="WAV") as file:
        file.write(samples.T)
    assert open_audio(tmp_path / "plain.wav").layout is None
    for ending, subtype in [("wav", "PCM_16"), ("flac", None), ("ogg", None), ("caf", "ALAC_16")]:
        for channels in (1, 2):
            path = write_audio(tmp_path / f"a.{ending}", samples[:channels], RATE, subtype=subtype)
            assert open_audio(path).layout is None


def test_layouts_that_a_codec_takes_for_another_are_refused(tmp_path: Path) -> None:
    for ending in ("ogg", "opus"):
        with pytest.raises(AudioError, match=r"takes 4 channels for FL\+FR\+BL\+BR, and these are 4.0"):
            write_audio(tmp_path / f"a.{ending}", tones(("FL", "FR", "FC", "BC")), RATE, layout="4.0")
    with pytest.raises(AudioError, match="6 channels"):
        write_audio(tmp_path / "a.wav", tones(("FL", "FR")), RATE, layout="5.1")
    with pytest.raises(AudioError, match="no layout 'surround'"):
        write_audio(tmp_path / "a.wav", tones(("FL", "FR")), RATE, layout="surround")
    with pytest.warns(UserWarning, match="AU has no place for the layout"):
        write_audio(tmp_path / "a.au", tones(("FL", "FR", "FC")), RATE, layout="3.0")
    recording = read_audio(write_audio(tmp_path / "a.flac", tones(("FL", "FR", "FC", "BC")), RATE, layout="4.0"))
    assert str(recording.layout) == "4.0"


def test_wave64_with_floats_and_a_mask_is_no_noise(tmp_path: Path) -> None:
    pytest.importorskip("av")
    written_by_av(tmp_path / "a.w64", "pcm_f32le", "5.1")
    recording = read_audio(tmp_path / "a.w64")
    assert (recording.subtype, str(recording.layout)) == ("FLOAT", "5.1")
    np.testing.assert_array_equal(
        recording.waveform, tones(Layout.named("5.1").speakers)[:, : recording.waveform.shape[1]]
    )


def test_a_second_of_seven_channels_does_not_end_the_process(tmp_path: Path) -> None:
    speakers = Layout.named("7.1").speakers
    recording = read_audio(write_audio(tmp_path / "a.ogg", tones(speakers, 3 * RATE), RATE, layout="7.1"))
    assert heard(recording.waveform) == speakers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network, _ = tiny_conv_tasnet(num_sources=1)
    network.save_pretrained(folder)
    return folder


def test_every_path_of_the_pipeline_keeps_the_layout(model: Path, tmp_path: Path) -> None:
    layout = Layout.named("5.1")
    source = write_audio(tmp_path / "a.ogg", tones(layout.speakers), RATE, layout=layout)
    separator = pipeline("audio-separation", model=model)
    options: Any = {"sources": "mixture", "residual": True, "segment_s": 0.1, "overlap_s": 0.02}
    (whole, residual), first = separator(source, **options), next(separator.stream(source, **options))
    assert (whole["layout"], residual["layout"], first[0]["layout"]) == (layout, layout, layout)
    assert heard(whole["audio"]) == layout.speakers
    for ending in ("ogg", "wav", "flac", "rf64"):
        results = separator.separate_file(source, tmp_path, template=f"{{label}}.{ending}", **options)
        recording = read_audio(results[0]["path"])
        assert (recording.layout, heard(recording.waveform)) == (layout, layout.speakers)
        assert read_audio(results[1]["path"]).layout == layout


@pytest.mark.parametrize("arguments", [[], ["--format", "flac"], ["--format", "wav", "--subtype", "PCM_16"]])
def test_the_command_keeps_the_layout(arguments: list[str], model: Path, tmp_path: Path) -> None:
    layout = Layout.named("5.1")
    source = write_audio(tmp_path / "a.ogg", tones(layout.speakers), RATE, layout=layout)
    command = ["separate", str(source), "--model", str(model), "--stems", "mixture", "-o", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu", *arguments]) == 0
    (path,) = (tmp_path / "out" / "a").glob("mixture.*")
    recording = read_audio(path)
    assert (recording.layout, heard(recording.waveform)) == (layout, layout.speakers)


def test_the_command_refuses_beforehand_what_a_codec_takes_for_another(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_audio(tmp_path / "a.flac", tones(("FL", "FR", "FC", "BC")), RATE, layout="4.0")
    command = ["separate", str(source), "--model", str(model), "--format", "ogg", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--format ogg: Vorbis takes 4 channels for" in " ".join(capsys.readouterr().err.split())
