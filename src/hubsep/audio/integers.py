# SPDX-License-Identifier: Apache-2.0
"""Sources as files of integers hold them, so that they add up to the recording: the residual takes what rounding left.

Decisions: every source is rounded by itself, to the nearest step; then the residual is the recording less the rounded
ones. Where the recording is made of such steps itself, they add up to it exactly, to the last bit. What is cut out of
the recording, such as `mixture-vocals`, is rounded to the other side where it lies in the middle of two steps, so that
it and the vocals add up as well. A residual that rounding would push out of range leaves these steps to a source.
Formats with a codec that loses something keep no promise, and get what the model gave.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .writer import AudioWriter


def write_together(
    writers: Sequence[AudioWriter],
    sources: Sequence[NDArray[np.floating]],
    *,
    from_recording: Sequence[bool] | None = None,
    residual: bool = False,
) -> None:
    """Appends a block to the files of all sources of a recording.

    Args:
        writers: one for each source.
        sources: (channels, samples) each, full scale 1.
        from_recording: which of them hold the recording itself, less something; none by default.
        residual: whether the last one is the recording less all others.

    Raises:
        AudioError: as `AudioWriter.write` does.
    """
    bits = [writer.bits for writer in writers]
    for writer, block in zip(writers, in_steps(sources, bits, from_recording, residual=residual), strict=True):
        writer.write(block)


def in_steps(
    sources: Sequence[NDArray[np.floating]],
    bits: Sequence[int | None],
    from_recording: Sequence[bool] | None = None,
    *,
    residual: bool = False,
) -> Sequence[NDArray[np.floating]]:
    """Sources in steps of the files they are for.

    Args:
        sources: one block of each, (channels, samples).
        bits: of each file's integers, None for a file of another kind, whose block stays as it is.
        from_recording: which of them hold the recording itself, less something; none by default.
        residual: whether the last one is the recording less all others.

    Returns:
        Float64 where there are bits. What is beyond full scale stays beyond it; the residual counts it as cut off.
    """
    if all(width is None for width in bits):
        return sources
    cut_out = from_recording or [False] * len(sources)
    rounded = [
        source if width is None else _in_scale(_nearest(source, width, down=down), width)
        for source, width, down in zip(sources, bits, cut_out, strict=True)
    ]
    if not residual:
        return rounded
    rounded, width = rounded[:-1], bits[-1]
    held = [
        block if depth is None else _cut_off(block, depth) for block, depth in zip(rounded, bits[:-1], strict=True)
    ]
    rest = sources[-1].astype(np.float64)
    for source, block in zip(sources, held, strict=False):
        rest += source - block
    if width is None:
        return [*rounded, rest]
    rest = _nearest(rest, width, down=False)
    return [*rounded, _spread(rest, rounded, held, width) if set(bits) == {width} else rest]


def _nearest(source: NDArray[np.floating], bits: int, *, down: bool) -> NDArray[np.float64]:
    """The nearest steps; from the middle between two of them up or down."""
    full = 2.0 ** (bits - 1)
    steps = source.astype(np.float64) * full
    return (np.ceil(steps - 0.5) if down else np.floor(steps + 0.5)) / full


def _in_scale(block: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Full scale as the largest number there is; what is beyond stays beyond."""
    return np.where(block == 1.0, 1.0 - 2.0 ** (1 - bits), block)


def _cut_off(block: NDArray[np.floating], bits: int) -> NDArray[np.floating]:
    """What a file holds of a block."""
    return np.clip(block, -1.0, 1.0 - 2.0 ** (1 - bits))


def _spread(
    rest: NDArray[np.floating], rounded: list[NDArray[np.floating]], held: list[NDArray[np.floating]], bits: int
) -> NDArray[np.floating]:
    """Gives what a residual is out of range by, if rounding did it, to the source with most room for it."""
    over = rest - _cut_off(rest, bits)
    over[np.abs(over) > (len(rounded) + 1) * 2.0 ** (1 - bits)] = 0.0
    places = np.nonzero(over)
    if not rounded or not len(places[0]):
        return rest
    values = np.stack([block[places] for block in held])
    chosen = np.where(over[places] > 0, values.argmin(axis=0), values.argmax(axis=0))
    for number, block in enumerate(rounded):
        block[places] += np.where(chosen == number, over[places], 0.0)
    return rest - over


__all__ = ["in_steps", "write_together"]
