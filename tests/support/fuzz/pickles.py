# SPDX-License-Identifier: Apache-2.0
"""Pickles taken apart by their opcodes, and the archives PyTorch puts them in.

One argument is another, or a call is put in, so that the restricted unpickler gets as far as what was changed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

from fuzz.cases import Case
from fuzz.planted import Bomb
from fuzz.values import NAMES, changed_bytes, lying_size


NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NEWTRUE", "NEWFALSE")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE")
# what a pickle may ask for, from harmless to the worst
GLOBALS = (
    "os system",
    "posix system",
    "builtins exec",
    "builtins eval",
    "builtins getattr",
    "subprocess Popen",
    "torch.serialization load",
    "torch.hub load",
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch UntypedStorage",
    "numpy.core.multiarray scalar",
    "numpy dtype",
    "_codecs encode",
    "argparse Namespace",
    "torch.nn.modules.linear Linear",
    "evil Evil",
    "__main__ x",
    "torch Size",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_wrapper_subclass",
    "builtins bytearray",
    "builtins set",
    "builtins complex",
    "torch.torch_version TorchVersion",
)


def change_archive(path: Path, case: Case) -> None:
    """Changes the pickle in a file of PyTorch's, or the archive around it."""
    data, roll = path.read_bytes(), case.random.random()
    if roll < 0.12:
        case.note("as it was")
    elif roll < 0.2:
        case.note("bomb")
        path.write_bytes(
            pickle.dumps({"state_dict": Bomb(case.outside / "canary")}, protocol=case.random.choice([0, 2, 4]))
        )
    elif roll < 0.25:
        case.note("file bytes")
        path.write_bytes(changed_bytes(data, case))
    elif roll < 0.3:
        path.write_bytes(data[: case.random.randrange(len(data))])
        case.note("cut")
    elif zipfile.is_zipfile(path):
        change_zip(path, data, case)
    else:
        path.write_bytes(changed_pickle(data, case))


def change_zip(path: Path, data: bytes, case: Case) -> None:
    """Writes the archive anew, with another pickle, other members, or compression."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    top = next(name for name in members if name.endswith("/data.pkl"))
    roll = case.random.randrange(8)
    case.note(f"archive, change {roll}")
    compression = zipfile.ZIP_STORED
    storages = [name for name in members if "/data/" in name]
    if roll <= 3:
        members[top] = changed_pickle(members[top], case)
    elif roll == 4:
        compression = zipfile.ZIP_DEFLATED
        members[case.random.choice(storages or [top])] = bytes(40_000_000)
    elif roll == 5 and storages:
        name = case.random.choice(storages)
        members[name] = case.random.choice([b"", members[name][:4], members[name] * 2, members[name][:-1]])
    elif roll == 6:
        members.pop(case.random.choice(sorted(members)))
        members[
            case.random.choice(["../x", "/etc/x", "archive/code/x.py", "archive/constants.pkl", "archive/data.pkl"])
        ] = b"x"
    else:
        members = {
            name.replace("published", case.random.choice(["..", "a/b", "x" * 300])): content
            for name, content in members.items()
        }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def changed_pickle(data: bytes, case: Case) -> bytes:
    """A pickle with one opcode's argument changed, or a call put before everything."""
    try:
        found = [(code.name, argument, place or 0) for code, argument, place in pickletools.genops(data)]
    except Exception:
        return changed_bytes(data, case)
    roll = case.random.random()
    if roll < 0.15:
        return with_call(data, case)
    names: tuple[str, ...]
    if roll < 0.6:
        names, change = NUMBERS, other_number
    elif roll < 0.8:
        names, change = TEXTS, other_text
    else:
        names, change = ("GLOBAL",), other_global
    places = [number for number, item in enumerate(found) if item[0] in names]
    if not places:
        return changed_bytes(data, case)
    number = case.random.choice(places)
    stop = found[number + 1][2] if number + 1 < len(found) else len(data)
    return data[: found[number][2]] + change(found[number][1], case) + data[stop:]


def other_number(argument: object, case: Case) -> bytes:
    """A number, or something else where one belongs."""
    known = argument if isinstance(argument, int) else 7
    value = case.random.choice([0, 1, -1, 2**31 - 1, -(2**31), 1_000_000, known + 1])
    case.note(f"{argument!a:.40} becomes {value}")
    if case.chance(0.3):
        return case.random.choice([b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"G\x7f\xf8" + bytes(6), b"N", b"K\x00\x85"])
    return b"J" + struct.pack("<i", value % 2**32 - 2**32 * (value % 2**32 >= 2**31))


def other_text(argument: object, case: Case) -> bytes:
    """Another text, whose length may be a lie."""
    words = [*NAMES[:8], "cuda:0", "meta", "cpu", "../../x", "0", "99999"]
    content = case.random.choice(words).encode("utf-8", "surrogatepass")
    case.note(f"{argument!a:.40} becomes {content!a:.40}")
    size = len(content) if case.chance(0.9) else lying_size(len(content), case.random)
    return b"X" + struct.pack("<I", size) + content


def other_global(argument: object, case: Case) -> bytes:
    """Another function or class."""
    module, _, name = case.random.choice(GLOBALS).partition(" ")
    case.note(f"{argument!a} becomes {module} {name}")
    return f"c{module}\n{name}\n".encode()


def with_call(data: bytes, case: Case) -> bytes:
    """A call put in front, whose result is thrown away."""
    case.note("a call is put in")
    command = f"touch '{case.outside / 'canary'}'".encode()
    functions = (b"cos\nsystem\n", b"cbuiltins\nexec\n", b"cposix\nsystem\n", b"ctorch.hub\nload\n")
    call = case.random.choice(functions) + b"X" + struct.pack("<I", len(command)) + command + b"\x85R0"
    start = 2 if data[:1] == b"\x80" else 0
    return data[:start] + call + data[start:]


__all__ = ["change_archive"]
