# SPDX-License-Identifier: Apache-2.0
"""Feature extractors and tokenizers from a folder, each built by a class that is known before the folder is opened.

transformers' `Auto...` classes look for a class in whatever file names one, and offer to run code where none is known.
Here the class is looked up in a list. What the libraries raise all the same, the tokenizers library's panics included,
arrives as one `CheckpointError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, HubsepError
from .bounds import shown
from .checks import check_files, check_tokenizer_files
from .files import VOCABULARY_NAMES
from .json_files import read_json
from .processors import CLAP, MAX_QUERY_TOKENS, TOKENIZER_CLASSES, check_preprocessor


DEFAULT_TOKENIZER = "TokenizersBackend"
# what a text may be made of: letters, digits, marks, words of other scripts, and nothing
PROBES = (
    "a dog barks",
    "Two dogs, 42 cats -- (perhaps) RAIN!",
    "\u00dcberfl\u00fcssig \u72ac \U0001f436 \u0130",
    "",
)


def load_feature_extractor(folder: Path) -> Any:
    """The CLAP feature extractor of a folder.

    Raises:
        CheckpointError: there is none, or it is not one of CLAP's.
    """
    from transformers import ClapFeatureExtractor

    fields: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            fields = content.get("feature_extractor", {}) if name == "processor_config.json" else content
            if fields:
                break
    label = f"the feature extractor of {shown(folder.name)}"
    if fields.get("feature_extractor_type") != CLAP:
        raise CheckpointError(
            f"{label} is {shown(fields.get('feature_extractor_type'))}; it must be described in "
            f"preprocessor_config.json or processor_config.json, as a {CLAP}."
        )
    check_preprocessor(label, fields)
    with library_errors(label):
        return ClapFeatureExtractor.from_dict(fields)


def load_tokenizer(folder: Path, class_name: str | None = None) -> Any:
    """The tokenizer of a folder that was checked, tried on a few texts.

    Args:
        folder: with the files of the tokenizer.
        class_name: of the tokenizer; what `tokenizer_config.json` says if None.

    Raises:
        CheckpointError: there is none, its class is not known here, or it cannot read a text.
    """
    import transformers

    label = f"the tokenizer of {shown(folder.name)}"
    if class_name is None:
        path = folder / "tokenizer_config.json"
        class_name = str(read_json(path).get("tokenizer_class", DEFAULT_TOKENIZER)) if path.is_file() else ""
    if class_name not in TOKENIZER_CLASSES:
        if class_name == "":
            raise CheckpointError(f"{shown(folder.name)} holds no tokenizer_config.json, and with it no tokenizer.")
        raise CheckpointError(f"{label} is a {shown(class_name)}; accepted are {', '.join(TOKENIZER_CLASSES)}.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", *VOCABULARY_NAMES)):
        raise CheckpointError(f"{label} has no vocabulary: there is no tokenizer.json, and no other file of one.")
    with library_errors(label):
        tokenizer = getattr(transformers, class_name).from_pretrained(folder, local_files_only=True)
        tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_QUERY_TOKENS)
        _written(tokenizer)
    return tokenizer


def _written(tokenizer: Any) -> list[int]:
    """The ids of a few texts, with those that the tokenizer puts around every text."""
    if getattr(tokenizer, "phonemize", False):  # a VITS tokenizer that needs a program for this
        return []
    return [number for ids in tokenizer(list(PROBES))["input_ids"] for number in ids]


def load_checked_tokenizer(folder: Path) -> Any:
    """As `load_tokenizer`, from a folder that nobody checked yet and that may hold other things too.

    Raises:
        CheckpointError: likewise.
    """
    check_tokenizer_files(folder)
    return load_tokenizer(folder)


def load_any_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or repository whose files may be older than the names of classes in them.

    For converters, which know what has to come out. The files of a folder are checked; code in it is never run.

    Raises:
        CheckpointError: it cannot be had.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir():
        check_tokenizer_files(name)
    with library_errors(f"the tokenizer {shown(name)}"):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def check_fit(tokenizer: Any, encoder: dict[str, Any], label: str) -> None:
    """Compare a tokenizer with the `config.json` of the text encoder it writes for; its longest text is cut to that.

    Args:
        tokenizer: from `load_tokenizer`.
        encoder: fields of the text encoder, or of a CLAP, or of an AudioSep.
        label: what errors call the tokenizer.

    Raises:
        CheckpointError: some token has an id that the encoder has no embedding for.
    """
    for part in ("query_config", "text_config"):
        if isinstance(encoder.get(part), dict):
            encoder = encoder[part]
    size, positions = encoder.get("vocab_size"), encoder.get("max_position_embeddings")
    highest = max(int(number) for number in (*tokenizer.get_vocab().values(), *_written(tokenizer)))
    if isinstance(size, int) and highest >= size:
        raise CheckpointError(
            f"{label} writes the id {highest}; the text encoder has a vocabulary of {size}, so ids go from 0 to "
            f"{size - 1}: they do not belong together."
        )
    if isinstance(positions, int):  # T5 and VITS have no such limit
        usable = positions - int(encoder.get("pad_token_id") or 0) - 1  # as RoBERTa, it counts from behind the padding
        tokenizer.model_max_length = max(1, min(tokenizer.model_max_length, usable))


@contextmanager
def library_errors(label: str) -> Iterator[None]:
    """Turn what a library raises about a folder, or a text, into a `CheckpointError` that names `label`.

    Raises:
        CheckpointError: for every error of the library.
    """
    try:
        yield
    except HubsepError:
        raise
    except Exception as error:
        raise _translated(label, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of compiled code; Ctrl-C must go through
            raise
        raise _translated(label, error) from error


def _translated(label: str, error: BaseException) -> CheckpointError:
    reason = " ".join(str(error).split())
    return CheckpointError(f"{label} cannot be used: {shown(reason or type(error).__name__, 200)}.")


__all__ = [
    "check_files",
    "check_fit",
    "library_errors",
    "load_any_tokenizer",
    "load_checked_tokenizer",
    "load_feature_extractor",
    "load_tokenizer",
]
