# SPDX-License-Identifier: Apache-2.0
"""The audio-separation pipeline: any recording in, its sources out, at the same rate, channels and length.

Decisions: a call, `stream` and `separate_file` are one path, `_run`, collected differently. Nothing of a call is kept
on the pipeline, so threads may share it. Text is encoded once per call, and the model computes what does not depend on
the query once per segment. Mono models see the channels of a recording one by one; nothing is downmixed. What each
step does is in `steps.py`. A model that has to know the whole recording beforehand gets it read more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor
from transformers.utils import ModelOutput

from hubsep.audio.formats import bitrate_kbps
from hubsep.audio.integers import write_together
from hubsep.audio.reader import AudioWriter, OnShort, open_audio
from hubsep.audio.sources import repeatable
from hubsep.audio.writer import Clip
from hubsep.errors import AudioError

from ..amounts import memory_errors
from ..base import AudioPipeline, many
from ..names import FIELDS, check_fields, check_free, output_paths
from ..results import Endless, Many, SeparatedSource, SourceBlock, SourceFile
from .options import CallOptions, SeparationOptions, check_names
from .steps import Steps, make_track
from .targets import Plan, make_plan
from .tracks import Tape, Track, Waveform


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hubsep.audio.sources import AudioInput

QUERIES = {"queries", "query_audio", "query_embeds"}
KEPT = {"sources": "sources", "presence": "presence_logits", "slots": "slots"}  # of what a model returns


class AudioSeparationPipeline(AudioPipeline):
    """Separates recordings with any `XForAudioSeparation` model.

    Built by `pipeline("audio-separation", model=...)`. Every argument of a call may also be given there, to be the
    default of all calls.
    """

    @overload
    def __call__(self, inputs: AudioInput, **options: Unpack[CallOptions]) -> list[SeparatedSource]: ...

    @overload
    def __call__(self, inputs: Many, **options: Unpack[CallOptions]) -> list[list[SeparatedSource]]: ...

    @overload
    def __call__(self, inputs: Endless, **options: Unpack[CallOptions]) -> Iterator[list[SeparatedSource]]: ...

    def __call__(
        self,
        inputs: Any,
        *,
        queries: str | Sequence[str] | None = None,
        query_audio: Any = None,
        query_embeds: Any = None,
        negative_queries: str | Sequence[str] | None = None,
        sources: str | Sequence[str] | Mapping[str, str] | None = None,
        model_options: Mapping[str, Any] | None = None,
        residual: bool | None = None,
        rescale: bool | None = None,
        only_active: bool | None = None,
        batch_size: int | None = None,
        segment_s: float | None = None,
        overlap_s: float | None = None,
        offset_s: float | None = None,
        duration_s: float | None = None,
        sampling_rate: int | None = None,
        on_short: OnShort | None = None,
        check_voices: bool | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
        **unknown: Any,
    ) -> Any:
        """Separates one recording, or each of several.

        Args:
            inputs: a path, https URL, bytes, file object, array or tensor (channels, samples), a dict with "array" or
                "raw" and "sampling_rate", or a torchcodec decoder; or a list, dataset or generator of these.
            queries: what to separate, in words; one text or several. "Everything but the voice", "no rain" and other
                negations are understood, in English. Only for text-queried models, like the next three. Queries of
                any kind replace all of those given to the pipeline.
            query_audio: example recordings of what to separate: one, a list, or a dict of labels and recordings.
            query_embeds: embeddings of unit length, (dim,), (num_queries, dim), or a dict of labels and (dim,).
            negative_queries: what to leave out, in words; applies to every query.
            sources: which sources of a fixed-source model come out, alone or added up: "vocals", "drums+bass",
                "mixture-drums" for everything but the drums; a text with commas, a list, or a dict of labels and sums.
            model_options: fields of the model's configuration that hold for this call, those it lists in
                `config.call_options`, such as {"wiener_filter": True} of Spleeter.
            residual: whether to add what is left of the mixture, less all that is returned, as a last source.
            rescale: whether sources of models trained without regard to level get the level with which they add up to
                the mixture as well as they can; yes by default.
            only_active: whether to leave out sources with a score of at most 0.5, for models with unordered sources.
                What they hold is then part of no source, not even of the residual.
            batch_size: segments the model sees at once; they may come from different recordings.
            segment_s: length of a segment in seconds, instead of the model's own; shorter needs less memory.
            overlap_s: what neighbouring segments share, in seconds. With 0, a Spleeter gives what its authors' own
                code gives for the whole recording.
            offset_s: where in a recording to begin, in seconds.
            duration_s: how many seconds of it to separate at most; all by default, however many there are.
            sampling_rate: of recordings given as bare arrays, in Hz.
            on_short: "raise" or "warn" when a file holds less audio than it claims.
            check_voices: whether a speaker's score hangs on a voice being heard in it, which is the default; False for
                other sounds that are separated as speakers.
            on_progress: called with the samples of a recording that are done, and all if known; may raise to stop.
            **unknown: nothing; here for an error that says which option was meant.

        Returns:
            For one recording a list of {"label", "audio", "sampling_rate", "score"}; audio is (channels, samples)
            float32, and score says from 0 to 1 whether the source is there at all: those above 0.5 are the speakers
            of a model with unordered sources. "layout" says which channel is which loudspeaker, where the recording
            does. What a query was taken for is "understood_as"; None if the model knows no such sound, and then
            "nearest" comes nearest. For a list of recordings, a list of those lists; for a dataset or generator, an
            iterator.

        Raises:
            QueryError: if queries are missing, or do not suit the model.
            AudioError: if a recording cannot be read or separated.
            TypeError: if there is no such option.
        """
        options = locals()  # every option by its name
        # 1. Check the options: those of the call, else of the pipeline, else the defaults
        chosen = self.check(**{name: options[name] for name in SeparationOptions.__dataclass_fields__}, **unknown)
        # 2. Encode the queries, and choose the segments
        plan = make_plan(self.model, self.processor, chosen)
        # 3. Tell one recording from several
        recordings = many(inputs)
        if recordings is None:
            return next(self.collect([inputs], plan))
        if not recordings:
            raise AudioError("the list of recordings is empty; pass at least one")
        # 4. to 10. are in `_run`: cut each, separate and merge it, block by block
        # 11. Collect the blocks of each recording
        results = self.collect(recordings, plan)
        return list(results) if isinstance(recordings, list | tuple) else results

    def stream(self, source: AudioInput, **options: Unpack[CallOptions]) -> Iterator[list[SourceBlock]]:
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
        plan = make_plan(self.model, self.processor, self.check(**options))
        if plan.options.only_active:
            raise AudioError("only the end of a stream shows which sources are active; leave out only_active")
        return (
            [track.entry(label, audio) for label, audio in zip(plan.labels, block, strict=True)]
            for track, block, _ in self._run([source], plan)
        )

    def separate_file(
        self,
        source: AudioInput,
        output: str | Path | Mapping[str, str | Path],
        *,
        template: str = "{name}.{label}.wav",
        subtype: str | None = None,
        clip: Clip = "raise",
        bitrate: int | str | None = None,
        overwrite: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[SourceFile]:
        """Separates one recording into files; memory does not grow with its length.

        They appear when all are complete, or not at all. In a subtype of integers, the sources are rounded and the
        residual is the recording less the rounded ones: they add up to the last bit.

        Args:
            source: one recording, as in a call.
            output: folder for the files, made if missing, or a dict of labels and paths.
            template: names in the folder, made of {name} (of the recording) and {label}, or {stem}, which is the same;
                the ending picks the format.
            subtype: sample format such as "PCM_16"; by default 32-bit floating point where the format has it, because
                a source may peak above 1 where the recording does not.
            clip: "raise" or "clamp", for samples that do not fit the subtype.
            bitrate: of MP3 files, such as "256k" or 256; by default the highest.
            overwrite: whether files that are there may be replaced.
            **options: as in a call.

        Returns:
            A list of {"label", "path", "sampling_rate", "score"}.

        Raises:
            QueryError: as a call does.
            AudioError: as a call does, and if two outputs, or an output and the source, are the same file, or a file
                is there already.
        """
        plan = make_plan(self.model, self.processor, self.check(**options), exact=True)
        cut_out = [label in plan.targets.from_recording for label in plan.labels]
        kbps = None if bitrate is None else bitrate_kbps(bitrate)
        check_fields(template, FIELDS, several=False)
        with ExitStack() as files:
            writers: list[AudioWriter] = []
            for track, block, _ in self._run([source], plan):
                if not writers:
                    paths = output_paths(source, track.reader.name, plan.labels, output, template)
                    check_free(paths, overwrite=overwrite)
                    writers = track.writers(paths, subtype=subtype, clip=clip, bitrate_kbps=kbps)
                    for writer in writers:
                        files.enter_context(writer)
                write_together(writers, list(block), from_recording=cut_out, residual=plan.options.residual)
            check_free(paths, overwrite=overwrite)  # again: it has taken a while
            results: list[SourceFile] = []
            for facts, writer in zip(plan.facts(track.scores()), writers, strict=True):
                if plan.keeps(facts["label"], facts["score"]):
                    results.append({**facts, "path": writer.path, "sampling_rate": track.sampling_rate})
                else:
                    writer.discard()
        return results

    def preprocess(self, input_: Any, plan: Plan) -> Track:
        """Opens a recording."""
        return make_track(open_audio(input_, **plan.options.opening), plan)

    def _forward(self, input_tensors: dict[str, Any], run: Callable[..., Any]) -> dict[str, Tensor]:
        """Runs the model on equally long segments; only what the pipeline uses leaves the device."""
        output = run(**input_tensors)
        if not isinstance(output, ModelOutput):
            return output
        return {name: output[field].float() for name, field in KEPT.items() if output.get(field) is not None}

    def postprocess(self, model_outputs: Sequence[Tape], track: Track, plan: Plan) -> list[SeparatedSource]:
        """Hands out what was recorded of each source."""
        return [
            {**track.entry(facts["label"], tape.waveform()), **facts}
            for tape, facts in zip(model_outputs, plan.facts(track.scores()), strict=True)
            if plan.keeps(facts["label"], facts["score"])
        ]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Checks the names of the options; all of them are kept in the first dict."""
        check_names(options)
        return options, {}, {}

    def check(self, **options: Any) -> SeparationOptions:
        """All options of one call: what was given to it, else to the pipeline, else the defaults.

        Args:
            **options: as in a call; None is left to the pipeline.

        Raises:
            TypeError: if there is no such option.
        """
        chosen, _, _ = self._sanitize_parameters(**{name: v for name, v in options.items() if v is not None})
        defaults = dict(self._preprocess_params)
        if self._batch_size is not None:
            defaults["batch_size"] = self._batch_size
        if not QUERIES.isdisjoint(chosen):
            defaults = {name: value for name, value in defaults.items() if name not in QUERIES}
        return SeparationOptions(**{**defaults, **chosen})

    def collect(self, recordings: Iterable[Any], plan: Plan) -> Iterator[list[SeparatedSource]]:
        """Records the blocks of each recording's sources in memory, and hands them out when the recording ends.

        Args:
            recordings: as in a call.
            plan: of the call.

        Yields:
            For each recording, what a call returns.
        """
        tapes: list[Tape] = []
        for track, block, last in self._run(recordings, plan):
            track.check_whole()
            tapes = tapes or [Tape(track.channels) for _ in plan.labels]
            for tape, audio in zip(tapes, block, strict=True):
                tape.write(audio)
            if last:
                yield self.postprocess(tapes, track, plan)
                tapes = []

    def _run(self, recordings: Iterable[Any], plan: Plan) -> Iterator[tuple[Track, Waveform, bool]]:
        """The blocks of one recording after the other, and whether each is the last of its recording."""
        steps = Steps(self.forward, partial(self.preprocess, plan=plan), plan)
        with memory_errors():
            if not steps.reads_first:
                yield from self._through(recordings, steps)
                return
            for recording in recordings:
                with repeatable(recording) as again:
                    # 4. Listen to the whole recording first, for its level or what the model gathers of it
                    steps.listen(again)
                    yield from self._through([again()], steps)

    def _through(self, recordings: Iterable[Any], steps: Steps) -> Iterator[tuple[Track, Waveform, bool]]:
        """Steps 5 to 10, block by block: nothing is held longer than the next step needs it."""
        # 5. Open each recording, take a constant off, resample it to the model's rate
        blocks = steps.open(recordings)
        # 6. Cut it into overlapping segments, in batches that may span recordings
        for batch in steps.cut(blocks):
            # 7. Separate them
            for separated in steps.separate(batch):
                # 8. Arrange the sources in the order of the segments before
                segment = steps.arrange(separated)
                # 9. Merge them with the segments before
                sources = steps.merge(segment)
                # 10. Restore the recording's rate, and add what is left of it
                yield steps.restore(sources, segment)


__all__ = ["AudioSeparationPipeline"]
