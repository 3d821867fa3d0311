# SPDX-License-Identifier: Apache-2.0
"""The folder a conversion leaves: model, processor and card, complete or absent, the same bytes from the same source.

The card names the authors of the original, its paper, who published the weights and under which licence, and the files
by name, size and SHA-256, and the repository of what lies in the Hub's cache. It holds no date and no path, because
two conversions of one file must not differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from hubsep.cards.card import write_card
from hubsep.errors import ConversionError
from hubsep.hub.bounds import shown
from hubsep.hub.licences import IDENTIFIER, README, allows_commercial_use, is_stated, spelled, stated_in_folder
from hubsep.hub.manifest import sha256
from hubsep.hub.models import atomic_folder, check_folder


CACHED = "models--"  # the Hub's cache calls the folder of a repository so, with -- for the slash
USE = """from hubsep import pipeline

separate = pipeline(model="FOLDER")
sources = separate("recording.wav")"""


@dataclass(frozen=True)
class Origin:
    """Whose a system is, who published the weights that are converted, and Python that uses them."""

    authors: str
    publisher: str
    use: str = USE


ORIGINS = {
    "audiosep": Origin(
        "X. Liu, Q. Kong, Y. Zhao, H. Liu, Y. Yuan, Y. Liu, R. Xia, Y. Wang, M. D. Plumbley and W. Wang",
        "its authors",
        USE.replace('.wav"', '.wav", queries=["dog barking"]'),
    ),
    "sepformer": Origin("C. Subakan, M. Ravanelli, S. Cornell, M. Bronzi and J. Zhong", "SpeechBrain"),
    "conv_tasnet": Origin("Y. Luo and N. Mesgarani", "torchaudio, or users of asteroid"),
    "spleeter": Origin("R. Hennequin, A. Khlif, F. Voituret and M. Moussallam", "Deezer"),
    "meta_tasnet": Origin("D. Samuel, A. Ganeshan and J. Naradowsky", "its authors"),
    "audiomae": Origin(
        "P.-Y. Huang, H. Xu, J. Li, A. Baevski, M. Auli, W. Galuba, F. Metze and C. Feichtenhofer",
        "its authors, or those of AudioLDM 2",
        'from transformers import AutoModel\nimport hubsep\n\nmodel = AutoModel.from_pretrained("FOLDER")',
    ),
    "clap": Origin(
        "Y. Wu, K. Chen, T. Zhang, Y. Hui, M. Nezhurina, T. Berg-Kirkpatrick and S. Dubnov",
        "LAION",
        'from transformers import ClapModel\n\nmodel = ClapModel.from_pretrained("FOLDER")',
    ),
    "audioldm2": Origin(
        "H. Liu, Y. Yuan, X. Liu, X. Mei, Q. Kong, Q. Tian, Y. Wang, W. Wang, Y. Wang and M. D. Plumbley",
        "its authors",
        'import hubsep\n\npipe = hubsep.AudioLDM2Pipeline.from_pretrained("FOLDER")\naudio = pipe("rain").audios[0]',
    ),
}


class LicenceError(ConversionError):
    """A licence that is not the one the source itself states."""


def check_licence(licence: str | None) -> str:
    """Returns the licence in the Hub's spelling, which is lower case.

    Raises:
        ConversionError: there is none, or it is no SPDX id and not "unknown".
    """
    if licence is None:
        raise ConversionError(
            "the licence of the weights is missing: pass licence= (--licence) an SPDX id such as MIT, or 'unknown'"
        )
    if not isinstance(licence, str) or not IDENTIFIER.fullmatch(licence):
        raise ConversionError(f"licence is {shown(licence)}; it must be an SPDX id such as MIT, or 'unknown'")
    return licence.lower()


def check_stated(licence: str, stated: str | None, where: str) -> None:
    """Refuses a licence that is not the one the source itself states.

    Args:
        licence: as `check_licence` returns it; "unknown" contradicts nothing.
        stated: in the Hub's spelling, None if the source states none.
        where: the place that states it.

    Raises:
        LicenceError: naming both.
    """
    if stated is not None and is_stated(stated) and is_stated(licence) and spelled(stated) != spelled(licence):
        raise LicenceError(
            f"licence is {licence}, but {where} puts the weights under {stated}: pass that (--licence {stated}), or "
            "'unknown'"
        )


def check_readme(licence: str, source: Path) -> None:
    """`check_stated` for the card in a folder that is converted, if it has one.

    Raises:
        ConversionError: if the card states another licence.
    """
    stated = stated_in_folder(source)
    check_stated(licence, stated if stated != "other" else None, f"its {README}")


def card(
    *,
    title: str,
    tag: str,
    paper: str,
    licence: str | None,
    sources: Sequence[Path],
    task: str = "audio-to-audio",
    topic: str = "audio-separation",
) -> dict[str, Any]:
    """The fields of the card of converted weights; see `hubsep.cards`.

    Args:
        title: name of the system.
        tag: `model_type`.
        paper: address of the paper.
        licence: as `check_licence` takes it.
        sources: the files the weights were read from.
        task: the Hub's tag of what the model does.
        topic: what people look for such models by.
    """
    licence, origin = check_licence(licence), ORIGINS[tag]
    files = [{"name": _as_code(path.name), "bytes": path.stat().st_size, "sha256": sha256(path)} for path in sources]
    return {
        "name": title,
        "model_type": tag,
        "system": title,
        "paper": paper,
        "authors": origin.authors,
        "pipeline_tag": task,
        "tags": [topic, tag],
        "licence": licence,
        "commercial": allows_commercial_use(licence),
        "summary": f"{title}, from weights published by {origin.publisher}; nothing was trained or changed.",
        "use": origin.use,
        **({"base_model": repository} if (repository := repository_of(sources[0])) else {}),
        "converted_from": files,
        "training": "The licence of the weights is stated by the person who converted them. Training data and results "
        "are in the paper.",
        "commands": [f"hubsep convert {tag} {files[0]['name']} FOLDER --licence {licence}"] if tag != "clap" else [],
    }


def repository_of(file: Path) -> str | None:
    """The repository of a file that lies in the Hub's cache; None for others."""
    for place, following in pairwise(file.absolute().parts):
        if place.startswith(CACHED) and following == "snapshots":
            return place.removeprefix(CACHED).replace("--", "/", 1)
    return None


def _as_code(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def write(output: Path, model: PreTrainedModel, card: Mapping[str, Any], *, processor: Any = None) -> None:
    """Writes model, processor and card to `output`, or leaves what was there.

    Raises:
        ConversionError: the folder cannot be written.
        CheckpointError: `output` holds files hubsep did not write, or the result would not load.
    """
    with atomic_folder(output) as folder:
        try:
            # not the model's own save_pretrained: that would make this unfinished folder look finished
            PreTrainedModel.save_pretrained(model, folder)
            if processor is not None:
                processor.save_pretrained(folder)
            write_card(folder, card)
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"{shown(str(output), 200)} could not be written: {error}") from error
        check_folder(folder, finite=False)


__all__ = ["ORIGINS", "LicenceError", "Origin", "card", "check_licence", "check_readme", "check_stated", "write"]
