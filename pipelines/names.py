# SPDX-License-Identifier: Apache-2.0
"""Names of the files a recording's sources are written to.

Decisions: a template is filled in, not computed: `{name}` and no `{name!r:>99}`, which could ask for gigabytes. What
it makes lies in the folder of the results.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from hubsep.errors import AudioError
from hubsep.hub.bounds import shown
from hubsep.hub.file_names import LONGEST_NAME, key_of


FIELDS = ("name", "label", "stem")  # the stem is the label
# names that are devices on Windows, whatever their ending
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)", re.IGNORECASE)


def check_fields(template: str, fields: Collection[str], *, several: bool = True) -> None:
    """Refuses a template of file names that holds more than these fields, or cannot tell two sources apart.

    Args:
        template: with a field in braces.
        fields: that may be in it, "label" and "stem" among them.
        several: whether there may be two sources to tell apart.

    Raises:
        AudioError: if it is no text, or leaves the folder of the results; else naming what it may hold.
    """
    if not isinstance(template, str) or "\0" in template:
        raise AudioError(f"template must be a text such as '{{name}}.{{label}}.wav', got {shown(template)}")
    if Path(template).is_absolute() or ".." in Path(template).parts:
        raise AudioError(f"template {template!r} leaves the output folder")
    wanted = "needs {label} or {stem} and may use " if several else "may use "
    wanted += ", ".join(f"{{{field}}}" for field in fields)
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise AudioError(f"template {template!r}: {error}; it {wanted}") from error
    names = {field for field, *_ in parts}
    if not names <= set(fields) or (several and not {"label", "stem"} & names):
        raise AudioError(f"template {template!r} {wanted}")
    if any(form or conversion for _, form, conversion in parts):
        raise AudioError(f"template {template!r} {wanted}, without '!' and ':' in the braces")


def output_paths(
    source: Any, name: str, labels: Sequence[str], output: str | Path | Mapping[str, str | Path], template: str
) -> list[Path]:
    """Where the sources of a recording are written, in the order of `labels`.

    Args:
        source: the recording; none of the paths may be it.
        name: of the recording, for the template.
        labels: of the sources.
        output: folder, or a dict of labels and paths.
        template: file name with {name} and {label}, or {stem}, which is the same; checked by `check_fields`.

    Raises:
        AudioError: if a label has no path, two have the same, or one is no path, too long, or the recording itself.
    """
    if isinstance(output, Mapping):
        if set(output) != set(labels):
            given = ", ".join(map(shown, output))
            raise AudioError(f"output must have a path for each of {', '.join(labels)}; got {given or 'none'}")
        paths = [path_of(output[label], f"output of {label}") for label in labels]
    else:
        filed = [file_name(label) for label in labels]
        names = [template.format(name=file_name(name), label=label, stem=label) for label in filed]
        paths = [path_of(output, "output") / portable(name) for name in names]
    if len(set(map(key_of, paths))) < len(paths) or len({path.resolve() for path in paths}) < len(paths):
        raise AudioError(f"two sources would be written to one file: {', '.join(map(str, paths))}; name them apart")
    for path in paths:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            raise AudioError(f"{path.name[:60]}... is longer than a name may be; choose a shorter one")
    if isinstance(source, str | Path):
        origin = Path(source)
        if key_of(origin) in map(key_of, paths) or origin.resolve() in [path.resolve() for path in paths]:
            raise AudioError(f"{origin} is the recording itself; write its sources somewhere else")
    return paths


def path_of(place: str | os.PathLike[str], what: str) -> Path:
    """A place as a path.

    Args:
        place: what a caller gave.
        what: it is, for an error.

    Raises:
        AudioError: if it is no path.
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise AudioError(f"{what} must be a path such as 'separated', got {shown(place)}")
    return Path(text)


def check_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Refuses to write where something is; it is told as Python is asked, a command has a rule of its own.

    Raises:
        AudioError: naming the first such file; or if `overwrite` is neither true nor false.
    """
    if not isinstance(overwrite, bool):
        raise AudioError(f"overwrite must be True or False, got {shown(overwrite)}")
    there = [path for path in paths if os.path.lexists(path)]
    if there and not overwrite:
        others = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise AudioError(f"{there[0]}{others} is there already; pass overwrite=True to replace it, or another output")


def file_name(label: str) -> str:
    """A label as part of a file name: letters, digits and hyphens stay, everything else is an underscore.

    At most 100 bytes, because file systems stop at 255 and a name may hold two labels and an ending.
    """
    name = re.sub(r"[^\w-]+", "_", label.strip()).encode()[:100].decode(errors="ignore")
    return os.fsdecode(name.encode())  # where the system's own encoding lacks a letter, its bytes stand for it


def portable(name: str) -> Path:
    """A path whose parts are names on every system: con, aux and the like get an underscore, con_.wav."""
    return Path(*(RESERVED.sub(r"\1_", part) if RESERVED.match(part) else part for part in Path(name).parts))


__all__ = ["check_fields", "check_free", "file_name", "output_paths", "path_of", "portable"]
