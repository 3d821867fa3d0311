# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's bundles in folders and archives, with rows, members and headers that lie; checksums are made anew."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import torch
from published_spleeter import (
    DATA,
    KINDS,
    bundle,
    entry,
    field,
    golden_files,
    table,
    varint,
    write_archive,
    write_folder,
)

from fuzz.cases import Case
from fuzz.values import changed_bytes
from hubsep.conversion.tensorflow_bundle import crc32c, masked


def bundle_files(state: dict[str, Any], case: Case) -> dict[str, bytes]:
    """A bundle with a row, a number or a byte changed."""
    files, random = golden_files(), case.random
    roll = random.random()
    if roll < 0.1:
        case.note("as it was")
    elif roll < 0.3:
        kept = {name: tensor for name, tensor in state.items() if is_plain(tensor)}
        index, data = bundle(kept or {"a": torch.ones(1)}, random.choice([1, 1, 1, 2]))
        files |= {"model.index": index, DATA: data}
    elif roll < 0.6:
        rows = {b"": field(1, 1)}
        content = random.randbytes(64)
        for number in range(random.choice([1, 3, 200])):
            kind, shape = (
                random.choice([1, 1, 2, 7, 99]),
                random.choice([(4,), (2, 2), (2**31,), (2**30, 2**30), (), (0,), (1,) * 9]),
            )
            offset, size = random.choice([0, 0, 48, 2**62]), random.choice([16, 16, 0, 2**40])
            rows[random.choice([b"a/kernel", b"conv2d_%d/kernel" % number, b"../x", b"\xff", b"x" * 700])] = entry(
                kind, shape, offset, size, masked(crc32c(content[:16]))
            ) + random.choice([b"", b"", field(7, 1), b"\x1f", varint(2**63)])
        files |= {"model.index": table(rows), DATA: content}
        case.note(f"{len(rows)} rows made up")
    elif roll < 0.8:
        name = random.choice(sorted(files))
        case.note(f"{name}: bytes")
        files[name] = changed_bytes(files[name], case)
    elif roll < 0.9:
        files["checkpoint"] = random.choice(
            [
                b"",
                b'model_checkpoint_path: "../outside/model"',
                b'model_checkpoint_path: "/etc/passwd"',
                b"x" * 2_000_000,
                b'model_checkpoint_path: "\xff"',
                b'model_checkpoint_path: "a\\nb"',
            ]
        )
        case.note("checkpoint")
    else:
        name = random.choice(sorted(files))
        case.note(f"{name} is gone or twice")
        files[random.choice(["x.index", "model.data-00001-of-00002", "._model.index"])] = (
            files.pop(name) if case.chance(0.5) else files[name]
        )
    return files


def is_plain(tensor: Any) -> bool:
    """Whether a bundle can hold it."""
    plain = isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.layout is torch.strided
    return plain and tensor.dtype in KINDS


def as_folder(state: dict[str, Any], case: Case) -> Path:
    return write_folder(case.folder / "published", bundle_files(state, case))


def as_archive(state: dict[str, Any], case: Case) -> Path:
    """A `.tar.gz`, with members that lie, lead elsewhere, or are no files."""
    path, files = case.folder / "published.tar.gz", bundle_files(state, case)
    write_archive(path, files)
    roll = case.random.randrange(6)
    case.note(f"archive, change {roll}")
    if roll <= 1:
        return path
    plain = bytearray(gzip.decompress(path.read_bytes()))
    if roll == 2:
        block = case.random.randrange(len(plain) // 512) * 512 if case.chance(0.3) else 0
        at, text = case.random.choice(
            [
                (124, b"77777777777\0"),
                (124, b"-0000000001\0"),
                (124, b"\x80" + b"\xff" * 11),
                (156, b"2"),
                (156, b"x"),
                (156, b"L"),
                (156, b"S"),
                (0, b"../../x\0"),
                (0, b"/etc/x\0"),
                (148, b"0000000\0"),
            ]
        )
        plain[block + at : block + at + len(text)] = text
        if case.chance(0.7):  # the checksum of a header
            plain[block + 148 : block + 156] = b" " * 8
            plain[block + 148 : block + 156] = b"%06o\0 " % sum(plain[block : block + 512])
    elif roll == 3:
        plain = bytearray(changed_bytes(bytes(plain), case))
    elif roll == 4:
        extra = io.BytesIO()
        with tarfile.open(fileobj=extra, mode="w") as archive:
            member = tarfile.TarInfo(
                case.random.choice(["x", "checkpoint", "model.index", "a\nb", "model.data-00000-of-00001"])
            )
            member.type = case.random.choice(
                [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
            )
            member.linkname = str(case.outside / "x")
            archive.addfile(member)
        plain[0:0] = extra.getvalue()[:512]
    packed = gzip.compress(bytes(plain), 1)
    if roll == 5:
        packed = case.random.choice(
            [
                packed[:-8],
                packed + packed,
                packed + b"x" * 100,
                gzip.compress(bytes(30_000_000)) * 2,
                changed_bytes(packed, case),
                b"\x1f\x8b",
            ]
        )
    path.write_bytes(packed)
    return path


__all__ = ["as_archive", "as_folder"]
