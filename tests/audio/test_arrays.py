# SPDX-License-Identifier: Apache-2.0
"""Arrays, tensors and objects of unusual kinds are read for what they are, or refused with one clear error."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import torch

from hubsep.audio import AudioWriter, open_audio, read_audio, resample, write_audio
from hubsep.audio.sources import repeatable
from hubsep.errors import AudioError


RATE = 8_000
SAMPLES = (np.arange(200, dtype=np.float32).reshape(2, 100) / 256).astype(np.float32)
TENSOR = torch.from_numpy(SAMPLES)


def fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(2, 100)


def escaped() -> torch.Tensor:
    """A tensor that left the function that it lived in."""
    kept: list[torch.Tensor] = []

    def keep(each: torch.Tensor) -> torch.Tensor:
        kept.append(each)
        return each

    torch.func.vmap(keep)(TENSOR)
    return kept[0]


def given_back() -> torch.Tensor:
    tensor = TENSOR.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def masked_tensor() -> torch.Tensor:
    return torch.masked.masked_tensor(TENSOR, TENSOR > 0.1)


REFUSED: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "meta": (lambda: TENSOR.to("meta"), "meta device.*load it"),
    "fake": (fake, "pass a plain torch.Tensor"),
    "sparse": (lambda: TENSOR.to_sparse(), "sparse_coo.*to_dense"),
    "rows": (lambda: TENSOR.to_sparse_csr(), "sparse_csr.*to_dense"),
    "columns": (lambda: TENSOR.to_sparse_csc(), "sparse_csc.*to_dense"),
    "blocks": (lambda: TENSOR.to_sparse_bsr((2, 2)), "sparse_bsr.*to_dense"),
    "quantized": (lambda: torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8), "qint8.*dequantize"),
    "nested": (lambda: torch.nested.nested_tensor([TENSOR, TENSOR[:, :5]]), "nested.*one recording"),
    "jagged": (lambda: torch.nested.nested_tensor(list(TENSOR), layout=torch.jagged), "nested.*one recording"),
    "masked": (masked_tensor, "pass a plain torch.Tensor"),
    "escaped": (escaped, "pass a plain torch.Tensor"),
    "given back": (given_back, "memory of this one was given back"),
    "complex": (lambda: torch.view_as_complex(torch.zeros(100, 2)).conj(), "floating point.*complex64"),
    "whole numbers": (lambda: torch.zeros(100, dtype=torch.int16), "divide 16-bit integers by 32768"),
    "truth": (lambda: torch.zeros(100, dtype=torch.bool), "floating point.*bool"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_without_a_value_for_each_sample(kind: str, tmp_path: Path) -> None:
    make, says = REFUSED[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls some of these kinds unfinished
        tensor = make()
    for source in (tensor, {"array": tensor, "sampling_rate": RATE}):
        with pytest.raises(AudioError, match=says) as caught:
            read_audio(source, sampling_rate=RATE)
        assert "\n" not in str(caught.value)
    if tensor.is_floating_point():
        waveform: Any = tensor
        for write in (
            lambda: write_audio(tmp_path / "a.wav", waveform, RATE), lambda: resample(waveform, RATE, 2 * RATE),
        ):  # fmt: skip
            with pytest.raises(AudioError, match=says):
                write()
    assert not list(tmp_path.iterdir())


READ: dict[str, Callable[[], torch.Tensor]] = {
    "waits to be negated": lambda: torch.complex(torch.zeros(2, 100), -TENSOR).conj().imag,
    "waits to be conjugated": lambda: torch.complex(TENSOR, TENSOR).conj().real,
    "bfloat16": lambda: TENSOR.to(torch.bfloat16),
    "needs a gradient": lambda: TENSOR.clone().requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(TENSOR),
    "transposed": lambda: TENSOR.T.contiguous().T,
    "expanded": lambda: TENSOR[:1].expand(2, 100),
    **{
        name: partial(TENSOR.to, getattr(torch, name))
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    },
}


@pytest.mark.parametrize("kind", READ)
def test_tensors_of_every_kind_with_samples(kind: str) -> None:
    tensor = READ[kind]()
    wanted = tensor.detach().resolve_neg().float().numpy()
    np.testing.assert_array_equal(read_audio(tensor, sampling_rate=RATE).waveform, wanted)


class Turns:
    """What turns into an array, or fails to."""

    def __init__(self, result: Any):
        self.result = result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def test_arrays_with_a_mask(tmp_path: Path) -> None:
    """The samples under a mask are not to be heard, and numpy would drop the mask in silence."""
    masked: Any = np.ma.masked_array(SAMPLES, mask=SAMPLES > 0.5)
    sources: list[Any] = [masked, Turns(masked), {"array": masked, "sampling_rate": RATE}]
    hidden = int(masked.mask.sum())
    says = rf"mask hides {hidden} of this one; pass array.filled\(0\) for silence there, or array.data"
    for source in sources:
        with pytest.raises(AudioError, match=says):
            read_audio(source, sampling_rate=RATE)
    with pytest.raises(AudioError, match="mask hides"):
        write_audio(tmp_path / "a.wav", masked, RATE)
    with pytest.raises(AudioError, match="mask hides"), AudioWriter(tmp_path / "a.wav", RATE, 2) as writer:
        writer.write(masked)
    with pytest.raises(AudioError, match="mask hides"):
        resample(masked, RATE, 2 * RATE)
    assert not list(tmp_path.iterdir())
    for mask in (False, np.ma.nomask, np.zeros(SAMPLES.shape, bool)):  # nothing is hidden
        unmasked = np.ma.masked_array(SAMPLES, mask=mask)
        np.testing.assert_array_equal(read_audio(unmasked, sampling_rate=RATE).waveform, SAMPLES)
    np.testing.assert_array_equal(read_audio(masked.filled(0), sampling_rate=RATE).waveform, masked.filled(0))


ERRORS = [RuntimeError("no\nluck"), ValueError(), TypeError("x"), MemoryError(), RecursionError("deep"), KeyError("k")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_objects_that_fail_to_turn_into_an_array(error: Exception, tmp_path: Path) -> None:
    turns: Any = Turns(error)
    for source in (turns, {"array": turns, "sampling_rate": RATE}):
        with pytest.raises(AudioError, match="this Turns does not turn into an array") as caught:
            read_audio(source, sampling_rate=RATE)
        assert "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="does not turn into an array"):
        write_audio(tmp_path / "a.wav", turns, RATE)


@pytest.mark.parametrize("result", [5, "text", None, [0.0], np.zeros((2, 2, 2)), np.array(["a"]), np.array([{}])])
def test_objects_that_turn_into_no_recording(result: Any) -> None:
    wrong: Any = Turns(result)
    right: Any = Turns(SAMPLES)
    with pytest.raises(AudioError, match="array"):
        read_audio(wrong, sampling_rate=RATE)
    np.testing.assert_array_equal(read_audio(right, sampling_rate=RATE).waveform, SAMPLES)


def itself() -> dict[str, Any]:
    row: dict[str, Any] = {}
    row["path"] = row["bytes"] = row
    return row


ROWS = [
    itself(), {"path": {"path": "a.wav"}}, {"path": 5}, {"bytes": 5, "path": None}, {"path": SAMPLES},
    {"bytes": SAMPLES, "path": "a.wav"}, {"bytes": "a.wav", "path": "a.wav"}, {"bytes": b"", "path": None},
    {"path": b"a.wav"}, {"path": ["a.wav"]}, {"bytes": TENSOR},
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_rows_that_hold_no_file(row: dict[str, Any]) -> None:
    with pytest.raises(AudioError, match="a dict of a file must hold bytes, or None and a path"):
        read_audio(row)


RATES = [
    TENSOR,
    torch.zeros(2),
    SAMPLES,
    "8000",
    b"8",
    None,
    True,
    [8_000],
    {},
    8_000.5,
    2**80,
    float("nan"),
    object(),
]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: type(rate).__name__)
def test_sampling_rates_that_are_none(rate: Any) -> None:
    with pytest.raises(AudioError, match=r"sampling[ _]rate"):
        read_audio(SAMPLES, sampling_rate=rate)
    with pytest.raises(AudioError, match=r"sampling[ _]rate"):
        read_audio({"array": SAMPLES, "sampling_rate": rate})


def test_views_of_bytes() -> None:
    data = corpus.encode(SAMPLES, RATE, format="WAV", subtype="FLOAT")
    apart = memoryview(bytes(byte for each in data for byte in (each, 0)))[::2]
    assert not apart.c_contiguous
    samples: Any = SAMPLES
    views: list[Any] = [apart, memoryview(data), memoryview(bytearray(data)).toreadonly(), memoryview(data).cast("c")]
    for view in views:
        np.testing.assert_array_equal(read_audio(view).waveform, SAMPLES)
        np.testing.assert_array_equal(read_audio({"bytes": view, "path": None}).waveform, SAMPLES)
    released = memoryview(data)
    released.release()
    for view in (memoryview(data)[::3], memoryview(data)[::-1], memoryview(samples), released):
        with pytest.raises(AudioError, match="cannot be decoded"):
            read_audio(view)


class Names:
    """A path of one's own."""

    def __init__(self, name: Any):
        self.name = name

    def __fspath__(self) -> Any:
        if isinstance(self.name, BaseException):
            raise self.name
        return self.name


def test_paths_as_bytes(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", SAMPLES, RATE, subtype="FLOAT")
    entries: list[Any] = [next(os.scandir(os.fsencode(tmp_path))), next(os.scandir(tmp_path))]
    entries += [Names(os.fsencode(path)), Names(str(path))]
    for source in entries:
        np.testing.assert_array_equal(read_audio(source).waveform, SAMPLES)
        np.testing.assert_array_equal(read_audio({"path": source}).waveform, SAMPLES)
        assert open_audio(source).name == "a"


@pytest.mark.parametrize(
    "name", [5, None, [], RuntimeError("no\nluck"), ValueError(), b"a\0.wav", "a\0.wav", "\ud800"]
)
def test_paths_that_are_none(name: Any) -> None:
    with pytest.raises(AudioError, match=r"gives no path|cannot be opened") as caught:
        read_audio(Names(name))
    assert "\n" not in str(caught.value)


class Broken:
    """A file that fails where it is asked for its place, or put there."""

    def __init__(self, fails: str):
        self.fails = fails

    def read(self, size: int = -1) -> bytes:
        return b""

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        if self.fails == "tell":
            raise RuntimeError("no luck")
        return 0

    def seek(self, *where: int) -> int:
        raise RuntimeError("no luck")


@pytest.mark.parametrize("fails", ["tell", "seek"])
def test_files_that_cannot_tell_their_place(fails: str) -> None:
    with pytest.raises(AudioError, match="no luck"):
        read_audio(Broken(fails))
    with pytest.raises(AudioError, match="no luck"), repeatable(Broken(fails)) as from_its_start:
        from_its_start()
