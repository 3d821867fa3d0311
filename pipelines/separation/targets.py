# SPDX-License-Identifier: Apache-2.0
"""What a caller asks of a separation pipeline, and what it means to the model: labels and query embeddings.

Text, example recordings and ready-made embeddings may be mixed in one call; each is one source with a label of its
own. All texts of a call, the negative ones included, are encoded in one batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hubsep.audio.reader import read_audio
from hubsep.chunking import Segments
from hubsep.errors import CheckpointError, QueryError
from hubsep.hub.bounds import shown
from hubsep.texts import check_text

from ..results import SourceFacts
from .meanings import Meaning, find_text_queries, meaning_of, sums_of
from .options import SeparationOptions, with_options
from .protocols import QueryModel, SeparationConfig, SeparationModel
from .scores import ACTIVE_SCORE
from .sums import Sums, find_sums


RESIDUAL = "residual"
CUT_IT = "a few seconds of the sound are enough as an example: cut them out"

# A fast tokenizer sets its padding on first use and fails with "Already borrowed" when another thread is in it.
_TOKENIZING = threading.Lock()


@dataclass(frozen=True)
class Targets:
    """The sources of one call, in the order they are returned.

    Args:
        labels: one for each that is handed out; the residual is not among them.
        embeds: what the model's `forward` takes beside the waveform: `query_embeds` (num_sources, dim) and
            `negative_query_embeds` (num_negatives, dim), or nothing.
        num_sources: how many the model returns.
        sums: what is made of these, if anything.
        meanings: what each query was taken for, one a label; empty for models that take no queries.
    """

    labels: tuple[str, ...]
    embeds: Mapping[str, Tensor]
    num_sources: int
    sums: Sums | None = None
    meanings: tuple[Meaning, ...] = ()

    @property
    def from_recording(self) -> tuple[str, ...]:
        """Labels of those that hold the recording itself, less something, as `mixture-vocals` does."""
        return () if self.sums is None else self.sums.from_recording


def find_targets(separator: SeparationModel, processor: Any, options: SeparationOptions) -> Targets:
    """Turns the queries of a call into labels and embeddings; a fixed-source model needs none and takes none.

    Raises:
        QueryError: if queries are missing, empty, duplicated or not of a kind the model takes.
        CheckpointError: if text or recordings have to be encoded and the model came without a processor.
    """
    if not separator.config.is_text_queried:
        return _fixed_targets(separator.config, options)
    model = cast("QueryModel", separator)
    texts = _texts("queries", options.queries)
    negatives = _texts("negative_queries", options.negative_queries)
    examples = _examples(options.query_audio)
    vectors = _vectors(options.query_embeds)
    named = _named(model.config, options)
    if processor is None and (texts or negatives or examples):
        raise CheckpointError("this model came without a processor for its queries; pass query_embeds or processor=")
    labels = _unique(named, options.residual)
    names = tuple(model.config.query_classes)
    queries = find_text_queries(model, names, texts, partial(_encode_texts, model, processor))
    sounds = [_encode_example(model, processor, source, options) for _, source in examples]
    others = [*sounds, *(vector.to(model.device) for _, vector in vectors)]
    embeds = {"query_embeds": _stacked([*queries.embeds, *others])}
    if negatives:
        embeds["negative_query_embeds"] = _stacked(_encode_texts(model, processor, negatives))
    meanings = [*queries.meanings, *_meanings(model, named[len(texts) :], others)]
    sums = sums_of(labels, queries, len(others))
    return Targets(labels, embeds, len(embeds["query_embeds"]), sums, tuple(meanings))


def labels_of(config: SeparationConfig, options: SeparationOptions) -> tuple[str, ...]:
    """Labels of everything a call returns, the residual last: what the configuration and the options say of them.

    Raises:
        QueryError: see `find_targets`.
    """
    if config.is_text_queried:
        labels = _unique(_named(config, options), options.residual)
    else:
        labels = _fixed_targets(config, options).labels
    return (*labels, RESIDUAL) if options.residual else labels


def _named(config: SeparationConfig, options: SeparationOptions) -> list[str]:
    """What a text-queried model is asked for: texts, then examples and embeddings by their names."""
    if options.sources is not None:
        raise QueryError("this model separates what it is asked for; leave out sources and pass queries=")
    others = (_examples(options.query_audio), _vectors(options.query_embeds))
    named = [*_texts("queries", options.queries), *(label for pairs in others for label, _ in pairs)]
    if not named:
        raise QueryError(
            'this model separates what it is asked for; pass queries="..." (a text or a list of texts), query_audio= '
            f"(an example recording) or query_embeds=. {_sounds_of(config.known_sounds)}"
        )
    return named


@torch.no_grad()
def _meanings(model: QueryModel, labels: Sequence[str], embeds: Sequence[Tensor]) -> list[Meaning]:
    """What examples and embeddings were taken for."""
    shares = model.classify_queries(torch.stack(list(embeds))) if embeds else None
    names = tuple(model.config.query_classes)
    return [meaning_of(label, None if shares is None else shares[n], names) for n, label in enumerate(labels)]


def _fixed_targets(config: SeparationConfig, options: SeparationOptions) -> Targets:
    queries = (options.queries, options.query_audio, options.query_embeds, options.negative_queries)
    if any(kind is not None for kind in queries):
        raise QueryError(
            f"this {config.model_type} model always separates {_listed(config.source_names)}; leave out the queries"
        )
    names = config.source_names
    if options.sources is None:
        return Targets(_unique(names, options.residual), {}, len(names))
    sums = find_sums(config, options.sources)
    return Targets(_unique(sums.labels, options.residual), {}, len(names), sums)


def _stacked(embeds: list[Tensor]) -> Tensor:
    sizes = sorted({embed.shape[0] for embed in embeds})
    if len(sizes) > 1:
        raise QueryError(f"query embeddings of one call must be equally long, got {sizes[0]} and {sizes[1]} numbers")
    return torch.stack(embeds)


def _texts(name: str, queries: str | Sequence[str] | None) -> list[str]:
    if queries is None:
        return []
    texts = [queries] if isinstance(queries, str) else queries
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise QueryError(f"{name} must be a text or a list of texts, got {queries!r}")
    if not all(text.strip() for text in texts):
        raise QueryError(f"{name} must be a text or a list of texts, none of them empty, got {queries!r}")
    if not texts:
        raise QueryError(f"{name} is an empty list; pass at least one text, or leave it out")
    return [check_text(text, "a query") for text in texts]


def _examples(examples: Any) -> list[tuple[str, Any]]:
    """Example recordings with labels: given as a dict, else the file's name, else a number."""
    if examples is None:
        return []
    if isinstance(examples, Mapping) and "sampling_rate" not in examples:
        pairs = list(examples.items())
    else:
        listed = examples if isinstance(examples, list | tuple) else [examples]
        pairs = [(_file_label(source) or f"example {number}", source) for number, source in enumerate(listed, 1)]
    if not pairs:
        raise QueryError("query_audio is empty; pass at least one recording, or leave it out")
    return pairs


def _file_label(source: Any) -> str | None:
    return Path(source).stem if isinstance(source, str | Path) else None


def _vectors(query_embeds: Any) -> list[tuple[str, Tensor]]:
    if query_embeds is None:
        return []
    if isinstance(query_embeds, Mapping):
        pairs = [(label, _numbers(vector)) for label, vector in query_embeds.items()]
    else:
        rows = torch.atleast_2d(_numbers(query_embeds))
        pairs = [(f"query {number}", row) for number, row in enumerate(rows, 1)]
    if not pairs or any(vector.ndim != 1 for _, vector in pairs):
        raise QueryError("query_embeds must be (dim,), (num_queries, dim), or a dict of labels and (dim,)")
    for label, vector in pairs:
        # 1e-2: what is left of a unit length after rounding each number to bfloat16
        if not abs(float(vector.norm()) - 1) <= 1e-2:
            raise QueryError(f"{label!r} in query_embeds has length {float(vector.norm()):.4g}; divide it by its norm")
    return pairs


def _numbers(vector: Any) -> Tensor:
    try:
        return torch.as_tensor(vector).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise QueryError(f"query_embeds must be numbers, got {shown(vector)}") from error


def _unique(labels: Iterable[str], residual: bool) -> tuple[str, ...]:
    labels = tuple(labels)
    seen = {RESIDUAL} if residual else set()
    for label in labels:
        if not isinstance(label, str):
            raise QueryError(f"a label must be a text, got {label!r}")
        if label.strip().casefold() in seen:
            raise QueryError(
                f"{label!r} is asked for twice, upper and lower case are alike; every source needs a label of its own"
            )
        seen.add(label.strip().casefold())
    return labels


@torch.no_grad()
def _encode_texts(model: QueryModel, processor: Any, texts: list[str]) -> list[Tensor]:
    if not texts:
        return []
    with _TOKENIZING:
        features = processor(text=texts, return_tensors="pt")
    text_config: Any = model.config.query_config.text_config  # a dict only while it is loaded
    size, highest = text_config.vocab_size, int(features["input_ids"].max())
    if highest >= size:
        raise CheckpointError(f"the processor's tokens go up to {highest}, the model's to {size - 1}: not a pair")
    return list(model.encode_text(**{name: value.to(model.device) for name, value in features.items()}))


@torch.no_grad()
def _encode_example(model: QueryModel, processor: Any, source: Any, options: SeparationOptions) -> Tensor:
    recording = read_audio(source, sampling_rate=options.sampling_rate, on_short=options.on_short, way_out=CUT_IT)
    features = processor(audio=[recording.waveform], sampling_rate=recording.sampling_rate, return_tensors="pt")
    return model.encode_audio(**{name: torch.as_tensor(v).to(model.device) for name, v in features.items()})[0]


def _sounds_of(known_sounds: Sequence[str]) -> str:
    if not known_sounds:
        return "Any text goes."
    return f"The sounds it was trained on: {_listed(known_sounds)}."


def _listed(names: Sequence[str], most: int = 30) -> str:
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more (config.known_sounds)"


@dataclass(frozen=True)
class Plan:
    """One call, worked out: with what to separate, what, in which pieces, and how to hand it out."""

    model: SeparationModel
    options: SeparationOptions
    targets: Targets
    segments: Segments
    exact: bool = False  # for files: in float64 where float32 would round

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of everything that is returned, the residual last."""
        return (*self.targets.labels, RESIDUAL) if self.options.residual else self.targets.labels

    def facts(self, scores: Sequence[float]) -> list[SourceFacts]:
        """What is said of each source beside its waveform: label, score, and what a query was taken for.

        A sound the model does not know cannot be found: such a score is below a half.
        """
        meanings = [*self.targets.meanings, *[None] * (len(scores) - len(self.targets.meanings))]
        facts: list[SourceFacts] = []
        for label, score, meaning in zip(self.labels, scores, meanings, strict=True):
            facts.append({"label": label, "score": score if meaning is None else score * meaning.probability})
            if meaning is not None:
                facts[-1]["understood_as"] = meaning.understood_as
                if meaning.understood_as is None:
                    facts[-1]["nearest"] = meaning.nearest
        return facts

    def keeps(self, label: str, score: float) -> bool:
        """Whether a source is handed out, now that its score is known."""
        return not self.options.only_active or label == RESIDUAL or score > ACTIVE_SCORE


def check_active(config: SeparationConfig, options: SeparationOptions) -> None:
    """Refuses to leave out sources of a model whose scores do not say how many there are.

    Raises:
        QueryError: saying so.
    """
    if options.only_active and not config.unordered_sources:
        raise QueryError(
            "only_active is for models that separate an unknown number of speakers; this one returns what it is asked "
            "for or was made for, so choose by label or score"
        )


def make_plan(model: Any, processor: Any, options: SeparationOptions, *, exact: bool = False) -> Plan:
    """Works out a call before anything is read: encodes its queries, and chooses the segments.

    Args:
        model: of the pipeline.
        processor: of its queries; None for a model that takes none.
        options: of the call.
        exact: whether what is handed out is worked out in float64, for files.

    Raises:
        QueryError: see `find_targets`; also if the scores of the model do not say how many sources there are and only
            the active ones are asked for.
        CheckpointError: see `find_targets`; also if the model is in training mode.
        AudioError: if segment or overlap do not suit the model.
    """
    if model.training:
        raise CheckpointError("the model is in training mode, where its norms follow the input; call model.eval()")
    check_active(model.config, options)
    model = with_options(model, options.model_options)
    return Plan(model, options, find_targets(model, processor, options), options.segments(model.config), exact)


__all__ = ["RESIDUAL", "Plan", "SeparationOptions", "Targets", "check_active", "labels_of", "make_plan"]
