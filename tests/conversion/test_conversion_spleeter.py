# SPDX-License-Identifier: Apache-2.0
"""Spleeter's conversion: the numbers of the original from TensorFlow's own files, and what is refused.

The golden vectors come from the original's own code; `golden/spleeter/README.md` says how.
"""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from promises_conversion import ConversionPromises, digests
from published_spleeter import (
    DATA,
    STEMS,
    SUMS,
    assert_golden,
    bundle,
    entry,
    field,
    golden_files,
    golden_io,
    shared_io,
    table,
    text,
    varint,
    write_archive,
    write_folder,
    write_published,
)
from rounding import assert_same
from safetensors.torch import load_file
from tiny_spleeter import TINY
from torch import Tensor

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main
from hubsep.conversion import archives, convert, spleeter, tensorflow_bundle
from hubsep.conversion.common import rename
from hubsep.conversion.tensorflow_bundle import crc32c, read_bundle, read_index
from hubsep.errors import ConversionError
from hubsep.models.spleeter.configuration_spleeter import SpleeterConfig
from hubsep.models.spleeter.modeling_spleeter import SpleeterForAudioSeparation, l1_magnitude


CASES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "tiny_average": {"mask_extension": "average"},
    "tiny_exp1": {"separation_exponent": 1},
    "tiny_short": {},
}
SHARED_CASES: dict[str, dict[str, Any]] = {
    **{name: {**TINY, **fields} for name, fields in CASES.items()},
    "tiny_mwf": {**TINY, "wiener_filter": True},
    "full": {},
    "full_16khz": {"num_bins": 1_536},
}
pytestmark = pytest.mark.filterwarnings("ignore:the weights do not tell these")


def read(index: bytes, data: bytes) -> dict[str, Tensor]:
    return dict(read_bundle(index, io.BytesIO(data), len(data), "'a bundle'"))


def golden_tensors() -> dict[str, Tensor]:
    files = golden_files()
    return read(files["model.index"], files[DATA])


class TestPromises(ConversionPromises):
    model_type = "spleeter"
    tensors = staticmethod(golden_tensors)
    write = staticmethod(write_published)
    damaged = ("conv2d_8.kernel", "unets.1.encoder.1.conv.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        return TINY


@torch.no_grad()
@pytest.mark.parametrize("layout", ["folder", "archive"])
def test_the_published_layouts_give_the_waveforms_of_the_original(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = {**golden_files(), ".probe": b"OK"}
    source = (
        write_folder(tmp_path / "2stems", files)
        if layout == "folder"
        else write_archive(tmp_path / "2stems.tar.gz", files)
    )
    settings = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    command = ["convert", "spleeter", str(source), str(tmp_path / "ours"), "--licence", "mit", *settings]
    assert main(command) == 0, capsys.readouterr().err
    model = AutoModelForAudioSeparation.from_pretrained(tmp_path / "ours")
    assert_golden(model, golden_io("tiny"))
    card = (tmp_path / "ours" / "README.md").read_text()
    names = ["model.index", DATA] if layout == "folder" else ["2stems.tar.gz"]
    assert all(f"`{name}`" in card for name in names)
    assert main([*command[:3], str(tmp_path / "again"), *command[4:]]) == 0
    assert digests(tmp_path / "again") == digests(tmp_path / "ours")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_options_give_the_waveforms_of_the_original(case: str, tmp_path: Path):
    source = write_folder(tmp_path / "2stems", golden_files())
    assert_golden(convert("spleeter", source, **TINY, **CASES[case]), golden_io(case))


@torch.no_grad()
@pytest.mark.needs_shared
@pytest.mark.parametrize("case", SHARED_CASES)
def test_every_golden_case_in_full(case: str, shared: Path):
    folder = shared / "golden" / "spleeter"
    assert_golden(convert("spleeter", folder / "ckpt", **SHARED_CASES[case]), shared_io(folder, case))


@pytest.mark.needs_shared
def test_a_training_step_has_the_loss_and_the_gradients_of_the_original(shared: Path):
    folder = shared / "golden" / "spleeter"
    model = convert("spleeter", folder / "ckpt", **TINY).train()
    expected = load_file(folder / "io_train.safetensors")
    estimates = model.estimate(expected["mix_spectrogram"].permute(0, 3, 1, 2))
    targets = torch.stack([expected[f"label.{name}"].permute(0, 3, 1, 2) for name in STEMS], dim=1)
    for stem, name in enumerate(STEMS):
        assert_same(estimates[:, stem].permute(0, 2, 3, 1), expected[f"out.{name}"], **SUMS)
    loss = l1_magnitude(estimates, targets)
    assert_same(loss, expected["loss"].squeeze(), **SUMS)
    loss.backward()
    stored = {spleeter._numbered(n[5:].replace("/", ".")): t for n, t in expected.items() if n.startswith("grad.")}
    gradients = {name: spleeter._turned(tensor) for name, tensor in rename(stored, spleeter.KEYS).items()}
    parameters = dict(model.named_parameters())
    assert gradients.keys() == parameters.keys()
    assert len(gradients) == 96
    for name, gradient in gradients.items():
        found = parameters[name].grad
        assert found is not None
        assert_same(found, gradient, **SUMS)


@pytest.mark.needs_shared
def test_what_an_optimiser_stored_is_left_out(shared: Path):
    folder = shared / "golden" / "spleeter"
    before, after = (convert("spleeter", folder / name, **TINY).state_dict() for name in ("ckpt", "ckpt_finetune"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["unets.0.head.weight"], after["unets.0.head.weight"])
    torch.testing.assert_close(before["unets.0.head.weight"], after["unets.0.head.weight"], atol=4e-3, rtol=0)


@pytest.mark.parametrize("piece", [64, 500, 4_096])
def test_tensors_larger_than_a_piece_are_read_as_others_and_never_copied(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write_folder(tmp_path / "golden", golden_files())
    whole, _ = spleeter._read_folder(folder)
    content = bytes(range(256)) * 41
    checksum = crc32c(content)
    monkeypatch.setattr(tensorflow_bundle, "PIECE", piece)
    pieces, _ = spleeter._read_folder(folder)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in pieces.items())
    assert crc32c(content) == checksum
    kernel = spleeter._to_be_turned((5, 3, 2, 4), torch.float32)
    assert kernel.shape == (5, 3, 2, 4)
    assert spleeter._turned(kernel).data_ptr() == kernel.data_ptr()


@pytest.mark.needs_shared
@pytest.mark.parametrize("number", [2, 4, 5])
def test_every_published_variable_has_its_place(number: int, shared: Path):
    manifest = json.loads((shared / "golden" / "spleeter" / f"manifest_{number}stems.json").read_text())
    published = {
        name.replace("/", "."): torch.empty(shape, device="meta") for name, shape in manifest["variables"].items()
    }
    turned = {spleeter._numbered(name): spleeter._turned(tensor) for name, tensor in published.items()}
    renamed = rename(turned, spleeter.KEYS)
    assert manifest["instruments"] == spleeter.PUBLISHED[number]["stems"]
    config = spleeter._config(renamed, {})
    with torch.device("meta"):
        model = SpleeterForAudioSeparation(config)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert list(config.conv_channels) == list(SpleeterConfig().conv_channels)
    assert model.num_parameters() == manifest["n_trainable"] - number * 2 * 512
    assert (config.mask_activation == "softmax") is (manifest["model"]["type"] == "unet.softmax_unet")
    activations = manifest["model"]["params"]
    assert config.encoder_activation == {"ELU": "elu"}.get(activations.get("conv_activation"), "leaky_relu")
    assert config.decoder_activation == {"ELU": "elu"}.get(activations.get("deconv_activation"), "relu")


def stems(number: int) -> dict[str, Tensor]:
    """A checkpoint of copies of the golden one's first stem."""
    result = {}
    for name, tensor in golden_tensors().items():
        kind, leaf = name.split(".")
        prefix, _, index = kind.rpartition("_") if kind[-1].isdigit() and kind != "conv2d" else (kind, "", "0")
        layers = spleeter.LAYERS[prefix]
        if int(index) < layers:
            for stem in range(number):
                place = layers * stem + int(index)
                result[f"{prefix}_{place}.{leaf}" if place else f"{prefix}.{leaf}"] = tensor
    return result


def test_what_weights_do_not_tell_is_known_for_published_numbers_of_stems_only(tmp_path: Path):
    for number in (4, 5):
        source = write_published(tmp_path / f"{number}.tar.gz", stems(number))
        with pytest.warns(UserWarning, match="the published values are taken: stems="):
            model = convert("spleeter", source, **TINY)
        assert list(model.config.stems) == spleeter.PUBLISHED[number]["stems"]
        assert model.config.encoder_activation == "elu"
    three = write_published(tmp_path / "3.tar.gz", stems(3))
    with pytest.raises(ConversionError, match="3 stems and do not tell stems, mask_activation, encoder_act"):
        convert("spleeter", three, **TINY)
    fields = {**spleeter.PUBLISHED[2], "stems": ["a", "b", "c"]}
    assert convert("spleeter", three, **TINY, **fields).config.source_names == ("a", "b", "c")
    with pytest.raises(ConversionError, match="3 stems; stems= names 2"):
        convert("spleeter", three, **TINY, **spleeter.PUBLISHED[2])
    with pytest.raises(ConversionError, match="conv_channels is"):
        convert("spleeter", three, **TINY, **fields, conv_channels=[1, 2, 3, 4, 5, 6])
    with pytest.raises(ConversionError, match="num_bins is 129"):
        convert("spleeter", three, **{**TINY, **fields, "num_bins": 129})


def test_checksums():
    assert crc32c(b"123456789") == 0xE3069283  # of RFC 3720
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA
    content = random.Random(0).randbytes(600_000)
    states = {size: crc32c(content[:size]) for size in (63, 64, 65, 300, 4_097, 262_144, 600_000)}
    assert states[63] != states[64]
    for size in (64, 300, 4_097):  # against the loop over bytes, in pieces too short for anything else
        assert states[size] == by_bytes(content[:size])
    changed = bytearray(content)
    changed[300_000] ^= 1
    assert crc32c(changed) != states[600_000]


def by_bytes(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("name", ["model.index", DATA])
def test_a_hundred_mutations_give_one_clear_error_or_change_nothing(name: str):
    expected, generator, refused = golden_tensors(), random.Random(name), 0
    for number in range(100):
        files = golden_files()
        files[name] = mutated(files[name], generator, number % 5)
        try:
            found = read(files["model.index"], files[DATA])
        except ConversionError as error:
            refused += "a bundle" in str(error)
        else:  # where nothing is kept: between blocks of a table, or after the data
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert refused >= 75


def mutated(content: bytes, generator: random.Random, way: int) -> bytes:
    place = generator.randrange(len(content))
    if way == 0:
        return content[:place]
    if way == 1:
        return content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    if way == 2:
        return content[:place] + generator.randbytes(8) + content[place + 8 :]
    if way == 3:
        return content[:place] + b"\xff" * 10 + content[place + 10 :]
    return content[:place] + content[place + generator.randrange(1, 20) :]


GOOD = entry(1, (2,), 0, 8, 0)
HEADER = {b"": field(1, 1)}
HOSTILE: dict[str, tuple[dict[bytes, bytes], str]] = {
    "beyond the end": ({**HEADER, b"a": entry(1, (2,), 1 << 40, 8, 0)}, "reaches to byte 1099511627784"),
    "wraps around": ({**HEADER, b"a": entry(1, (2,), 2**64 - 4, 8, 0)}, "reaches to byte"),
    "larger than it says": ({**HEADER, b"a": entry(1, (1 << 30, 1 << 30), 0, 8, 0)}, "claims the shape"),
    "as large as it says": ({**HEADER, b"a": entry(1, (1 << 30,), 0, 1 << 32, 0)}, "reaches to byte 4294967296"),
    "negative axis": ({**HEADER, b"a": entry(1, (2**64 - 1,), 0, 8, 0)}, "has an axis of 18446744073709551615"),
    "many axes": ({**HEADER, b"a": entry(1, (1,) * 9, 0, 4, 0)}, "more than 8 axes"),
    "unknown shape": ({**HEADER, b"a": field(1, 1) + text(2, field(3, 1))}, "has no known shape"),
    "all the same bytes": ({**HEADER, **{b"%04d" % i: GOOD for i in range(100)}}, "claim 800 bytes"),
    "text": ({**HEADER, b"a": field(1, 7)}, "numbers of the kind 7"),
    "slices": ({**HEADER, b"a": GOOD + text(7, b"")}, "stored in slices"),
    "second file": ({**HEADER, b"a": field(3, 1) + GOOD}, "of data file 1"),
    "several files": ({b"": field(1, 2), b"a": GOOD}, "data in 2 files"),
    "big-endian": ({b"": field(1, 1) + field(2, 1), b"a": GOOD}, "big-endian"),
    "no header": ({b"a": GOOD}, "it has no header"),
    "nothing": ({}, "it has no header"),
    "no tensors": (HEADER, "holds 0 tensors"),
    "one name twice": ({**HEADER, b"a/b": GOOD, b"a.b": GOOD}, "with 1 different names"),
    "name like a path": ({**HEADER, b"../a": GOOD}, "not accepted as the name"),
    "name of control characters": ({**HEADER, b"a\x1b[2J": GOOD}, "not accepted as the name"),
    "endless name": ({**HEADER, b"a" * 3_000: GOOD}, "damaged"),
    "message cut short": ({**HEADER, b"a": GOOD[:-1]}, "damaged"),
    "unknown kind of field": ({**HEADER, b"a": varint(1 << 3 | 3)}, "unknown kind 3"),
    "endless number": ({**HEADER, b"a": b"\x08" + b"\xff" * 20}, "a number is too long"),
    "wrong checksum": ({**HEADER, b"a": GOOD}, "does not fit its checksum"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_are_refused(case: str):
    rows, says = HOSTILE[case]
    with pytest.raises(ConversionError, match=says):
        read(table(rows), bytes(64))


def test_hostile_blocks_are_refused():
    index, data = bundle({"a.b": torch.ones(3)})
    assert read(index, data)["a.b"].tolist() == [1, 1, 1]
    with pytest.raises(ConversionError, match="at most 4194304 are read"):
        read(bytes((4 << 20) + 1), data)
    for footer in (varint(2**63) * 2, varint(len(index)) * 4, b"\xff" * 40):
        damaged = index[:-48] + footer.ljust(40, b"\0")[:40] + index[-8:]
        with pytest.raises(ConversionError, match="is damaged"):
            read(damaged, data)
    with pytest.raises(ConversionError, match=r"ends within 'a\.b'"):
        list(read_bundle(index, io.BytesIO(data[:5]), len(data), "'a bundle'"))
    assert [tensor.name for tensor in read_index(index, len(data), "'a bundle'")] == ["a.b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'model_checkpoint_path: "model"\n', None),
        (b'model_checkpoint_path: "/etc/../../model"\n', None),
        (b'model_checkpoint_path: "C:\\\\somewhere\\\\model"\n', None),
        (None, None),
        (b'model_checkpoint_path: "../passwd"\n', r"holds no 'passwd\.index'"),
        (b'model_checkpoint_path: "x/"\n', r"holds no '\.index'"),
        (b"model", "names no model_checkpoint_path"),
        (b"#" * (2 << 20), "at most 1048576 are read"),
    ],
)
def test_no_path_in_the_file_checkpoint_is_followed(content: bytes | None, says: str | None, tmp_path: Path):
    files = golden_files()
    files.pop("checkpoint")
    source = write_folder(tmp_path / "source", files if content is None else {**files, "checkpoint": content})
    if says is None:
        convert("spleeter", source, **TINY)
        return
    with pytest.raises(ConversionError, match=says):
        convert("spleeter", source, **TINY)


def test_incomplete_and_foreign_sources(tmp_path: Path):
    files = golden_files()
    for absent in ("model.index", DATA):
        source = write_folder(tmp_path / absent, {name: files[name] for name in files if name != absent})
        with pytest.raises(ConversionError, match=re.escape(f"holds no '{absent}'")):
            convert("spleeter", source, **TINY)
    with pytest.raises(ConversionError, match=r"holds 0 files \*\.index"):
        convert("spleeter", write_folder(tmp_path / "empty", {}), **TINY)
    other = write_published(tmp_path / "other.tar.gz", {"dense.kernel": torch.zeros(3)})
    with pytest.raises(ConversionError, match=r"does not know: 'dense\.kernel'"):
        convert("spleeter", other, **TINY)
    slots = write_published(
        tmp_path / "slots.tar.gz", {"global.step": torch.zeros(3), "conv2d.kernel.Adam": torch.zeros(3)}
    )
    with pytest.raises(ConversionError, match=r"does not know: 'global\.step'"):
        convert("spleeter", slots, **TINY)
    convert("spleeter", write_folder(tmp_path / "whole", files), tmp_path / "ours", licence="MIT", **TINY)
    with pytest.raises(ConversionError, match="hubsep model already"):
        convert("spleeter", tmp_path / "ours")


def write_members(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for info in entries:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    result.type, result.size, result.linkname = kind, size, target
    return result


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([info("model.index", tarfile.SYMTYPE, target="/etc/passwd")], "a link or no plain file"),
        ([info(DATA, tarfile.LNKTYPE, target="../../x")], "a link or no plain file"),
        ([info("model.index", tarfile.CHRTYPE)], "a link or no plain file"),
        ([info("a/model.index"), info("b/model.index")], r"holds 'model\.index' twice"),
        ([info(f"a/{DATA}"), info(f"b/{DATA}")], "twice"),
        ([info("model.index", size=5 << 20)], r"has a 'model\.index' of 5242880 bytes"),
        ([info(f"{i}.txt") for i in range(1_001)], "more than 1000 entries"),
        ([info("x" * 2_000_000)], "an extended header of 2000001 bytes"),
        ([info(DATA, size=6 << 20)], "bytes unpacked"),
        ([info("../../../etc/model.index")], r"holds no 'model\.data"),
    ],
    ids=["symlink", "link", "device", "index twice", "data twice", "index", "entries", "name", "bomb", "path"],
)
def test_hostile_archives_are_refused(
    entries: list[tarfile.TarInfo], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives, "MAX_UNPACKED", 6 << 20)
    source = write_members(tmp_path / "hostile.tar.gz", *entries)
    with pytest.raises(ConversionError, match=says):
        convert("spleeter", source, tmp_path / "out", licence="MIT")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.tar.gz"]


def test_damaged_archives_are_refused(tmp_path: Path):
    import gzip

    whole = write_archive(tmp_path / "whole.tar.gz", golden_files())
    unpacked = bytearray(gzip.decompress(whole.read_bytes()))
    unpacked[150] ^= 1  # in the first header's checksum
    damages = {
        "header": gzip.compress(bytes(unpacked), 1),
        "no archive": gzip.compress(b"x" * 1_000, 1),
        "more": gzip.compress(gzip.decompress(whole.read_bytes()) + b"x", 1),
        "checksum": whole.read_bytes()[:-5] + b"\xff" + whole.read_bytes()[-4:],
    }
    for name, content in damages.items():
        (tmp_path / f"{name}.tar.gz").write_bytes(content)
        with pytest.raises(ConversionError, match=name):
            convert("spleeter", tmp_path / f"{name}.tar.gz", **TINY)
