# SPDX-License-Identifier: Apache-2.0
"""The audio-separation pipeline: any recording in, its sources out, at the same rate, channels and length.

Decisions: a call, `stream` and `separate_file` are one path, `_run`, collected differently. Nothing of a call is kept
on the pipeline, so threads may share it. Text is encoded once per call, and the model computes what does not depend on
the query once per segment. Mono models see the channels of a recording one by one; nothing is downmixed. Segments that
are digital silence stay digital silence and never reach the model. Where a model leaves level or order of its sources
open, `unordered.py` settles them segment by segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.audio import AudioWriter, OnShort
from hubsep.audio_writer import Clip
from hubsep.chunking import overlap_add_many
from hubsep.errors import AudioError
from hubsep.pipelines.base import AudioPipeline, check_output, from_rows, many, output_paths, to_rows
from hubsep.pipelines.queries import Plan, SeparationOptions, make_plan
from hubsep.pipelines.tracks import Tape, Track, Waveform
from hubsep.pipelines.unordered import Arranger, has_free_scale, is_unordered, order_channels, set_levels


QUERIES = {"queries", "query_audio", "query_embeds"}


class AudioSeparationPipeline(AudioPipeline):
    """Separates recordings with any `XForAudioSeparation` model.

    Built by `pipeline("audio-separation", model=...)`. Every argument of a call may also be given there, to be the
    default of all calls.
    """

    def __call__(
        self,
        inputs: Any,
        *,
        queries: str | Sequence[str] | None = None,
        query_audio: Any = None,
        query_embeds: Any = None,
        negative_queries: str | Sequence[str] | None = None,
        residual: bool | None = None,
        rescale: bool | None = None,
        only_active: bool | None = None,
        batch_size: int | None = None,
        segment_s: float | None = None,
        overlap_s: float | None = None,
        sampling_rate: int | None = None,
        on_short: OnShort | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> Any:
        """Separates one recording, or each of several.

        Args:
            inputs: a path, https URL, bytes, file object, array or tensor (channels, samples), a dict with "array" or
                "raw" and "sampling_rate", or a torchcodec decoder; or a list, dataset or generator of these.
            queries: what to separate, in words; one text or several. Only for text-queried models, like the next
                three. Queries of any kind replace all of those given to the pipeline.
            query_audio: example recordings of what to separate: one, a list, or a dict of labels and recordings.
            query_embeds: embeddings of unit length, (dim,), (num_queries, dim), or a dict of labels and (dim,).
            negative_queries: what to leave out, in words; applies to every query.
            residual: whether to add what is left of the mixture as a last source.
            rescale: whether sources of models trained without regard to level get the level with which they add up to
                the mixture as well as they can; yes by default.
            only_active: whether to leave out sources with a score of at most 0.5, for models with unordered sources.
                What they hold is then part of no source, not even of the residual.
            batch_size: segments the model sees at once; they may come from different recordings.
            segment_s: length of a segment in seconds, instead of the model's own; shorter needs less memory.
            overlap_s: what neighbouring segments share, in seconds.
            sampling_rate: of recordings given as bare arrays, in Hz.
            on_short: "raise" or "warn" when a file holds less audio than it claims.
            on_progress: called with the samples of the current recording that are done, and all of them if known.
                What it raises stops the call.

        Returns:
            For one recording a list of {"label", "audio", "sampling_rate", "score"}; audio is (channels, samples)
            float32, and score says from 0 to 1 whether the source is there at all: those above 0.5 are the speakers
            of a model with unordered sources. For a list, a list of those; for a dataset or generator, an iterator.

        Raises:
            QueryError: if queries are missing, or do not suit the model.
            AudioError: if a recording cannot be read or separated.
        """
        plan = self._plan(
            queries=queries,
            query_audio=query_audio,
            query_embeds=query_embeds,
            negative_queries=negative_queries,
            residual=residual,
            rescale=rescale,
            only_active=only_active,
            batch_size=batch_size,
            segment_s=segment_s,
            overlap_s=overlap_s,
            sampling_rate=sampling_rate,
            on_short=on_short,
            on_progress=on_progress,
        )
        recordings = many(inputs)
        if recordings is None:
            return next(self._results([inputs], plan))
        if not recordings:
            raise AudioError("the list of recordings is empty; pass at least one")
        results = self._results(recordings, plan)
        return list(results) if isinstance(recordings, list | tuple) else results

    def stream(self, source: Any, **options: Any) -> Iterator[list[dict[str, Any]]]:
        """Separates one recording block by block; memory does not grow with its length.

        Args:
            source: one recording, as in a call.
            **options: as in a call.

        Yields:
            For each block, a list of {"label", "audio", "sampling_rate"}. Joined in time, this is what a call returns.

        Raises:
            QueryError: as a call does, at once.
            AudioError: as a call does; at once with `only_active`, because scores are known at the end.
        """
        plan = self._plan(**options)
        if plan.options.only_active:
            raise AudioError("only the end of a stream shows which sources are active; leave out only_active")
        return (
            [_entry(label, audio, track) for label, audio in zip(plan.labels, block, strict=True)]
            for track, block, _ in self._run([source], plan)
        )

    def separate_file(
        self,
        source: Any,
        output: str | Path | Mapping[str, str | Path],
        *,
        template: str = "{name}.{label}.wav",
        subtype: str | None = None,
        clip: Clip = "raise",
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Separates one recording into files; memory does not grow with its length.

        The files appear when all of them are complete, and not at all if anything fails.

        Args:
            source: one recording, as in a call.
            output: folder for the files, made if missing, or a dict of labels and paths.
            template: names in the folder, made of {name} (of the recording) and {label}; the ending picks the format.
            subtype: sample format such as "PCM_16"; by default 32-bit floating point where the format has it, because
                a source may peak above 1 where the recording does not.
            clip: "raise" or "clamp", for samples that do not fit the subtype.
            **options: as in a call.

        Returns:
            A list of {"label", "path", "sampling_rate", "score"}.

        Raises:
            QueryError: as a call does.
            AudioError: as a call does, and if two outputs, or an output and the source, are the same file.
        """
        plan = self._plan(**options)
        with ExitStack() as files:
            writers: list[AudioWriter] = []
            for track, block, _ in self._run([source], plan):
                if not writers:
                    paths = output_paths(source, track.reader.name, plan.labels, output, template)
                    form: dict[str, Any] = {"subtype": subtype, "clip": clip, "samples": track.total_samples}
                    for path in paths:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        writer = AudioWriter(path, track.sampling_rate, track.channels, **form)
                        writers.append(files.enter_context(writer))
                for writer, audio in zip(writers, block, strict=True):
                    writer.write(audio)
            results: list[dict[str, Any]] = []
            for label, score, writer in zip(plan.labels, track.scores(), writers, strict=True):
                if plan.keeps(label, score):
                    facts = {"path": writer.path, "sampling_rate": track.sampling_rate, "score": score}
                    results.append({"label": label, **facts})
                else:
                    writer.discard()
        return results

    def preprocess(self, input_: Any, plan: Plan) -> Track:
        """Opens a recording."""
        return Track(
            input_,
            self.model.config.sampling_rate,
            len(plan.targets.labels),
            residual=plan.options.residual,
            unordered=is_unordered(self.model.config),
            sampling_rate=plan.options.sampling_rate,
            on_short=plan.options.on_short,
        )

    def _forward(self, input_tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Runs the model on equally long segments; only what the pipeline uses leaves the device."""
        output = self.model(**input_tensors)
        kept = {"sources": output.sources, "presence": output.presence_logits}
        return {name: tensor.float() for name, tensor in kept.items() if tensor is not None}

    def postprocess(self, model_outputs: Sequence[Tape], track: Track, plan: Plan) -> list[dict[str, Any]]:
        """Hands out what was recorded of each source."""
        return [
            {**_entry(label, tape.waveform(), track), "score": score}
            for label, tape, score in zip(plan.labels, model_outputs, track.scores(), strict=True)
            if plan.keeps(label, score)
        ]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Checks the names of the options; all of them are kept in the first dict."""
        unknown = sorted(set(options) - set(SeparationOptions.__dataclass_fields__))
        if unknown:
            known = ", ".join(SeparationOptions.__dataclass_fields__)
            raise TypeError(f"unknown option {', '.join(unknown)}; an audio-separation pipeline takes {known}")
        return options, {}, {}

    def _plan(self, **options: Any) -> Plan:
        """One call: what was given to it, else to the pipeline, else the defaults."""
        given, _, _ = self._sanitize_parameters(**{name: v for name, v in options.items() if v is not None})
        defaults = dict(self._preprocess_params)
        if self._batch_size is not None:
            defaults["batch_size"] = self._batch_size
        if not QUERIES.isdisjoint(given):
            defaults = {name: value for name, value in defaults.items() if name not in QUERIES}
        return make_plan(self.model, self.processor, SeparationOptions(**{**defaults, **given}))

    def _results(self, recordings: Iterable[Any], plan: Plan) -> Iterator[list[dict[str, Any]]]:
        tapes: list[Tape] = []
        for track, block, last in self._run(recordings, plan):
            tapes = tapes or [Tape(track.channels) for _ in plan.labels]
            for tape, audio in zip(tapes, block, strict=True):
                tape.write(audio)
            if last:
                yield self.postprocess(tapes, track, plan)
                tapes = []

    def _run(self, recordings: Iterable[Any], plan: Plan) -> Iterator[tuple[Track, Waveform, bool]]:
        """Read, resample, cut, separate, arrange, merge, resample back, add the residual: block by block."""
        tracks: deque[Track] = deque()
        presences: deque[Tensor | None] = deque()  # one entry a segment, in the order the segments come out again

        def opened() -> Iterator[Iterable[Tensor]]:
            for source in recordings:
                tracks.append(self.preprocess(source, plan))
                yield tracks[-1].blocks()

        def process(mixture: Tensor) -> Tensor:
            sources, presence = self._separate(mixture, plan)
            presences.extend(presence)
            return sources

        options: dict[str, Any] = {"batch_size": plan.options.batch_size}
        if is_unordered(self.model.config):
            options["arrange"] = Arranger(self.model.config.sampling_rate, plan.segments.overlap, presences)
        for _, sources, last in overlap_add_many(opened(), process, plan.segments, **options):
            track = tracks.popleft() if last else tracks[0]
            block = track.restore(sources, presences.popleft(), last=last)
            if plan.options.on_progress is not None:
                plan.options.on_progress(track.done_samples, track.total_samples)
            yield track, block, last

    def _separate(self, mixture: Tensor, plan: Plan) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Sources (batch, num_sources, channels, samples) of a batch of segments, and presence logits or Nones."""
        config, (batch, channels, samples), targets = self.model.config, mixture.shape, plan.targets
        rows = to_rows(mixture, config.num_channels)
        sources = torch.zeros(rows.shape[0], len(targets.labels), *rows.shape[1:])
        logits = torch.full(sources.shape[:2], -torch.inf)
        audible = rows.flatten(1).any(dim=1)
        output: dict[str, Tensor] = {}
        if audible.any():
            padded = torch.nn.functional.pad(rows[audible], (0, max(0, config.minimum_samples - samples)))
            output = self.forward({"input_values": padded, **targets.embeds})
            check_output(output["sources"], (padded.shape[0], len(targets.labels), *padded.shape[1:]))
            sources[audible] = output["sources"][..., :samples]
        if plan.options.rescale and has_free_scale(config):
            sources = set_levels(rows, sources)
        sources, presence = from_rows(sources, batch, channels), None
        if "presence" in output:
            logits[audible] = output["presence"]
            presence = logits.unflatten(0, (batch, -1))
        if config.num_channels == 1 and is_unordered(config):
            sources, presence = order_channels(sources, presence, config.sampling_rate)
        return sources, [None] * batch if presence is None else list(presence.amax(dim=1))


def _entry(label: str, audio: Waveform, track: Track) -> dict[str, Any]:
    return {"label": label, "audio": audio, "sampling_rate": track.sampling_rate}


__all__ = ["AudioSeparationPipeline"]
