# SPDX-License-Identifier: Apache-2.0
"""What every separation pipeline promises, whatever model is in it.

A system's test file says `class TestXPipeline(PipelinePromises): build = staticmethod(tiny_x)`, where `tiny_x()`
returns `(model, processor)`; `processor` is None for models that take no queries.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from rounding import TINY_MODEL, assert_same

from hubsep.errors import AudioError, QueryError
from hubsep.pipelines import AudioSeparationPipeline


def recording(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Tones that come and go over some noise, (channels, samples), peak below 1."""
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / 8_000
    frequency = generator.uniform(50, 1_500, (channels, 3, 1))
    tones = np.sin(2 * np.pi * frequency * time) * (np.sin(2 * np.pi * generator.uniform(0.5, 3, (3, 1)) * time) > 0)
    return (0.2 * tones.sum(axis=1) + 0.05 * generator.standard_normal((channels, samples))).astype(np.float32)


def audio(sources: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The waveforms of a result, (num_sources, channels, samples)."""
    return np.stack([source["audio"] for source in sources])


class PipelinePromises:
    """Inherit, and set `build`."""

    build: Any
    # the signal over what half precision changes: 54 and 72 dB for one rounding, 16 less for 40 in a row, and a margin
    half_db = {torch.bfloat16: 30, torch.float16: 40}

    @pytest.fixture
    def separate(self) -> AudioSeparationPipeline:
        model, processor = self.build()
        return AudioSeparationPipeline(model=model, processor=processor, device="cpu")

    @pytest.fixture
    def options(self, separate: AudioSeparationPipeline) -> dict[str, Any]:
        return {"queries": ["dog barking", "rain"]} if separate.model.config.is_text_queried else {}

    @pytest.fixture
    def rate(self, separate: AudioSeparationPipeline) -> int:
        return separate.model.config.sampling_rate

    @pytest.mark.parametrize(
        ("sampling_rate", "channels", "samples"),
        [(None, 1, 12_000), (None, 2, 7_001), (44_100, 2, 30_001), (11_025, 1, 7_777), (8_001, 1, 9_345)],
    )
    def test_output_has_the_rate_channels_and_length_of_the_input(
        self, separate, options, rate, sampling_rate, channels, samples
    ):
        mixture = recording(samples, channels)
        sources = separate(mixture, sampling_rate=sampling_rate or rate, residual=True, **options)
        for source in sources:
            of_queries = {"understood_as", "nearest"} if options and source["label"] != "residual" else set()
            assert set(source) - of_queries == {"label", "audio", "sampling_rate", "score"}
            assert source["audio"].shape == (channels, samples)
            assert source["audio"].dtype == np.float32
            assert source["sampling_rate"] == (sampling_rate or rate)
            assert 0 <= source["score"] <= 1
        assert [source["label"] for source in sources[:-1]] == list(
            options.get("queries", separate.model.config.source_names)
        )
        assert sources[-1]["label"] == "residual"
        assert np.abs(audio(sources).sum(axis=0) - mixture).max() <= 1e-6
        assert np.abs(audio(sources)[:-1]).max() > 1e-3, "the model returned next to nothing; this test shows little"

    @pytest.mark.parametrize("samples", [1, 2, 17, 100, 999])
    @pytest.mark.parametrize("sampling_rate", [None, 48_000, 1_000])
    def test_short_recordings(self, separate, options, rate, samples, sampling_rate):
        mixture = recording(samples, 2)
        sources = separate(mixture, sampling_rate=sampling_rate or rate, residual=True, **options)
        assert audio(sources).shape[1:] == (2, samples)
        assert np.abs(audio(sources).sum(axis=0) - mixture).max() <= 1e-6

    def test_stream_and_files_hold_what_a_call_returns(self, separate, options, rate, tmp_path: Path):
        mixture = recording(30_000, 2)
        sf.write(tmp_path / "street 雨.wav", mixture.T, rate * 2, subtype="FLOAT")
        options = {**options, "residual": True}
        called = separate(tmp_path / "street 雨.wav", **options)
        streamed = list(separate.stream(tmp_path / "street 雨.wav", **options))
        assert len(streamed) > 1
        assert np.array_equal(np.concatenate([audio(block) for block in streamed], axis=-1), audio(called))
        written = separate.separate_file(tmp_path / "street 雨.wav", tmp_path / "out", **options)
        assert [source["label"] for source in written] == [source["label"] for source in called]
        assert [source["score"] for source in written] == [source["score"] for source in called]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(s["path"].name for s in written)
        for source, file in zip(called, written, strict=True):
            samples, sampling_rate = sf.read(file["path"], dtype="float32", always_2d=True)
            assert sampling_rate == file["sampling_rate"] == rate * 2
            assert np.array_equal(samples.T, source["audio"])

    @pytest.mark.parametrize("sampling_rate", [None, 11_025])
    def test_a_constant_changes_nothing_but_the_residual(self, separate, options, rate, sampling_rate):
        rate = sampling_rate or rate
        pairs = recording(rate, 2)
        # no constant of its own: what decides is the first second or more, and of an odd number of samples one has no
        # partner, whose share of the mean, up to 7e-5 at 11,025 Hz, would be taken off along with the constant
        pairs[:, rate // 2] = 0
        mixture = np.stack([pairs, -pairs], axis=2).reshape(2, -1)
        constant = np.array([[0.1], [-0.2]], np.float32)
        expected = separate(mixture, sampling_rate=rate, residual=True, **options)
        found = separate(mixture + constant, sampling_rate=rate, residual=True, **options)
        # one step of float32 at 0.2 is 1.5e-8; what it grows to was measured: at most 7e-7
        assert np.abs(audio(found)[:-1] - audio(expected)[:-1]).max() <= 1e-4
        assert np.abs(audio(found).sum(axis=0) - mixture - constant).max() <= 1e-6
        for one, other in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)

    @pytest.mark.parametrize(("ending", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_24"), ("wav", "PCM_32")])
    def test_files_of_integers_add_up_to_the_last_bit(self, separate, options, rate, ending, subtype, tmp_path: Path):
        path = tmp_path / f"street.{ending}"
        sf.write(path, 0.3 * recording(9_000, 2).T.astype(np.float64), rate * 2, subtype=subtype)
        form = {"template": "{label}." + ending, "subtype": subtype}
        written = separate.separate_file(path, tmp_path / "out", residual=True, **form, **options)
        integers = [sf.read(file["path"], dtype="int32", always_2d=True)[0].astype(np.int64) for file in written]
        assert min(np.abs(source).max() for source in integers) > 0
        assert np.array_equal(sum(integers), sf.read(path, dtype="int32", always_2d=True)[0])

    def test_batches_give_what_singles_give(self, separate, options, rate):
        recordings = [recording(n, c, n) for n, c in [(13_000, 1), (13_000, 1), (9_000, 2), (21_000, 1), (13_000, 1)]]
        singles = [separate(mixture, sampling_rate=rate, **options) for mixture in recordings]
        batched = separate(recordings, sampling_rate=rate, batch_size=4, **options)
        for single, result in zip(singles, batched, strict=True):
            assert_same(audio(result), audio(single), **TINY_MODEL, peak=1.0)
            assert [s["score"] for s in result] == pytest.approx([s["score"] for s in single], abs=1e-4)

    def test_generators_are_read_as_results_are_taken(self, separate, options, rate):
        opened = []

        def recordings():
            for seed in range(3):
                opened.append(seed)
                yield {"array": recording(5_000, seed=seed), "sampling_rate": rate}

        results = separate(recordings(), **options)
        assert opened == []
        first = next(results)
        assert opened == [0]
        assert len([first, *results]) == 3

    def test_silence_stays_silence(self, separate, options, rate):
        silence = separate(np.zeros((2, 20_000), np.float32), sampling_rate=rate * 2, residual=True, **options)
        assert not audio(silence).any()
        assert [source["score"] for source in silence] == [0.0] * len(silence)
        half = recording(45_000)
        half[:, 20_000:] = 0
        assert not audio(separate(half, sampling_rate=rate, **options))[..., 35_000:].any()

    @pytest.mark.parametrize("shape", ["constant", "square", "impulse", "quiet"])
    def test_odd_signals_give_finite_sources(self, separate, options, rate, shape: str):
        mixture = {
            "constant": np.full((1, 9_000), 0.5),
            "square": np.sign(recording(9_000)),
            "impulse": np.eye(1, 9_000, 4_500),
            "quiet": recording(9_000) * 1e-6,
        }[shape].astype(np.float32)
        sources = audio(separate(mixture, sampling_rate=rate, residual=True, **options))
        assert np.isfinite(sources).all()
        assert np.abs(sources.sum(axis=0) - mixture).max() <= 1e-6

    def test_segments_leave_no_seam(self, separate, options, rate):
        """Steps between neighbouring samples where segments meet are like those anywhere else."""
        config = separate.model.config
        mixture = recording(8 * config.segment_samples)
        sources = audio(separate(mixture, sampling_rate=rate, **options))[:, 0]
        steps = np.abs(np.diff(sources, axis=-1))
        hop = config.segment_samples - config.overlap_samples
        phase = (
            np.arange(steps.shape[-1]) % hop
        )  # the first `overlap_samples` of each hop are shared, but for the start
        shared = (phase < config.overlap_samples) & (np.arange(steps.shape[-1]) >= hop)
        assert (steps[:, shared].max(axis=1) <= 1.2 * steps[:, ~shared].max(axis=1)).all()

    def test_threads_may_share_a_pipeline(self, separate, options, rate):
        recordings = [recording(2_000 + 217 * seed, seed=seed) for seed in range(16)]  # two a thread
        expected = [audio(separate(mixture, sampling_rate=rate, **options)) for mixture in recordings]
        before = dict(separate.__dict__)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda m: audio(separate(m, sampling_rate=rate, **options)), recordings))
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        assert separate.__dict__ == before

    def test_a_call_is_repeatable_and_touches_no_random_state(self, separate, options, rate):
        mixture = recording(9_000)
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        first = audio(separate(mixture, sampling_rate=rate, **options))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), states[1], strict=True))
        assert random.getstate() == states[2]
        assert np.array_equal(audio(separate(mixture, sampling_rate=rate, **options)), first)

    def test_a_call_changes_neither_input_nor_model(self, separate, options, rate):
        mixture = recording(9_000)
        copy = mixture.copy()
        weights = {name: tensor.clone() for name, tensor in separate.model.state_dict().items()}
        sources = separate(mixture, sampling_rate=rate, residual=True, **options)
        for source in sources:
            source["audio"][:] = 7.0
        assert np.array_equal(mixture, copy)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in separate.model.state_dict().items())

    def test_a_saved_pipeline_is_loaded_by_transformers(self, separate, options, rate, tmp_path: Path):
        separate.save_pretrained(tmp_path / "saved")
        assert not list((tmp_path / "saved").glob("*.py"))
        build: Any = transformers.pipeline  # its overloads know the tasks of transformers only
        loaded = build("audio-separation", model=str(tmp_path / "saved"), device="cpu")
        assert type(loaded) is AudioSeparationPipeline
        mixture = recording(9_000)
        expected = audio(separate(mixture, sampling_rate=rate, **options))
        # weights from a file lie elsewhere in memory, which changes the order of float32 sums
        assert_same(audio(loaded(mixture, sampling_rate=rate, **options)), expected, **TINY_MODEL, peak=1.0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_models_take_and_give_float32(self, separate, options, rate, dtype):
        mixture = recording(12_000)
        expected = audio(separate(mixture, sampling_rate=rate, **options))
        separate.model.to(dtype)
        found = audio(separate(mixture, sampling_rate=rate, **options))
        assert found.dtype == np.float32
        noise = np.square(found - expected).sum()
        assert 10 * np.log10(np.square(expected).sum() / noise) >= self.half_db[dtype]

    def test_progress_is_told_and_can_stop_the_call(self, separate, options, rate):
        told: list[tuple[int, int | None]] = []
        mixture = recording(5 * separate.model.config.segment_samples)
        separate(mixture, sampling_rate=rate, on_progress=lambda done, total: told.append((done, total)), **options)
        total = mixture.shape[-1]
        assert told == sorted(told)
        assert len(told) > 4
        assert told[-1] == (total, total)

        def stop(done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            separate(mixture, sampling_rate=rate, on_progress=stop, **options)

    def test_a_stopped_run_leaves_no_file(self, separate, options, rate, tmp_path: Path):
        def stop(done: int, total: int | None) -> None:
            if done == total:
                raise KeyboardInterrupt

        mixture = {"array": recording(20_000), "sampling_rate": rate}
        with pytest.raises(KeyboardInterrupt):
            separate.separate_file(mixture, tmp_path, on_progress=stop, **options)
        assert list(tmp_path.iterdir()) == []

    def test_models_that_go_wrong_are_not_listened_to(self, separate, options, rate):
        with torch.no_grad():
            for parameter in separate.model.parameters():
                parameter.fill_(torch.nan)
        with pytest.raises(ValueError, match="NaN"):
            separate(recording(9_000), sampling_rate=rate, **options)
        separate.model.train()
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            separate(recording(9_000), sampling_rate=rate, **options)

    def test_nothing_to_separate_is_an_error(self, separate, options):
        with pytest.raises(AudioError, match="empty"):
            separate([], **options)
        with pytest.raises(TypeError, match="unknown option sorce"):
            separate.stream("x.wav", sorce=1, **options)

    def test_queries_must_suit_the_model(self, separate, options, rate):
        wrong = {} if options else {"queries": "dog barking"}
        with pytest.raises(QueryError, match="pass queries" if options else "leave out the queries"):
            separate(recording(9_000), sampling_rate=rate, **wrong)

    def test_segments_must_suit_the_model(self, separate, options, rate):
        with pytest.raises(AudioError, match="smaller overlap_s"):
            separate(recording(9_000), sampling_rate=rate, segment_s=0.5, overlap_s=0.5, **options)
        too_short = (separate.model.config.minimum_samples - 1) / rate
        with pytest.raises(AudioError, match="at least"):
            separate(recording(9_000), sampling_rate=rate, segment_s=too_short, overlap_s=0, **options)
        with pytest.raises(AudioError, match="seconds"):
            separate(recording(9_000), sampling_rate=rate, segment_s=float("nan"), **options)


__all__ = ["PipelinePromises", "audio", "recording"]
