# SPDX-License-Identifier: Apache-2.0
"""A Conv-TasNet that starts from the Fourier basis: nothing is lost on the way in and out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from promises_model import noise
from rounding import assert_same
from tiny_conv_tasnet import tiny_conv_tasnet

from hubsep.errors import DataError
from hubsep.training.separators.filterbanks import fourier_filters, start_from_fourier


FIELDS = {"kernel_size": 16, "stride": 8, "num_filters": 32, "encoder_activation": "relu", "pad_edges": True}


@torch.no_grad()
def test_the_filterbanks_give_back_what_they_get():
    model, _ = tiny_conv_tasnet(**FIELDS)
    start_from_fourier(model)
    waveform = noise(2, 803)
    encoded = model.encode(model.frame(waveform))
    assert (encoded >= 0).all()
    masked = encoded.unsqueeze(2)
    from hubsep.layers import overlap_add

    again = model.unframe(overlap_add(model.decode(masked), model.config.stride), 803)[:, 0]
    assert_same(again, waveform, terms=16, layers=2)


def test_a_tone_is_where_its_frequency_is():
    filters = fourier_filters(16, 32)
    tone = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16)
    assert (filters @ tone).argmax() == 3


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_filters": 24}, "twice as large, got 16 and 24"),
        ({"encoder_activation": "linear"}, "got linear and 8 of 16"),
        ({"stride": 4}, "got relu and 4 of 16"),
    ],
)
def test_other_filterbanks_are_refused(changed: dict[str, Any], says: str):
    model, _ = tiny_conv_tasnet(**{**FIELDS, **changed})
    with pytest.raises(DataError, match=says):
        start_from_fourier(model)


def test_other_models_are_refused():
    from tiny_sepformer import tiny_sepformer

    with pytest.raises(DataError, match="only a conv_tasnet"):
        start_from_fourier(tiny_sepformer()[0])
