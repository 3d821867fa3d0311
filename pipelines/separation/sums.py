# SPDX-License-Identifier: Apache-2.0
"""Which sources of a fixed-source model come out, alone or added up: `"vocals"`, `"drums+bass"`, `"mixture-drums"`.

Decisions: one syntax, here and on the command line. A sum is made of the names of the sources and `mixture`, the
recording itself, with + and - between them, each at most once; upper and lower case are the same. `karaoke=` before a
sum names it. Names are found before signs, so a source may be called "hi-hat". What a model leaves out of all its
sources, such as what lies above its band, is in `mixture-vocals` but not in `drums+bass+other`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.texts import near

from .protocols import SeparationConfig


MIXTURE = "mixture"


@dataclass(frozen=True)
class Sums:
    """What is handed out, as sums of what the model separates.

    Attributes:
        labels: one a sum.
        shares: of each source of the model in them, (sums, num_sources).
        mixture: of the recording in them, (sums,).
    """

    labels: tuple[str, ...]
    shares: Tensor
    mixture: NDArray[np.float32]

    @property
    def from_recording(self) -> tuple[str, ...]:
        """Labels of those that hold the recording itself, less something, as `mixture-vocals` does."""
        return tuple(label for label, share in zip(self.labels, self.mixture, strict=True) if share > 0)

    def of(self, sources: Tensor) -> Tensor:
        """The sums (batch, sums, channels, samples) of sources (batch, num_sources, channels, samples)."""
        return torch.einsum("os,bsct->boct", self.shares, sources)

    def presence(self, logits: Tensor) -> Tensor:
        """Logits (sums,) that each sum is there, of those of the sources, (num_sources,).

        A sum is there if one of its sources is; what is left of the mixture is, as far as anything is left of it.
        """
        best = torch.where(self.shares > 0, logits, -torch.inf).amax(dim=1)
        return torch.where(torch.from_numpy(self.mixture) > 0, torch.inf, best)


def find_sums(config: SeparationConfig, wanted: str | Sequence[str] | Mapping[str, str]) -> Sums:
    """Reads what was asked for.

    Args:
        config: of a fixed-source model.
        wanted: sums; a text of several with commas between them, a list, or a dict of labels and sums.

    Raises:
        QueryError: if the model has no such source, or sources that cannot be named beforehand.
    """
    names = tuple(config.source_names)
    if config.unordered_sources:
        raise QueryError(
            f"which voice this {config.model_type} model puts out as {names[0]!r} is not known beforehand; leave out "
            "sources, and choose by score or with only_active"
        )
    pairs = _labelled(wanted, names)
    if not pairs:
        raise QueryError(f"sources is empty; name at least one of {', '.join(names)}, or leave it out")
    labels, rows = [], []
    for label, text in pairs:
        row, plain = _read(text, names)
        labels.append(plain if label is None else label)
        rows.append(row)
    table = torch.tensor(rows)
    return Sums(tuple(labels), table[:, :-1], table[:, -1].numpy())


def _labelled(wanted: Any, names: Sequence[str]) -> list[tuple[str | None, str]]:
    if isinstance(wanted, Mapping):
        pairs: list[tuple[Any, Any]] = list(wanted.items())
    elif isinstance(wanted, str):
        pairs = [(None, text) for text in ([wanted] if wanted in names else wanted.split(","))]
    elif isinstance(wanted, Sequence):
        pairs = [(None, text) for text in wanted]
    else:
        raise QueryError(f"sources must be a text, a list of texts or a dict of labels and texts, got {wanted!r}")
    for label, text in pairs:
        if not isinstance(text, str) or not isinstance(label, str | None) or (label is not None and not label.strip()):
            raise QueryError(f"sources must name sums by texts, got {label!r}: {text!r}")
    return [_split(label, text, names) for label, text in pairs]


def _split(label: str | None, text: str, names: Sequence[str]) -> tuple[str | None, str]:
    """`karaoke=mixture-vocals` as label and sum."""
    head, equals, tail = text.partition("=")
    if label is None and equals and head.strip() and text not in names:
        return head.strip(), tail
    return label, text


def _read(text: str, names: Sequence[str]) -> tuple[list[float], str]:
    """Shares of the sources and, last, of the mixture; and the sum as it is written plainly."""
    columns = {name.casefold(): column for column, name in enumerate((*names, MIXTURE))}
    columns.update({name.casefold(): column for column, name in enumerate(names)})  # a source called mixture is meant
    spelled = (*names, MIXTURE)
    pattern = "|".join(re.escape(name) for name in sorted((*names, MIXTURE), key=len, reverse=True))
    row, plain, rest = [0.0] * (len(names) + 1), "", text.strip()
    while rest:
        match = re.match(rf"({'[+-]' if plain else ''})\s*({pattern})\s*(?=[+-]|$)", rest, re.IGNORECASE)
        column = columns[match[2].casefold()] if match else 0
        if match is None or row[column]:
            break
        row[column] = -1.0 if match[1] == "-" else 1.0
        plain += match[1] + spelled[column]
        rest = rest[match.end() :]
    if rest or not plain:
        raise QueryError(
            f"{text.strip()!r} is no sum of sources of this model, which separates {', '.join(names)}; write a name, "
            f"{'+'.join(names[:2])!r}, or '{MIXTURE}-{names[0]}' for everything but {names[0]}; each name once."
            f"{_meant(text, spelled)}"
        )
    return row, plain


OTHER_NAMES = {"voice": "vocals", "singing": "vocals", "instrumental": "accompaniment", "backing": "accompaniment",
               "rest": "other", "mix": MIXTURE, "drum kit": "drums", "percussion": "drums"}  # fmt: skip


def _meant(text: str, names: Sequence[str]) -> str:
    """The end of an error: the sum with its names as they are spelled, where each is near to one."""
    parts = re.split(r"([+-])", text.strip())
    meant = [part if part in "+-" else near(part.strip(), names, OTHER_NAMES) or "" for part in parts]
    words = "".join(meant)
    return f" Did you mean {words}?" if all(meant) and words.casefold() != text.strip().casefold() else ""


__all__ = ["MIXTURE", "Sums", "find_sums"]
