# SPDX-License-Identifier: Apache-2.0
"""Measures a text-queried separator on held-out recordings: per class, with labels, with unseen words, and in vain.

The benchmark is made of single recordings no training run has seen: each is mixed at 0 dB with one of another class.
The mixtures depend on the recordings and the seed alone. SDR improvement and SI-SDR improvement are against the
mixture. A query in vain is for a sound the model was taught, half the time of a family that is there; it is judged by
its score and by how much quieter than the mixture its output is. Scores are those a pipeline gives. What happens in
other conditions is measured by `evaluation.conditions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.multitracks import holds_songs
from ..data.pairs import evaluate_pairs, pair_mixtures
from ..data.recordings import check_heard, load_clips, split_clips
from ..pipelines import pipeline
from .conditions import evaluate_conditions
from .conditions import format_table as format_conditions
from .music import main as evaluate_music
from .report import Request
from .speech import main as evaluate_speech
from .trials import Trials, material


def format_table(result: dict[str, Any]) -> str:
    """The result as a text table, a line a class and one for all."""
    columns = ["mixtures", "sdri", "si_sdri", "unseen_sdri", "absent_level", "score_present", "score_absent"]
    columns += ["missed", "false_alarms"]
    shown = [name for name in columns if name in result]
    lines = [f"{'class':<20}" + "".join(f"{name:>15}" for name in shown)]
    for label, row in [*result["classes"].items(), ("all", result)]:
        lines.append(f"{label:<20}" + "".join(f"{row.get(name, float('nan')):>15}" for name in shown))
    return "\n".join(lines)


def run(request: Request) -> dict[str, Any]:
    """Evaluates a model on a folder of recordings, speakers or songs, or on MUSDB18, and prints the table.

    One that is not queried with text is given songs to separate if the folder holds such, and speakers if not.

    Raises:
        DataError: if the data and the model do not go together.
    """
    separator = pipeline(model=request.source)
    folders = [request.data / name for name in request.folder or (".",)]
    musdb = request.dataset == "musdb"
    if musdb or (not separator.model.config.is_text_queried and holds_songs(folders)):
        return evaluate_music(
            separator, request.data, folders=request.folder, all_recordings=request.all_recordings, musdb=musdb,
            limit=request.limit,
        )  # fmt: skip
    if not separator.model.config.is_text_queried:
        return evaluate_speech(
            separator, request.data, folders=request.folder, mixtures=request.mixtures,
            seconds=request.seconds or 4.0, speakers=request.speakers, seed=request.seed,
            all_recordings=request.all_recordings, conversation_minutes=request.conversation_minutes,
            noise=request.noise,
        )  # fmt: skip
    return evaluate_queries(separator, folders, request)


def evaluate_queries(separator: Any, folders: list[Path], request: Request) -> dict[str, Any]:
    """Evaluates a text-queried model on single recordings that are mixed here, and prints the tables."""
    rate, seconds = separator.model.config.sampling_rate, request.seconds or 5.0
    taught = separator.model.config.known_sounds
    clips = load_clips(folders, rate, commercial_only=not request.all_recordings)
    check_heard(clips)
    heldout = clips if request.all_recordings else split_clips(clips)[1]
    labels = {clip.labels[-1] for clip in heldout}
    targets = labels & set(taught) or labels
    pairs = pair_mixtures(heldout, rate, per_class=request.per_class, seconds=seconds, seed=request.seed)
    pairs = [pair for pair in pairs if pair.label in targets]
    with tqdm(total=len(pairs), desc="mixtures") as bar:
        result = evaluate_pairs(
            separator.model, separator.processor, pairs, unseen=True, intervals=True, on_progress=bar.update
        )
    trials = Trials(
        material(heldout, taught or sorted(targets), rate, seconds), -(-request.per_class // 4), request.seed
    )
    with tqdm(desc="other conditions") as bar:
        result["conditions"] = evaluate_conditions(separator, trials, on_progress=bar.update)
    print(format_table(result), format_conditions(result["conditions"]), sep="\n\n")
    origin = "of recordings no training saw" if request.all_recordings else "of recordings held out of training"
    result["measured_on"] = (
        f"On {result['mixtures']} mixtures of two recordings at 0 dB, {seconds:g} s, {origin}: SDR and SI-SDR "
        "improvement; the same with queries in words never used in training; the level of the output, against the "
        "mixture, for a sound the model was taught that is not there, half of them of a family that is there; the "
        "median score of sounds that are there and that are not; how often the first is below a half (missed) and the "
        "second above (false alarms)."
    )
    return result


__all__ = ["format_table", "run"]
