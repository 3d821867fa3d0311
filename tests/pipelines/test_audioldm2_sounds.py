# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2 with recordings, with sounds longer than its window, and on the command line, on tiny random weights."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import assert_same, log_spectrum_rounding
from safetensors.torch import load_file
from tiny_audioldm2 import CLOSE, LOA_SIZE, SAMPLES, tiny_audio_mae, tiny_components

from hubsep import AudioLDM2Pipeline
from hubsep.chunking import Segments
from hubsep.errors import AudioError, QueryError
from hubsep.mel import Level, MelSettings, mel_spectrogram
from hubsep.pipelines.audioldm2.codec import shares_of, spans_of
from hubsep.pipelines.audioldm2.conditions import along_circle, crossover
from hubsep.pipelines.audioldm2.long import Passage
from hubsep.pipelines.audioldm2.settings import Sampling
from hubsep.training.generators.stages import GenerationRecipe


GOLDEN = Path(__file__).parents[1] / "golden" / "audioldm2"
RATE = 16_000
FEW: dict[str, Any] = {"num_inference_steps": 2, "solver": "scheduler"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hum(samples: int, frequency: float = 440.0) -> Any:
    return (0.3 * np.sin(2 * np.pi * frequency / RATE * np.arange(samples)) + 0.01).astype(np.float32)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Without AudioMAE, as the published folders are."""
    made = AudioLDM2Pipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def hearing(pipe: Any) -> Any:
    made = AudioLDM2Pipeline(**{**pipe.components, "audio_mae": tiny_audio_mae()})
    made.set_progress_bar_config(disable=True)
    return made


def settings_16k() -> MelSettings:
    published = types.SimpleNamespace(sampling_rate=RATE, upsample_rates=[5, 4, 2, 2, 2], model_in_dim=64)
    return MelSettings.of(published)


def assert_logs(found: torch.Tensor, expected: torch.Tensor, n_fft: int) -> None:
    """(frames, bins): logarithms of the original's mel spectrogram; one of its two transforms is a product."""
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= log_spectrum_rounding(expected, terms=n_fft, power=False)).all()


def test_mel_spectrogram_of_the_original() -> None:
    golden = load_file(GOLDEN / "mel_16k_io.safetensors")
    for centred, name in ((True, "mel_centred"), (False, "mel_training")):
        found = mel_spectrogram(golden["waveform"][None], settings_16k(), centred=centred)[0]
        assert_logs(found, golden[name].T, 1_024)
    with pytest.raises(AudioError, match="more than 432 samples"):
        mel_spectrogram(torch.zeros(1, 432), settings_16k())


@pytest.mark.needs_shared
def test_mel_spectrogram_at_48_khz_and_the_original_reader(shared: Path) -> None:
    golden = load_file(shared / "golden/audioldm2/mel_48k_256/io.safetensors")
    published = types.SimpleNamespace(sampling_rate=48_000, upsample_rates=[6, 5, 4, 2, 2], model_in_dim=256)
    settings = MelSettings.of(published)
    assert_same(settings.filterbank().T, golden["mel_basis"], terms=8)  # a few operations on frequencies
    for centred, name in ((True, "mel_tacotron"), (False, "mel_train")):
        found = mel_spectrogram(golden["waveform"][None], settings, centred=centred)[0]
        assert_logs(found, golden[name].T, settings.n_fft)
    golden = load_file(shared / "golden/audioldm2/mel_16k_64/io.safetensors")
    waveform = Level.of(golden["waveform"]).apply(golden["waveform"])
    assert_same(waveform, golden["waveform_normalised"], terms=16)
    wanted = golden["fbank_wav_to_fbank"]
    filled = torch.nn.functional.pad(waveform, (0, len(wanted) * 160 - len(waveform)))
    found = mel_spectrogram(filled[None], settings_16k(), centred=True)[0, : len(wanted)]
    assert_logs(found, wanted, 1_024)


def test_one_rule_for_the_spectrograms_of_vocoders_recipes_and_classifiers() -> None:
    assert GenerationRecipe(hop_length=160, num_mels=64).mel == settings_16k()
    assert settings_16k() == MelSettings(RATE, 1_024, 160, 64, 0.0, 8_000.0)
    fields = types.SimpleNamespace(sampling_rate=44_100, hop_length=512, num_mels=48)
    assert MelSettings.of(fields) == MelSettings(44_100, 2_048, 512, 48, 20.0, 22_050.0)
    assert MelSettings.of(fields, hops=2, lowest=0.0) == MelSettings(44_100, 1_024, 512, 48, 0.0, 22_050.0)


def test_a_level_is_taken_and_given_back() -> None:
    waveform = torch.from_numpy(hum(400))
    level = Level.of(waveform)
    assert level.apply(waveform).abs().max() == pytest.approx(0.5, abs=1e-3)
    assert_same(level.undo(level.apply(waveform)), waveform, terms=16)
    assert Level.of(torch.zeros(10)).gain == 1.0


@pytest.mark.parametrize("frames", [5, 32, 33, 47, 60, 61, 89, 200])
def test_windows_cover_everything_once(frames: int) -> None:
    windows = Segments(32, 4)
    spans = spans_of(frames, windows)
    total = torch.zeros(frames * 2)
    for (start, stop), share in zip(spans, shares_of(spans, windows, 2), strict=True):
        assert stop - start == min(32, frames)
        total[start * 2 : stop * 2] += share
    assert (total - 1).abs().max() < 1e-6


def test_the_vocoder_works_the_same_in_pieces(pipe: Any) -> None:
    mel = torch.randn(1, 150, 8, generator=seeded())
    with torch.no_grad():
        whole = pipe._vocoded(mel)
    for size in (150, 64, 17):
        assert_same(torch.cat(list(pipe.vocode(mel.split(size, 1))), 1), whole, terms=64, layers=20)


def test_decoding_and_encoding_in_windows(pipe: Any) -> None:
    latents = torch.randn(1, 4, 75, 4, generator=seeded())
    mel = torch.cat(list(pipe.decode_mel(latents, pipe.windows())), dim=1)
    assert mel.shape == (1, 150, 8)
    first = pipe._decode_window(latents[:, :, :32])[:, : 2 * 28]  # before it fades
    assert_same(mel[:, : 2 * 28], first, terms=64, layers=20)
    assert pipe.encode_waveform(torch.from_numpy(hum(3_000))[None]).shape == (1, 4, 75, 4)
    assert pipe.decode_latents(latents, 2_990).shape == (1, 2_990)


def test_a_long_sound_is_made_in_windows(pipe: Any) -> None:
    made = pipe("rain", seconds=0.2, generator=seeded(), **FEW)
    assert made.audios.shape == (1, 3_200)
    sizes: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2]))
    try:
        pipe("rain", seconds=0.2, window_seconds=0.2, num_inference_steps=1, output_type="latent")
        pipe("rain", seconds=0.2, num_inference_steps=1, output_type="latent")
    finally:
        hook.remove()
    assert sizes == [80, 32, 32, 32]


def test_a_stream_goes_on_without_a_seam_or_an_end(pipe: Any) -> None:
    given: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
    blocks = list(pipe.stream("rain", seconds=0.25, generator=seeded(), **given))
    assert len(blocks) > 2
    whole = torch.cat(blocks)
    assert whole.shape == (4_000,)
    endless = pipe.stream("rain", generator=seeded(), **given)
    start = torch.cat([next(endless) for _ in range(2)])
    assert (start - whole[: len(start)]).abs().max() < CLOSE
    with pytest.raises(QueryError, match="one prompt can be streamed"):
        next(pipe.stream(["rain", "wind"]))


def test_a_window_begins_with_what_it_is_given(pipe: Any) -> None:
    conditions = pipe.encode_prompt("rain")
    carried = torch.randn(1, 4, 8, 4)
    for solver in ("scheduler", "dpm"):
        sampling = Sampling(num_inference_steps=3, solver=solver, guidance_scale=1.0)
        made = pipe._window(Passage(conditions, None, sampling), carried, 32)
        assert torch.equal(made[:, :, :8], carried)
        assert made.shape == (1, 4, 32, 4)
        assert made.isfinite().all()


def test_loa_of_a_recording(pipe: Any, hearing: Any) -> None:
    loa = hearing.encode_loa(torch.from_numpy(hum(1_600)))
    assert loa.shape == (1, 8, LOA_SIZE)
    assert not torch.equal(loa, hearing.encode_loa(torch.from_numpy(hum(1_600, 2_000))))
    with pytest.raises(QueryError, match="cannot be pooled to 7"):
        hearing.encode_loa(torch.from_numpy(hum(1_600)), tokens=7)
    with pytest.raises(QueryError, match="needs the component audio_mae"):
        pipe.encode_loa(torch.from_numpy(hum(1_600)))
    with pytest.raises(QueryError, match="pass prompt="):
        pipe.vary(hum(1_600), sampling_rate=RATE)


def test_variations(pipe: Any, hearing: Any) -> None:
    sound = hum(1_500)
    made = hearing.vary(sound, sampling_rate=RATE, variations=2, generator=seeded(), **FEW)
    assert made.audios.shape == (2, 1_500)
    assert made.sampling_rate == RATE
    assert np.abs(made.audios[0] - made.audios[1]).max() > 1e-3
    given: dict[str, Any] = {"sampling_rate": RATE, "num_inference_steps": 5, "guidance_scale": 1.0}
    waveform, level = pipe.read_recording(sound, RATE)
    coded = level.undo(pipe.decode_latents(pipe.encode_waveform(waveform[None]), 1_500)).numpy()
    near, far = (
        np.abs(pipe.vary(sound, "rain", strength=strength, generator=seeded(), **given).audios - coded).mean()
        for strength in (0.2, 1.0)
    )
    assert near < far
    for strength in (0.0, 1.5):
        with pytest.raises(AudioError, match="strength must be"):
            pipe.vary(sound, "rain", strength=strength, sampling_rate=RATE)


@pytest.mark.parametrize("samples", [300, 1_500])
def test_a_recording_goes_on(pipe: Any, hearing: Any, samples: int) -> None:
    sound = hum(samples)
    for who, prompt in ((pipe, "rain"), (hearing, "")):
        made = who.continue_audio(sound, prompt, seconds=0.1, sampling_rate=RATE, generator=seeded(), **FEW).audios
        assert made.shape == (1, samples + 1_600)
        untouched = max(0, samples - round(0.02 * RATE))
        assert np.abs(made[0, :untouched] - sound[:untouched]).max(initial=0) < 1e-6
        assert np.abs(made[0, samples:]).max() > 1e-3


def test_continuing_gives_gpt2_the_loa_there_is(hearing: Any) -> None:
    sound = torch.from_numpy(hum(round(0.5 * RATE)))
    conditions = hearing._conditions("rain", sound, going_on=True)
    known = hearing.encode_loa(sound)
    assert_same(conditions.loa[:, :3], known[:, :3], terms=64, layers=12)  # 0.5 of 1.28 s are 3 of 8 tokens
    assert (conditions.loa[:, 3] - known[:, 3]).abs().max() > 1e-3


def test_inpainting_leaves_the_rest(pipe: Any) -> None:
    sound = hum(2_400)
    made = pipe.inpaint(sound, 0.05, 0.1, "rain", sampling_rate=RATE, generator=seeded(), **FEW).audios
    assert made.shape == (1, 2_400)
    changed = np.abs(made[0] - sound) > 1e-6
    assert changed[900:1_500].mean() > 0.9
    assert not changed[:800].any()
    assert not changed[1_600:].any()
    for start, stop in ((0.1, 0.05), (-0.1, 0.1), (0.1, 0.2)):
        with pytest.raises(AudioError, match="has to lie in it"):
            pipe.inpaint(sound, start, stop, "rain", sampling_rate=RATE)


def test_super_resolution_leaves_low_frequencies(pipe: Any) -> None:
    sound = hum(2_400, 300.0)
    made = pipe.super_resolve(sound, 4_000.0, "rain", sampling_rate=RATE, generator=seeded(), **FEW).audios[0]
    difference = np.abs(np.fft.rfft(made - sound))
    frequencies = np.fft.rfftfreq(2_400, 1 / RATE)
    assert difference[frequencies < 3_500].max() < 1e-3
    assert difference[frequencies > 4_200].max() > 1e-1
    with pytest.raises(AudioError, match="at least one on either side"):
        pipe.super_resolve(sound, 8_000.0, "rain", sampling_rate=RATE)


def test_crossover_takes_each_its_frequencies() -> None:
    low, high = torch.from_numpy(hum(1_600, 500.0)), torch.from_numpy(hum(1_600, 5_000.0))
    assert (crossover(low + high, torch.zeros(1_600), 0.125) - low - 0.01).abs().max() < 1e-5
    assert (crossover(torch.zeros(1_600), low + high, 0.125) - (high - 0.01)).abs().max() < 1e-5


@pytest.mark.parametrize("away", [{}, {"unconditional": "generated"}, {"negative_prompt": "hum"}], ids=str)
def test_interpolation_ends_at_both_sounds(pipe: Any, away: dict[str, Any]) -> None:
    made = pipe.interpolate("rain", "a dog barks", (0.0, 0.5, 1.0), generator=seeded(), **away, **FEW).audios
    assert made.shape == (3, SAMPLES)
    for index, prompt in ((0, "rain"), (2, "a dog barks")):
        alone = pipe(prompt, generator=seeded(), **away, **FEW).audios[0]
        assert np.abs(made[index] - alone).max() < CLOSE


def test_interpolation_with_a_recording(pipe: Any, hearing: Any) -> None:
    recording = {"audio": hum(1_600), "sampling_rate": RATE}
    assert hearing.interpolate("rain", recording, (0.3,), **FEW).audios.shape == (1, SAMPLES)
    with pytest.raises(QueryError, match="weights must be"):
        pipe.interpolate("rain", "wind", (1.5,))
    with pytest.raises(QueryError, match="needs the component audio_mae"):
        pipe.interpolate("rain", recording, (0.5,))


def test_circle() -> None:
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    half = along_circle(first, second, torch.tensor([[0.5]]))
    assert half.norm() == pytest.approx(3.0)
    assert half[0, 0] == pytest.approx(half[0, 1].item())
    assert torch.allclose(along_circle(first, first, torch.tensor([[0.3]])), first)


def test_recordings_that_are_refused(pipe: Any) -> None:
    with pytest.raises(AudioError, match="2 channels"):
        pipe.vary(np.stack([hum(1_600)] * 2), "rain", sampling_rate=RATE)
    with pytest.raises(AudioError, match="at least 40 samples"):
        pipe.continue_audio(hum(30), "rain", sampling_rate=RATE)
    assert pipe.vary(hum(4_800), "rain", sampling_rate=48_000, **FEW).audios.shape == (1, 1_600)  # resampled


@pytest.mark.slow
def test_a_stream_of_rain_has_no_gaps() -> None:
    # the recordings it learned from end a little before a window does, and so did every window of a stream
    pipe = AudioLDM2Pipeline.from_pretrained("audioldm2-tiny")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    rain = torch.cat(list(pipe.stream("rain on a tin roof", seconds=12.0, generator=generator)))
    levels = rain.reshape(-1, 160).square().mean(dim=1).sqrt()[50:-50]
    assert levels.min() > 0.2 * levels.median()
