# SPDX-License-Identifier: Apache-2.0
"""Order and level of sources that have neither: known permutations and gains are found again."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding
from torch import Tensor

from hubsep.chunking import Merger, Segments, cut_batches
from hubsep.pipelines.separation.alignment import Aligner, channel_orders, spectra
from hubsep.pipelines.separation.levels import fit_gains, rescale
from hubsep.pipelines.separation.order import Arranger


RATE = 8_000
SEGMENT, OVERLAP = 16_000, 3_200
VOICES = [(110.0, 700.0), (190.0, 1_300.0), (150.0, 2_400.0)]  # pitch and formant in Hz


@functools.cache
def voice(pitch: float, formant: float, seconds: float, seed: int) -> np.ndarray:
    """A buzz with a wandering pitch, a formant and syllables; (samples,) at 0.1 RMS."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE

    def wander(lowest: float, highest: float, step: float) -> np.ndarray:
        points = np.arange(0, seconds + step, step)
        return np.interp(time, points, rng.uniform(lowest, highest, len(points)))

    phase = 2 * np.pi * np.cumsum(pitch * wander(0.9, 1.1, 0.25)) / RATE
    harmonics = np.arange(1, int(3_500 / pitch))
    strengths = np.exp(-(((harmonics * pitch - formant) / 400) ** 2)) + 0.3 / harmonics
    buzz = sum(strength * np.cos(k * phase) for k, strength in zip(harmonics, strengths, strict=True))
    waveform = buzz * wander(0.05, 1, 0.12)
    return 0.1 * waveform / np.sqrt(np.mean(waveform**2))


def conversation(speakers: int, seconds: float, pause: float, seed: int = 0) -> Tensor:
    """Speakers who talk for one to three seconds and pause, on their own; (speakers, 1, samples)."""
    rng = np.random.default_rng(seed)
    tracks = np.zeros((speakers, int(seconds * RATE)))
    for number in range(speakers):
        waveform = voice(*VOICES[number], seconds, 10 * seed + number)
        start = rng.uniform(0, 1)
        while start < seconds:
            end = start + rng.uniform(1, 3)
            part = slice(int(start * RATE), int(end * RATE))
            tracks[number, part] = waveform[part]
            start = end + rng.uniform(0.5, 1.5) * pause
    return torch.from_numpy(tracks[:, None]).float()


def segmented(samples: int) -> list[slice]:
    starts = range(0, max(1, samples - OVERLAP), SEGMENT - OVERLAP)
    return [slice(start, min(start + SEGMENT, samples)) for start in starts]


def separated(talk: Tensor, order: Tensor, seed: int, leak_db: float = -20.0) -> Tensor:
    """What a model might give: outputs in some order, each with a little of the others and of noise."""
    generator = torch.Generator().manual_seed(seed)
    leaked = talk + 10 ** (leak_db / 20) * (talk.sum(dim=0) - talk)
    return (leaked + 1e-3 * torch.randn(talk.shape, generator=generator))[order]


def found_orders(talk: Tensor, seed: int = 0) -> list[tuple[int, ...]]:
    """Which speaker is on each output after alignment, for the segments in which somebody talks."""
    generator = torch.Generator().manual_seed(seed)
    aligner = Aligner(RATE, OVERLAP)
    orders = []
    for number, part in enumerate(segmented(talk.shape[-1])):
        shuffled = torch.randperm(len(talk), generator=generator)
        found = shuffled[aligner(separated(talk[..., part], shuffled, number))]
        heard = talk[..., part].square().mean(dim=(1, 2)) > 1e-4
        orders.append(tuple(speaker if heard[speaker] else -1 for speaker in found.tolist()))
    return orders


def swaps(orders: list[tuple[int, ...]]) -> int:
    """How often a speaker comes back on another output than before."""
    last: dict[int, int] = {}
    count = 0
    for order in orders:
        for output, speaker in enumerate(order):
            if speaker >= 0:
                count += last.get(speaker, output) != output
                last[speaker] = output
    return count


@pytest.mark.parametrize("speakers", [2, 3])
@pytest.mark.parametrize("pause", [0.3, 2.0, 6.0])
def test_speakers_stay_on_their_outputs(speakers: int, pause: float):
    orders = found_orders(conversation(speakers, 90, pause, seed=speakers))
    assert sum(any(speaker >= 0 for speaker in order) for order in orders) > 20
    assert swaps(orders) == 0


def test_the_overlap_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch):
    """The test above can fail: without memory, a pause as long as the overlap loses who was where."""
    talk = conversation(2, 90, 6.0, seed=2)
    monkeypatch.setattr("hubsep.pipelines.separation.alignment.MEMORY_LIMIT", 0.0)
    assert swaps(found_orders(talk)) > 2


def test_the_overlap_tells_apart_what_sounds_alike():
    """Two voices of one timbre: memory knows nothing, the waveforms do."""
    talk = torch.from_numpy(np.stack([voice(*VOICES[0], 30, seed) for seed in (1, 2)])[:, None]).float()
    assert swaps(found_orders(talk)) == 0


def test_the_first_segment_keeps_its_order_and_silence_changes_nothing():
    aligner = Aligner(RATE, OVERLAP)
    talk = conversation(2, 4, 0.3)
    silence = torch.zeros(2, 1, SEGMENT)
    for segment in (silence, talk[..., :SEGMENT], silence, silence):
        assert aligner(segment).tolist() == [0, 1]
    assert aligner(separated(talk[..., :SEGMENT], torch.tensor([1, 0]), 0)).tolist() == [1, 0]


def test_level_and_short_segments_do_not_matter():
    talk = conversation(2, 30, 2.0, seed=4)
    expected = found_orders(talk)
    assert swaps(expected) == 0
    aligner = Aligner(RATE, OVERLAP)
    for samples in (SEGMENT, 100, 1):
        assert sorted(aligner(talk[..., :samples]).tolist()) == [0, 1]
    aligner = Aligner(RATE, OVERLAP)
    generator = torch.Generator().manual_seed(0)
    for number, part in enumerate(segmented(talk.shape[-1])):
        shuffled = torch.randperm(2, generator=generator)
        aligned = shuffled[aligner(1e-4 * separated(talk[..., part], shuffled, number))]
        heard = talk[..., part].square().mean(dim=(1, 2)) > 1e-4
        assert tuple(speaker if heard[speaker] else -1 for speaker in aligned.tolist()) == expected[number]


def test_stereo_shares_one_order():
    talk = conversation(2, 60, 2.0, seed=5)
    panned = torch.cat(
        [talk * torch.tensor([1.0, 0.2])[:, None, None], talk * torch.tensor([0.1, 0.8])[:, None, None]], 1
    )
    assert swaps(found_orders(panned)) == 0


@pytest.mark.parametrize("delay", [0, 37])
def test_channels_of_a_segment_follow_the_first(delay: int):
    """Microphones apart: other levels, and 5 ms later."""
    talk = conversation(3, 8, 0.3, seed=6)[:, 0]
    channels = [talk, 0.3 * talk.roll(delay, -1), talk * torch.tensor([[0.2], [1.0], [0.5]])]
    wanted = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]])
    stereo = torch.stack([separated(c, order, 0) for c, order in zip(channels, wanted, strict=True)], dim=1)
    found = channel_orders(stereo, RATE)
    assert torch.equal(wanted.gather(1, found), wanted[:1].expand(3, -1))


def test_a_silent_channel_takes_any_order():
    talk = conversation(2, 4, 0.3)
    assert sorted(channel_orders(torch.cat([talk, torch.zeros_like(talk)], dim=1), RATE)[1].tolist()) == [0, 1]


def test_arranged_while_streaming():
    """Through the overlap-add: any block and batch size gives the same, and speakers stay."""
    talk = conversation(2, 40, 2.0, seed=7)
    mixture = talk.sum(dim=0)
    shuffles = torch.Generator().manual_seed(1)
    orders = [torch.randperm(2, generator=shuffles) for _ in segmented(mixture.shape[-1])]

    def run(block: int, batch_size: int) -> Tensor:
        numbers = iter(range(1_000))
        aligner, segments = Aligner(RATE, OVERLAP), Segments(SEGMENT, OVERLAP, OVERLAP // 4)
        merger, blocks = Merger(segments), []
        for batch in cut_batches([mixture.split(block, dim=-1)], segments, batch_size):
            for piece in batch:
                number = next(numbers)
                part = segmented(mixture.shape[-1])[number]
                sources = separated(talk[..., part], orders[number], number)
                blocks.append(merger.add(sources[aligner(sources)], last=piece.last))
        return torch.cat(blocks, dim=-1)

    whole = run(mixture.shape[-1], 1)
    for block, batch_size in [(1_000, 1), (7_777, 3)]:
        assert torch.equal(run(block, batch_size), whole)
    error = min((whole - talk).square().mean(), (whole.flip(0) - talk).square().mean())
    assert 10 * torch.log10(talk.square().mean() / error) > 15  # 20 dB of leakage; a swap of 1 s would leave 13 dB


def test_memory_does_not_grow():
    """What an aligner keeps after a thousand segments is as large as after two."""

    def kept(aligner: Aligner) -> int:
        values = [*vars(aligner).values(), *vars(vars(aligner)["_voices"]).values()]
        return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor))

    talk = conversation(2, 4, 0.3)[..., :SEGMENT]
    aligner = Aligner(RATE, OVERLAP)
    aligner(talk)
    aligner(talk)
    before = kept(aligner)
    assert before > 2 * OVERLAP * 4
    for _ in range(200):
        aligner(talk)
    assert kept(aligner) == before


def test_an_order_ends_with_its_recording():
    """The next recording keeps the order of its first segment, whatever the last one had on each output."""
    talk = conversation(2, 4, 0.3)[..., :SEGMENT]
    arranger = Arranger(RATE, OVERLAP)
    assert arranger.order(talk, last=False).tolist() == [0, 1]
    assert arranger.order(talk.flip(0), last=True).tolist() == [1, 0]
    assert arranger.order(talk.flip(0), last=True).tolist() == [0, 1]


def test_segments_know_their_recording_and_its_end():
    recordings = [[torch.zeros(1, n)] for n in (25, 10)]
    pieces = [piece for batch in cut_batches(recordings, Segments(10, 0), 2) for piece in batch]
    ends = [(piece.recording, piece.mixture.shape[-1], piece.last) for piece in pieces]
    assert ends == [(0, 10, False), (0, 10, False), (0, 5, True), (1, 10, True)]


def test_frames_are_those_of_the_waveform():
    powers, levels = spectra(torch.ones(2, 3, 2_000), RATE)
    assert powers.shape == (2, 3, 6, 257)
    assert torch.equal(levels, torch.ones(2, 3, 6))
    assert spectra(torch.ones(1, 5), RATE)[0].shape == (1, 1, 257)


def snr(reference: Tensor, estimate: Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


def test_gains_are_found_again():
    talk = conversation(3, 6, 0.3, seed=8)[:, 0]
    gains = torch.tensor([1e4, -3e3, 2.5e4])[:, None]
    estimates = talk / gains
    # outputs whose scales differ eightfold are drawn together a little, to 31 dB
    assert snr(talk.sum(dim=0), rescale(talk.sum(dim=0), estimates).sum(dim=0)) > 29
    even = rescale(talk.sum(dim=0), talk * -1e4)
    assert (even - talk).abs().max() <= 1e-4
    batch = torch.stack([talk, talk.flip(0)])
    assert torch.equal(rescale(batch.sum(dim=1), batch)[0], rescale(batch.sum(dim=1)[0], batch[0]))


@pytest.mark.parametrize("level_db", [-30, -50, -80])
def test_a_silent_output_stays_silent(level_db: float):
    """Noise far below, where the other output lacks something that noise could mend."""
    talk = conversation(1, 6, 0.3, seed=9)[:, 0]
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * 10 ** (level_db / 20) * torch.randn(talk.shape, generator=generator)
    found = rescale(talk[0] + 30 * noise[0] * (level_db < -50), 100 * torch.cat([talk, noise]))
    level = 10 * torch.log10(found[1].square().mean() / found[0].square().mean())
    assert level <= level_db + 3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), num_sources=st.integers(1, 5), samples=st.integers(1, 200), same=st.booleans())
def test_gains_are_finite_and_never_make_it_worse(seed: int, num_sources: int, samples: int, same: bool):
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(num_sources, samples, generator=generator) * 10 ** (
        torch.rand(num_sources, 1, generator=generator) * 8 - 4
    )
    sources = sources[:1].expand_as(sources) if same else sources
    mixture = torch.randn(samples, generator=generator)
    found = rescale(mixture, sources)
    assert torch.isfinite(found).all()
    # fitting cannot leave more than there was, but for float32: up to 200 samples of 5 sources are added up
    small = rounding(1.0, terms=200 * 5)
    assert (mixture - found.sum(dim=0)).norm() <= mixture.norm() * (1 + small)
    assert ((found * mixture).sum(dim=-1) >= -small * mixture.norm() * found.norm(dim=-1)).all()


def test_silence_has_no_gain():
    assert not rescale(torch.zeros(10), torch.zeros(2, 10)).any()
    assert not rescale(torch.ones(10), torch.zeros(2, 10)).any()
    assert not rescale(torch.zeros(10), torch.ones(2, 10)).any()
    gains = fit_gains(torch.ones(10), torch.stack([torch.ones(10), torch.zeros(10)]))
    assert gains.tolist() == [pytest.approx(1.0), 0.0]
