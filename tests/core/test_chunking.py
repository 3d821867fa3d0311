# SPDX-License-Identifier: Apache-2.0
"""Overlap-add: what must hold for every length, segment, overlap, context, block size and batch size."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubsep.chunking import Segments, overlap_add_many
from hubsep.errors import AudioError
from hubsep.pipelines.separation.offsets import steady_offset, without_offset


def noise(channels: int, samples: int, seed: int = 0) -> Tensor:
    return torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def cut(waveform: Tensor, block: int) -> list[Tensor]:
    return list(waveform.split(block, dim=1))


def identity(mixture: Tensor) -> Tensor:
    return torch.stack([mixture, -0.5 * mixture], dim=1)


def separated(blocks: Iterable[Tensor], process, segments: Segments, **options) -> Iterator[Tensor]:
    """The blocks of one recording."""
    for _, sources, _ in overlap_add_many([blocks], process, segments, **options):
        yield sources


def joined(waveform: Tensor, process, segments: Segments, block: int = 1_000, **options) -> Tensor:
    return torch.cat(list(separated(cut(waveform, block), process, segments, **options)), dim=-1)


@st.composite
def segmentations(draw: st.DrawFn) -> Segments:
    samples = draw(st.integers(1, 60))
    overlap = draw(st.integers(0, samples - 1))
    return Segments(samples, overlap, draw(st.integers(0, overlap // 2)))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    segments=segmentations(),
    samples=st.integers(1, 400),
    channels=st.integers(1, 3),
    block=st.integers(1, 500),
    batch_size=st.integers(1, 5),
)
def test_identity_is_exact(segments: Segments, samples: int, channels: int, block: int, batch_size: int):
    mixture = noise(channels, samples)
    sources = joined(mixture, identity, segments, block, batch_size=batch_size)
    assert sources.shape == (2, channels, samples)
    assert (sources[0] - mixture).abs().max() <= 1e-6
    assert (sources[1] + 0.5 * mixture).abs().max() <= 1e-6


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    extra=st.integers(1, 50),
    overlap=st.integers(10, 40),
    samples=st.integers(1, 400),
    batch_size=st.integers(1, 4),
)
def test_local_model_gives_the_same_chunked_as_whole(extra: int, overlap: int, samples: int, batch_size: int):
    model = local_model(radius=5)
    mixture = noise(2, samples)
    whole = model(mixture[None])[0]
    segments = Segments(overlap + extra, overlap, context=5)
    chunked = joined(mixture, model, segments, batch_size=batch_size)
    assert (chunked - whole).abs().max() <= 1e-5


def local_model(radius: int):
    """Two layers whose output depends on `radius` samples to either side, with zeros assumed outside."""
    kernel = torch.randn(4, 1, 2 * radius - 1, generator=torch.Generator().manual_seed(1)) / radius
    last = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2)) / 4

    @torch.no_grad()
    def process(mixture: Tensor) -> Tensor:
        hidden = nn.functional.conv1d(mixture.flatten(0, 1)[:, None], kernel, padding="same").tanh()
        sources = nn.functional.conv1d(hidden, last, padding="same")
        return sources.unflatten(0, mixture.shape[:2]).transpose(1, 2)

    return process


def test_local_model_without_enough_context_differs():
    """The comparison above can fail: one sample of context less, and the cross-fade lets edge effects through."""
    model = local_model(radius=5)
    mixture = noise(1, 400)
    chunked = joined(mixture, model, Segments(60, 10, context=4))
    assert (chunked - model(mixture[None])[0]).abs().max() > 1e-4


@settings(max_examples=40, deadline=None)
@given(segments=segmentations(), samples=st.integers(1, 300), block=st.integers(1, 300), batch_size=st.integers(2, 6))
def test_block_and_batch_size_do_not_change_the_result(segments: Segments, samples: int, block: int, batch_size: int):
    mixture = noise(2, samples)
    reference = joined(mixture, identity, segments, samples)
    assert torch.equal(joined(mixture, identity, segments, block, batch_size=batch_size), reference)


@pytest.mark.parametrize("samples", [1, 2, 99, 100])
def test_a_recording_of_at_most_one_segment_is_processed_once_and_whole(samples: int):
    lengths = []

    def process(mixture: Tensor) -> Tensor:
        lengths.append(mixture.shape[-1])
        return identity(mixture)

    mixture = noise(1, samples)
    assert torch.equal(joined(mixture, process, Segments(100, 40, 10))[0], mixture)
    assert lengths == [samples]


@settings(max_examples=100, deadline=None)
@given(segments=segmentations(), samples=st.integers(1, 400))
def test_no_segment_is_padded_and_the_last_is_longer_than_the_overlap(segments: Segments, samples: int):
    lengths = []

    def process(mixture: Tensor) -> Tensor:
        lengths.extend([mixture.shape[-1]] * mixture.shape[0])
        return identity(mixture)

    joined(noise(1, samples), process, segments, batch_size=3)
    assert all(length == segments.samples for length in lengths[:-1])
    assert min(samples, segments.overlap + 1) <= lengths[-1] <= segments.samples
    assert (len(lengths) - 1) * segments.hop + lengths[-1] == samples


def test_start_and_end_of_the_recording_are_not_faded():
    segments = Segments(50, 20, 5)
    ones = torch.ones(1, 185)

    def edges_marked(mixture: Tensor) -> Tensor:
        marked = mixture.clone()
        marked[..., :5] = 7.0
        marked[..., -5:] = 9.0
        return marked[:, None]

    sources = joined(ones, edges_marked, segments)[0, 0]
    assert torch.equal(sources[:5], torch.full((5,), 7.0))
    assert torch.equal(sources[-5:], torch.full((5,), 9.0))
    assert torch.equal(sources[5:-5], torch.ones(175)), "the context of inner edges leaks into the result"


@settings(max_examples=100, deadline=None)
@given(segments=segmentations(), count=st.integers(2, 9))
def test_neighbouring_windows_sum_to_one(segments: Segments, count: int):
    """Where at most two segments meet, the weights alone already sum to one; dividing only mends rounding."""
    if 2 * segments.overlap > segments.samples:
        segments = Segments(2 * segments.samples, segments.overlap, segments.context)
    total = torch.zeros(segments.hop * (count - 1) + segments.samples)
    for index in range(count):
        start = index * segments.hop
        weights = segments.weights(segments.samples, first=index == 0, last=index == count - 1)
        total[start : start + segments.samples] += weights
    assert (total - 1).abs().max() <= 1e-6


def test_no_seam_where_segments_disagree():
    """Segments at different levels: the step at a border is spread over the overlap."""
    levels = iter([1.0, -1.0, 1.0, -1.0])

    def process(mixture: Tensor) -> Tensor:
        return torch.full_like(mixture, next(levels))[:, None]

    sources = joined(torch.zeros(1, 3_400), process, Segments(1_000, 200))[0, 0]
    assert sources.diff().abs().max() <= 2 * 1.6 / 200  # steepest slope of a raised cosine: pi / 2 times the mean


def test_samples_leave_as_soon_as_they_are_final():
    arrived = []

    def blocks():
        for index in range(10):
            arrived.append(index)
            yield noise(1, 100, index)

    stream = separated(blocks(), identity, Segments(100, 20))
    assert next(stream).shape == (2, 1, 80)
    assert arrived == [0, 1], "the first segment is final once one sample beyond it has arrived"


@pytest.mark.slow
def test_memory_does_not_grow_with_length():
    """A hundred times the audio, in blocks made on the fly: 400 MB would show."""

    def peak_after(count: int) -> int:
        blocks = (noise(2, 50_000, index) for index in range(count))
        total = sum(s.shape[-1] for s in separated(blocks, identity, Segments(40_000, 8_000, 2_000), batch_size=2))
        assert total == count * 50_000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    short = peak_after(10)
    assert peak_after(1_000) - short <= 20_000  # kB


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 200)), min_size=1, max_size=5),
    segments=segmentations(),
    batch_size=st.integers(1, 6),
)
def test_many_recordings_share_batches_but_nothing_else(
    lengths: list[tuple[int, int]], segments: Segments, batch_size: int
):
    recordings = [noise(channels, samples, seed) for seed, (channels, samples) in enumerate(lengths)]
    parts: list[list[Tensor]] = [[] for _ in recordings]
    shapes, ended = [], []

    def process(mixture: Tensor) -> Tensor:
        shapes.append(mixture.shape)
        return identity(mixture)

    opened = ([recording] for recording in recordings)
    for index, sources, last in overlap_add_many(opened, process, segments, batch_size=batch_size):
        parts[index].append(sources)
        ended += [index] if last else []
    assert ended == list(range(len(recordings)))
    assert all(shape[0] <= batch_size for shape in shapes)
    for recording, blocks in zip(recordings, parts, strict=True):
        assert (torch.cat(blocks, dim=-1)[0] - recording).abs().max() <= 1e-6


def test_equal_segments_of_several_recordings_run_in_one_batch():
    shapes = []

    def process(mixture: Tensor) -> Tensor:
        shapes.append(tuple(mixture.shape))
        return identity(mixture)

    recordings = ([noise(1, samples)] for samples in (50, 50, 50, 30, 30))
    list(overlap_add_many(recordings, process, Segments(100, 10), batch_size=2))
    assert shapes == [(2, 1, 50), (1, 1, 50), (2, 1, 30)]


def test_half_precision_results_are_merged_in_float32():
    mixture = noise(1, 300)
    sources = joined(mixture, lambda m: identity(m).half(), Segments(100, 30))
    assert sources.dtype == torch.float32
    assert (sources[0] - mixture).abs().max() <= 2**-11


def test_no_samples_in_no_samples_out():
    assert list(separated([], identity, Segments(10, 2))) == []
    assert list(separated([torch.zeros(1, 0)], identity, Segments(10, 2))) == []


@pytest.mark.parametrize(
    ("samples", "overlap", "context", "says"),
    [
        (0, 0, 0, "at least one"),
        (10, 10, 0, "0 to 9"),
        (10, -1, 0, "0 to 9"),
        (10, 4, 3, "0 to 2"),
        (10, 4, -1, "0 to"),
    ],
)
def test_impossible_segments_are_refused(samples: int, overlap: int, context: int, says: str):
    with pytest.raises(AudioError, match=says):
        Segments(samples, overlap, context)


def test_wrong_shapes_are_refused():
    segments = Segments(10, 2)
    with pytest.raises(AudioError, match="2 to 1 channels"):
        list(separated([noise(2, 5), noise(1, 5)], identity, segments))
    with pytest.raises(AudioError, match=r"\(channels, samples\)"):
        list(separated([torch.zeros(5)], identity, segments))
    with pytest.raises(AudioError, match=r"got \(1, 2, 9\)"):
        list(separated([noise(2, 9)], lambda mixture: mixture, segments))
    with pytest.raises(AudioError, match="got 0"):
        list(separated([noise(2, 9)], identity, segments, batch_size=0))


@pytest.mark.parametrize("block", [1_000, 4_000, 9_000])
def test_what_is_constant_is_taken_off_and_nothing_else(block: int) -> None:
    sound = noise(2, 9_000)
    for constant, expected in ((0.0, sound), (0.5, sound - sound[:, :4_000].mean(dim=1, keepdim=True))):
        told: list[torch.Tensor] = []
        blocks = iter((sound + constant).split(block, dim=1))
        found = torch.cat(list(without_offset(blocks, 4_000, 8_000, told.append)), dim=1)
        assert torch.equal(found, sound) if not constant else bool((found - expected).abs().max() < 1e-6)
        assert torch.equal(told[0].bool(), torch.full((2, 1), bool(constant)))
    assert not steady_offset(sound[:, :3_999] + 0.5, 8_000).any(), "less may be a part of a low tone"
