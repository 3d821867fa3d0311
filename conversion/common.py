# SPDX-License-Identifier: Apache-2.0
"""What every converter does: read tensors safely, rename them by a table, and accept nothing half-fitting.

A pickle is read by PyTorch's restricted unpickler, which knows tensors and plain containers; the numpy scalars some
authors saved along, and torch's version, which is a text of its own class, are added by name. What it refuses is
refused: there is no second way. A key map is a list of rows (pattern, replacement), the first pattern that matches a
whole key wins; a key is used, or dropped by a row that says so, or an error. A state must fill its model exactly, in
every name, shape and kind of number.

Also here: folders that weights are published in: which file of them is read, and that they are not converted already.
"""

from __future__ import annotations

import _codecs
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from hubsep.errors import CheckpointError, ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.config import config_errors
from hubsep.hub.json_files import read_json_value
from hubsep.hub.tensors import MAX_NAME_CHARACTERS, read_header
from hubsep.texts import did_you_mean


def refuse_converted(folder: Path, model_type: str) -> None:
    """Checks that a folder is not one that hubsep has written.

    Raises:
        ConversionError: its `config.json` is of our `model_type`, or is no JSON.
    """
    config = folder / "config.json"
    try:
        described = read_json_value(config, name=shown(str(config), 200)) if config.is_file() else {}
    except CheckpointError as error:
        raise ConversionError(str(error)) from error
    if isinstance(described, dict) and described.get("model_type") == model_type:
        raise ConversionError(f"{shown(folder.name)} is a hubsep model already; load it with from_pretrained")


def weights_file(source: Path, model_type: str, names: tuple[str, str]) -> Path:
    """The file weights are read from: `source` itself, or in a folder the first of `names` that is there.

    Raises:
        ConversionError: the folder holds neither, or is converted already.
    """
    if not source.is_dir():
        return source
    refuse_converted(source, model_type)
    for name in names:
        if (source / name).is_file():
            return source / name
    raise ConversionError(f"{shown(source.name)} holds neither {' nor '.join(names)}")


# None drops a tensor on purpose; several names split it along its first axis
Replacement = str | tuple[str, ...] | None
KeyTable = Sequence[tuple[str, Replacement]]
Model = TypeVar("Model", bound=nn.Module)

SHOWN_OFFENDERS = 3


def read_tensors(path: Path, under: Sequence[str] = ("state_dict",), *, mapped: bool = True) -> dict[str, Tensor]:
    """Reads the tensors of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    A checkpoint of a training run has its weights in a table of its own; the rest of it is not looked at.

    Args:
        path: of the file.
        under: what that table may be called; without any of these the file itself is the table.
        mapped: whether tensors stay in the pages of a PyTorch checkpoint until they are used. Without, each has memory
            of its own, which is free again as soon as nobody holds it: for converters that make others of most.

    Raises:
        ConversionError: the file is missing, broken, holds more than data, or a tensor has an unsafe name or no data.
    """
    if not path.is_file():
        raise ConversionError(f"{shown(str(path), 200)} is not a file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, under, mapped)
    if not tensors:
        raise ConversionError(f"{shown(path.name)} holds no tensors")
    for name, tensor in tensors.items():
        _check_name(name, path)
        _check_tensor(name, tensor, path)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        read_header(path)
        return load_file(path)
    except (CheckpointError, SafetensorError, OSError) as error:
        raise ConversionError(f"{shown(path.name)} cannot be read: {error}") from error


def read_metadata(path: Path, under: Sequence[str] = ("state_dict",)) -> dict[Any, Any]:
    """Reads what a PyTorch checkpoint holds beside the table of its weights; other files hold nothing.

    Nothing in it has been checked.

    Raises:
        ConversionError: the file is broken or holds more than data.
    """
    content = {} if path.suffix == ".safetensors" else _unpickle(path)
    table = next((name for name in under if name in content), None) if isinstance(content, Mapping) else None
    return {} if table is None else {name: value for name, value in content.items() if name != table}


def _read_pickle(path: Path, under: Sequence[str], mapped: bool) -> dict[Any, Any]:
    content = _unpickle(path, mapped)
    tensors = content
    if isinstance(content, Mapping):
        tensors = next((content[name] for name in under if name in content), content)
    if not isinstance(tensors, Mapping):
        raise ConversionError(f"{shown(path.name)} holds a {type(tensors).__name__}, not a table of tensors")
    return dict(tensors)


def _unpickle(path: Path, mapped: bool = True) -> Any:
    is_archive = zipfile.is_zipfile(path)
    try:
        if is_archive:
            _check_archive(path)
        with torch.serialization.safe_globals(_plain_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive and mapped)
    except ConversionError:
        raise
    except Exception as error:  # a broken or hostile pickle can raise anything
        raise ConversionError(
            f"{shown(path.name)} was not opened: it is damaged, or no PyTorch checkpoint, or holds more than tensors "
            f"and plain values{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What the file wanted beyond tensors, in brackets; "" of anything else: PyTorch's numbers tell nobody much."""
    message = re.split(r"WeightsUnpickler error:|from a trusted source\.", str(error))[-1]
    message = re.split(r"Please use `torch|Check the documentation", message)[0]
    printable = "".join(letter if letter.isprintable() else " " for letter in message)
    return f" ({' '.join(printable.split())[:200]})" if "global" in printable.casefold() else ""


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ConversionError(
                f"{shown(path.name)} is a compressed archive; PyTorch does not compress its checkpoints, unpack it"
            )


def _plain_globals() -> list[Any]:
    """What a scalar such as `numpy.float64(0.9)` needs, under the names of numpy 1 and 2, and `torch.__version__`."""
    core = np._core if hasattr(np, "_core") else np.core
    names = [f"numpy.{package}.multiarray.scalar" for package in ("core", "_core")]
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    return [*((core.multiarray.scalar, name) for name in names), np.dtype, *kinds, _codecs.encode, TorchVersion]


def _check_name(name: Any, path: Path) -> None:
    unsafe = not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable()
    if unsafe or "/" in name or "\\" in name or ".." in name:
        raise ConversionError(f"{shown(path.name)}: {shown(name)} is not accepted as the name of a tensor")


def _check_tensor(name: str, tensor: Any, path: Path) -> None:
    label = f"{shown(path.name)}: {shown(name)}"
    if not isinstance(tensor, Tensor):
        raise ConversionError(f"{label} is a {type(tensor).__name__}, not a tensor")
    dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_complex()
    if not dense or tensor.device.type != "cpu":
        raise ConversionError(f"{label} is not a dense tensor of real numbers")
    # a stride of zero would let a file of a hundred bytes claim a terabyte
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ConversionError(f"{label} claims the shape {tuple(tensor.shape)} but the file holds less")


def rename(tensors: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Renames tensors by the first row of `table` whose pattern matches the whole name.

    A replacement refers to groups of its pattern as `{name}`. The group `number` counts from one in the source and
    from zero in the result.

    Raises:
        ConversionError: a name matches no row, two names become the same, or a tensor cannot be split evenly.
    """
    rows = [(re.compile(pattern), replacement) for pattern, replacement in table]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        hit = next(((match, targets) for row, targets in rows if (match := row.fullmatch(name))), None)
        if hit is None:
            unknown.append(name)
            continue
        match, targets = hit
        names = [_expand(match, target) for target in ((targets,) if isinstance(targets, str) else targets or ())]
        for target, part in zip(names, _split(name, tensor, len(names)), strict=True):
            if target in renamed:
                raise ConversionError(f"{shown(name)} and another tensor both become {shown(target)}")
            renamed[target] = part
    if unknown:
        raise ConversionError(f"the source holds tensors this converter does not know: {offenders(unknown)}")
    return renamed


def _expand(match: re.Match[str], target: str) -> str:
    groups: dict[str, Any] = match.groupdict()
    if "number" in groups:
        groups["number"] = int(groups["number"]) - 1
    return target.format(**groups)


def _split(name: str, tensor: Tensor, parts: int) -> Sequence[Tensor]:
    if parts == 0:
        return ()
    if parts > 1 and (tensor.ndim == 0 or tensor.shape[0] % parts):
        raise ConversionError(f"{shown(name)} has the shape {tuple(tensor.shape)}; it must split into {parts} parts")
    return tensor.chunk(parts) if parts > 1 else (tensor,)


def shape_of(tensors: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """Shape of a tensor that sizes are inferred from.

    Raises:
        ConversionError: it is missing or has another number of axes.
    """
    if name not in tensors:
        raise ConversionError(f"the source is missing {shown(name)}")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank:
        raise ConversionError(f"{shown(name)} has the shape {shape}; {rank} axes are expected")
    return shape


def count_of(tensors: Iterable[str], pattern: str) -> int:
    """How many different values the one group of `pattern` takes over all names that begin with a match."""
    row = re.compile(pattern)
    return len({match[1] for name in tensors if (match := row.match(name))})


def fill(model: Model, state: Mapping[str, Tensor]) -> Model:
    """Gives `model`, built on the meta device, the tensors of `state` and returns it in evaluation mode.

    Raises:
        ConversionError: naming the first tensors that are missing, belong nowhere, or have another shape or kind.
    """
    wanted = model.state_dict()
    ways = {
        "the source is missing": [name for name in wanted if name not in state],
        "the source holds what the model has no place for": [name for name in state if name not in wanted],
        "shapes do not fit": [
            f"{name} has {tuple(state[name].shape)}, the model {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "kinds of numbers do not fit": [
            f"{name} is {state[name].dtype}, in the model {tensor.dtype}"
            for name, tensor in wanted.items()
            if name in state and state[name].is_floating_point() != tensor.is_floating_point()
        ],
        "there are NaN or infinities in": [name for name, tensor in state.items() if not _is_finite(tensor)],
    }
    for problem, names in ways.items():
        if names:
            raise ConversionError(f"{problem}: {offenders(names)}")
    model.load_state_dict(_apart(state, wanted), assign=True)
    return model.eval()


def _is_finite(tensor: Tensor) -> bool:
    """By its ends, which a NaN or an infinity would be: `isfinite` takes more memory than the tensor itself."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())


def _apart(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the model's kinds that share no memory, which saving would take for tied weights.

    Copied is only what shares it: the rest stays in the pages of the file it was read from, so that a conversion
    needs the memory of its source once, and not twice.
    """
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, like in wanted.items():
        tensor = state[name]
        is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        is_shared = not is_whole or tensor.data_ptr() in places
        places.add(tensor.data_ptr())
        tensors[name] = tensor.to(like.dtype, copy=is_shared).contiguous()
    return tensors


def hold(result: Any) -> None:
    """Gives the weights of a model, or of all models of a pipeline, memory of their own, apart from a file's pages."""
    parts = [result] if isinstance(result, nn.Module) else result.components.values()
    for model in (part for part in parts if isinstance(part, nn.Module)):
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()


def offenders(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(shown(name, 160) for name in names[:SHOWN_OFFENDERS])
    return text if len(names) <= SHOWN_OFFENDERS else f"{text} and {len(names) - SHOWN_OFFENDERS} more"


class OverrideError(ConversionError):
    """An override that the system does not have."""


def check_overrides(overrides: Mapping[str, Any], config_class: type, options: Sequence[str] = ()) -> None:
    """Refuses an override that is no field of `config_class` itself and none of the converter's `options`.

    Raises:
        OverrideError: naming the override and what there is.
        ConversionError: naming the override, if it is of another kind than the field.
    """
    settings = list(dict.fromkeys([*options, *config_class.__annotations__]))
    for name in overrides:
        if name not in settings:
            raise no_such_override(name, settings)
    defaults = config_class() if overrides else None
    for name, value in overrides.items():
        # its kind alone: what else it has to be may hang together with what the source tells
        if name not in options and not _is_like(value, getattr(defaults, name, None)):
            with conversion_errors(config_class.__name__):
                config_class(**{name: value})


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of a default; what has none by default may be of any."""
    kinds = {tuple: (list, tuple), list: (list, tuple), float: (int, float)}
    accepted = kinds.get(type(default), (type(default),))
    return default is None or (isinstance(value, accepted) and (isinstance(value, bool) is isinstance(default, bool)))


def no_such_override(name: str, settings: Sequence[str]) -> OverrideError:
    """The error that names an override that does not exist, and what there is."""
    meant = did_you_mean(name, settings)
    return OverrideError(f"there is no {shown(name)} to set.{meant} There are {', '.join(settings)}")


@contextmanager
def conversion_errors(name: str) -> Iterator[None]:
    """Turns what a configuration raises about sizes that came from a source into a `ConversionError`."""
    try:
        with config_errors(name):
            yield
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


__all__ = [
    "KeyTable",
    "OverrideError",
    "check_overrides",
    "conversion_errors",
    "count_of",
    "fill",
    "hold",
    "no_such_override",
    "offenders",
    "read_metadata",
    "read_tensors",
    "refuse_converted",
    "rename",
    "shape_of",
    "weights_file",
]
