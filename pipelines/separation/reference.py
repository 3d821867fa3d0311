# SPDX-License-Identifier: Apache-2.0
"""The level that a model knows: recordings are brought to it before they are separated, their sources back from it.

Networks hear few levels in training. Decisions: it is one gain for the whole recording, so that what is soft in it
stays soft and pieces fit together; it follows from a first pass over the recording, so that a stream, a file and an
array give the same; and only models that ask for it get it, by `config.reference_level_db`, because published weights
have to give what they gave.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor


SILENCE = 1e-12  # mean square below which there is nothing to bring to a level


def gain_to(level_db: float, blocks: Iterable[Tensor]) -> float:
    """What brings a recording to a level.

    Args:
        level_db: RMS over all channels and samples, in dB of full scale.
        blocks: of the recording, (channels, samples) each.

    Returns:
        A factor; 1 for silence.
    """
    energy, values = 0.0, 0
    for block in blocks:
        energy += float(block.double().square().sum())
        values += block.numel()
    if energy <= SILENCE * values:
        return 1.0
    return 10 ** (level_db / 20) / math.sqrt(energy / values)


__all__ = ["gain_to"]
