# SPDX-License-Identifier: Apache-2.0
"""From separated waveforms to the files a user asked for: container, sample format, and what does not fit in it.

Decisions: an input keeps its container, and its sample format if that is lossless; what libsndfile cannot write
becomes WAV. Waveforms are kept as floating point until their peaks are known. A peak that an integer format cannot
hold turns the files of that recording, and only those, into floating point: nothing is cut off or turned down unless
the user asks for it, and then all sources of a recording are turned down alike, so that they still add up.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf

from ..audio.files import LOSSY_SUBTYPES
from ..audio.formats import FORMATS, PCM_BITS, kept_subtype
from ..audio.integers import write_together
from ..audio.layouts import Layout
from ..audio.limits import LOSSLESS_FLOATS
from ..audio.notes import Notes
from ..audio.reader import LONGEST_SECONDS, AudioLimits, AudioReader, AudioWriter, open_audio
from ..errors import AudioError
from ..hub.naming import called
from ..hub.processes import host, in_use


Clip = Literal["float", "clamp", "rescale", "raise"]
SCRATCH = ".separating-"


@dataclass(frozen=True)
class Form:
    """How outputs are stored: the ending of their names, a subtype or None for the ending's default, an MP3's rate.

    And what the recording says of its channels, and beside the samples.
    """

    extension: str
    subtype: str | None
    bitrate: int | None = None
    layout: Layout | None = None
    notes: Notes = field(default_factory=Notes, compare=False)

    @classmethod
    def of(cls, source: Path, asked: Mapping[str, Any]) -> Form:
        """What the user asked for; where nothing was asked for, the form of the recording.

        Args:
            source: the recording.
            asked: `extension`, `subtype` and `bitrate`, each may be None.

        Raises:
            AudioError: if the format is not one that can be written, or the recording cannot be read.
        """
        with open_for_form(source) as reader:
            return cls.of_reader(reader, source, asked)

    @classmethod
    def of_reader(cls, reader: AudioReader, source: Path, asked: Mapping[str, Any]) -> Form:
        """The same of a recording that is open."""
        own_format, own_subtype = reader.format, reader.subtype
        extension = asked["extension"]
        if extension is None:
            endings = [ending[1:] for ending, (name, _) in FORMATS.items() if name == own_format]
            own_ending = source.suffix[1:].lower()
            extension = own_ending if own_ending in endings else next(iter(endings), "wav")
        if "." + extension not in FORMATS:
            raise AudioError(f"cannot write {extension!r} files; use {', '.join(ending[1:] for ending in FORMATS)}")
        subtype = asked["subtype"] or kept_subtype(f"any.{extension}", own_subtype)
        return cls(extension, subtype, asked["bitrate"], reader.layout, reader.notes)

    @property
    def limit(self) -> float:
        """The largest sample it can hold."""
        subtype = self.subtype or FORMATS["." + self.extension][1]
        if subtype in LOSSLESS_FLOATS:
            return float("inf")
        return AudioLimits().max_lossy_peak if subtype in LOSSY_SUBTYPES else 1.0

    @property
    def bits(self) -> int | None:
        """Of its integers, None if it stores samples otherwise."""
        return PCM_BITS.get(self.subtype or FORMATS["." + self.extension][1])

    def beginning(self, offset_s: float) -> Form:
        """The same of a part that begins so many seconds later."""
        if not 0 <= offset_s <= LONGEST_SECONDS:  # which reading refuses
            return self
        return replace(self, notes=self.notes.later(round(offset_s * self.notes.sampling_rate)))

    def as_float(self) -> Form:
        """The same container with floating point samples, or WAV where it has none."""
        container = FORMATS["." + self.extension][0]
        extension = self.extension if sf.check_format(container, "FLOAT") else "wav"
        return replace(self, extension=extension, subtype="FLOAT", bitrate=None)


def open_for_form(source: Path) -> AudioReader:
    """Opens a recording to see how it is stored; whether it is cut short matters when it is separated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open_audio(source, on_short="warn")


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """A hidden folder in `output` for what is not complete."""
    output.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{host()}-{os.getpid()}-", dir=output)
    try:
        yield Path(scratch.name)
    finally:
        try:
            scratch.cleanup()
        except KeyboardInterrupt:  # in the middle of it; it does not go on by itself
            shutil.rmtree(scratch.name, ignore_errors=True)
            raise


def sweep(output: Path) -> None:
    """Removes the scratch folders that killed processes left; those of living ones stay."""
    for left in output.glob(f"{SCRATCH}*-*-*"):
        made_on, process, _ = left.name.removeprefix(SCRATCH).split("-", 2)
        with suppress(FileNotFoundError):  # another process has just removed it
            if re.fullmatch(r"[0-9]+", process) and not in_use(left, int(process), made_on):
                shutil.rmtree(left, ignore_errors=True)


def deliver(
    waveforms: Mapping[str, Path],
    place: Callable[[str, str], Path],
    form: Form,
    clip: Clip,
    scratch: Path,
    *,
    from_recording: Collection[str] = (),
    residual: bool = False,
) -> tuple[dict[str, tuple[Path, Path]], str]:
    """Writes waveforms in their final form, all or none; `records.move` then gives them their names.

    Args:
        waveforms: labels and floating point files.
        place: from a label and an extension to the file to write.
        form: how they are stored.
        clip: what to do if one of them does not fit: see the module's docstring.
        scratch: folder on the same disk, where they are until all are complete: a killed process leaves nothing beside
            the results, and what it leaves here is removed by the next.
        from_recording: labels of those that hold the recording itself, less something.
        residual: whether the last one is the recording less all others; see `audio/integers.py`.

    Returns:
        Labels with the file that is to be and the one in `scratch`; a remark on what did not fit, "" if all did.

    Raises:
        AudioError: if a file cannot be written, or a peak does not fit and `clip` is "raise".
    """
    peak = 0.0 if form.limit == float("inf") else max(map(peak_of, waveforms.values()), default=0.0)
    gain, remark = 1.0, ""
    if peak > form.limit:
        problem = f"a peak of {peak:.4g} does not fit into {form.subtype or form.extension}"
        if clip == "raise":
            raise AudioError(f"{problem}; use --subtype FLOAT, or --clip float, rescale or clamp")
        if clip == "rescale":
            gain = form.limit / peak
        before, form = form, form.as_float() if clip == "float" else form
        done = {"float": as_said(before, form), "clamp": "cut off", "rescale": f"all times {gain:.4g}"}
        remark = f"{problem}: {done[clip]}"
    paths = {label: place(label, form.extension) for label in waveforms}
    complete = {
        label: scratch / f"complete-{number}{path.suffix}" for number, (label, path) in enumerate(paths.items())
    }
    together = {"from_recording": [label in from_recording for label in waveforms], "residual": residual}
    with called({complete[label]: path for label, path in paths.items()}):
        _copy(list(waveforms.values()), list(complete.values()), form, gain, together)
    return {label: (path, complete[label]) for label, path in paths.items()}, remark


def as_said(asked: Form, written: Form) -> str:
    """What became of files that do not fit what was asked for."""
    if asked.extension == written.extension:
        return "written as 32-bit floating point"
    return f"written as {written.extension} with 32-bit floating point samples, which {asked.extension} cannot hold"


def _copy(sources: list[Path], targets: list[Path], form: Form, gain: float, together: dict[str, Any]) -> None:
    """Writes floating point files of one length, times `gain`, in their final form."""
    with ExitStack() as files:
        readers = [files.enter_context(open_audio(source)) for source in sources]
        writers = [
            files.enter_context(
                AudioWriter(
                    target,
                    reader.sampling_rate,
                    reader.channels,
                    subtype=form.subtype,
                    clip="clamp",
                    bitrate_kbps=form.bitrate,
                    samples=reader.claimed_samples,
                    layout=form.layout,
                    notes=form.notes,
                )
            )
            for target, reader in zip(targets, readers, strict=True)
        ]
        for blocks in zip(*(reader.exact_blocks() for reader in readers), strict=True):
            write_together(writers, [block * block.dtype.type(gain) for block in blocks], **together)


def peak_of(waveform: Path) -> float:
    """The largest magnitude of a recording."""
    with open_audio(waveform) as reader:
        return max(float(np.abs(block).max()) for block in reader.blocks())


__all__ = ["Clip", "Form", "deliver", "open_for_form", "peak_of", "scratch_folder", "sweep"]
