# SPDX-License-Identifier: Apache-2.0
"""What a card says of results: a table for people, `model-index` and `.eval_results` for the Hub.

`model-index` in the README's front matter is the Hub's older form and takes any data. `.eval_results/*.yaml` is the
newer one; the Hub takes it only of a set that is registered with it as a benchmark, so it is written where
`hubsep evaluate --benchmark DATASET:TASK` named one, and not made up for sets that are our own.

Also here: how a card shows what `hubsep evaluate --dataset prompts` measured of a generator of sounds.

A figure stands beside the one that says what it is worth: the accuracy on generated sounds beside that on real ones, a
Frechet distance beside that of recordings that training heard, of other classes, and of noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


TASK = "text-to-audio"
GENERATION_COLUMNS = {
    "sounds": "sounds",
    "accuracy": "recognised",
    "accuracy_top3": "in the first three",
    "accuracy_unseen": "in unseen words",
    "recordings": "real recordings",
    "accuracy_real": "real, recognised",
    "accuracy_real_top3": "real, in the first three",
    "class_fad": "FAD",
    "class_fad_training": "FAD of training recordings",
    "class_fad_others": "FAD of other classes",
    "class_fad_noise": "FAD of noise",
}
PERCENT = "accuracy"
POOLED = {
    "fad": "Frechet audio distance of all classes together, in the classifier's embedding",
    "own_fad": "The same in the embedding of the model's own audio tower",
    "kl": "Divergence of the classifier's answers from those to real recordings, in nats",
    "own_clap": "CLAP score by the model's own text encoder, so no proof by itself",
}
BESIDE = {
    "_training": "recordings that training heard {}", "_others": "other classes {}", "_noise": "white noise {}",
    "_real": "held-out recordings {}",
}  # fmt: skip


def is_generation(results: Mapping[str, Any]) -> bool:
    """Whether results are of a generator."""
    return results.get("task") == TASK


def generation_table(results: Mapping[str, Any]) -> str:
    """Results by class and over all, as a Markdown table, and what is measured of all classes together as a list."""
    rows = {**results["classes"], "**all**": results}
    shown = [name for name in GENERATION_COLUMNS if any(row.get(name) is not None for row in rows.values())]
    lines = [("class", *(GENERATION_COLUMNS[name] for name in shown)), ("---", *("---:" for _ in shown))]
    lines += [(label, *(_cell(name, row.get(name)) for name in shown)) for label, row in rows.items()]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([table, "\n".join(f"- {line}." for line in _pooled(results))])


def recognised(results: Mapping[str, Any]) -> str:
    """The accuracy beside that on real recordings, in a few words."""
    return f"recognised {_percent(results['accuracy'])} (real sounds {_percent(results['accuracy_real'])})"


def _pooled(results: Mapping[str, Any]) -> list[str]:
    low, high = results["accuracy_ci"]
    lines = [
        f"Recognised: {_percent(results['accuracy'])} of {results['sounds']} sounds (95 % confidence: {_percent(low)} "
        f"to {_percent(high)}); guessing {_percent(results['chance'])}, real recordings "
        f"{_percent(results['accuracy_real'])}"
    ]
    for name, words in POOLED.items():
        if name in results:
            beside = [text.format(results[name + end]) for end, text in BESIDE.items() if name + end in results]
            lines.append(f"{words}: {results[name]}; " + ", ".join(beside))
    level = ("level_db", "level_db_real", "rolloff_hz", "rolloff_hz_real")
    if all(name in results for name in level):
        generated, real, rolloff, real_rolloff = (results[name] for name in level)
        lines.append(
            f"Level {generated:.1f} dB against full scale (recordings as training takes them {real:.1f}); 95 % of the "
            f"energy below {rolloff:.0f} Hz ({real_rolloff:.0f} Hz)"
        )
    return lines


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return _percent(value) if name.startswith(PERCENT) else str(value)


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.1 or not part else f"{100 * part:.1f} %"


COLUMNS = {
    "mixtures": "mixtures",
    "songs": "songs",
    "sdr": "SDR, dB",
    "isr": "ISR, dB",
    "sir": "SIR, dB",
    "sar": "SAR, dB",
    "sdr_mean": "mean SDR, dB",
    "sdr_mixture": "SDR of the mixture, dB",
    "si_snri": "SI-SNRi, dB",
    "si_snri_median": "median",
    "kept": "SI-SNR of a lone speaker, dB",
    "counted": "share counted right",
    "sdri": "SDRi, dB",
    "sdri_median": "median",
    "si_sdr": "SI-SDR, dB",
    "si_sdri": "SI-SDRi, dB",
    "si_sdri_median": "median",
    "accuracy": "recognised",
    "fad": "FAD",
    "kl": "KL",
    "unseen_sdri": "SDRi in unseen words, dB",
    "absent_level": "absent query, dB",
    "score_present": "score, present",
    "score_absent": "score, absent",
    "leak": "elsewhere, dB",
    "missed": "share missed",
    "false_alarms": "share of false alarms",
    "sdr_ci": "SDR, 95 %",
    "si_snri_ci": "SI-SNRi, 95 %",
    "sdri_ci": "SDRi, 95 %",
    "si_sdri_ci": "SI-SDRi, 95 %",
}
# what a model is judged by, in this order; figures of one row that are published
HEADLINE = ("sdr", "si_snri", "sdri", "si_sdr", "si_sdri", "accuracy", "fad", "kl")


def results_table(results: Mapping[str, Any]) -> str:
    """Results by class and, where there are such, over all of them, as a Markdown table."""
    if is_generation(results):
        return generation_table(results)
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in (results, *_rows(results).values()))]
    overall = [("**all**", results)] * any(name in results for name in shown)
    rows = [("class", *(COLUMNS[name] for name in shown)), ("---", *("---:" for _ in shown))]
    for label, row in [*_rows(results).items(), *overall]:
        rows.append((label, *(cell(row.get(name)) for name in shown)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def conditions_table(results: Mapping[str, Any]) -> list[str]:
    """The same model in other conditions, as a Markdown table with a heading; nothing where none were measured."""
    conditions = results.get("conditions")
    if not conditions:
        return []
    table = results_table({"classes": conditions}).replace("| class |", "| condition |", 1)
    return ["### Where it is not easy", table]


def cell(value: Any) -> str:
    """A figure, an interval or nothing, as it stands in a table."""
    if value is None:
        return ""
    return f"{value[0]} to {value[1]}" if isinstance(value, (list, tuple)) else str(value)


def conversations(results: Mapping[str, Any]) -> list[str]:
    """What was measured on long conversations, as a Markdown list; nothing where there were none."""
    lines = [
        f"- Conversation of {row['minutes']:g} minutes, {label}: SI-SNRi {row['si_snri']} dB over the whole of it; "
        f"outputs swap {row['swaps']} times in {row['seconds']} spoken seconds, {row['wrong_seconds']:.1%} of which "
        "are on the wrong output."
        for label, row in results.get("conversations", {}).items()
    ]
    return ["\n".join(lines)] if lines else []


def measured_on(card: Mapping[str, Any]) -> str:
    """What the results are of: in the card's words if these are said of the same command, else in the evaluation's."""
    results = card["results"]
    if card.get("evaluation_command") == results["command"]:
        return str(card["measured_on"])
    return str(results.get("measured_on", ""))


def improvement(results: Mapping[str, Any]) -> str:
    """SDR improvement over everything, or of each class where there is no such figure; how many sounds are known."""
    if is_generation(results):
        return recognised(results)
    if "sdri" in results:
        return str(results["sdri"])
    return ", ".join(f"{label} {row['sdri']}" for label, row in _rows(results).items() if "sdri" in row)


def headline(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """The figures a model is known by: metric, class ("" of all together), value."""
    rows = {"": results} if any(name in results for name in HEADLINE) else _rows(results)
    for label, row in rows.items():
        for name in HEADLINE:
            if row.get(name) is not None:
                yield name, label, row[name]


def model_index(card: Mapping[str, Any]) -> dict[str, Any]:
    """`eval_results` and `model_name` for `ModelCardData`; nothing where nothing was measured."""
    from huggingface_hub import EvalResult

    results = card.get("results")
    if not results:
        return {}
    benchmark = results.get("benchmark", {})
    entries = [
        EvalResult(
            task_type=card["pipeline_tag"],
            dataset_type=benchmark.get("dataset_id", "hubsep-evaluate"),
            dataset_name=benchmark.get("dataset_id", results["command"]),
            metric_type=name,
            metric_name=COLUMNS[name] + (f" ({label})" if label else ""),
            metric_value=value,
        )
        for name, label, value in headline(results)
    ]
    return {"eval_results": entries, "model_name": card["name"]} if entries else {}


def eval_results(card: Mapping[str, Any]) -> str:
    """The text of `.eval_results/hubsep.yaml`; empty where the set is no benchmark of the Hub."""
    results = card.get("results") or {}
    if "benchmark" not in results:
        return ""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(**results["benchmark"], value=value, notes=f"{COLUMNS[name]}{' of ' * bool(label)}{label}")
        for name, label, value in headline(results)
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return f"# {results['command']}\n{text}"


def _rows(results: Mapping[str, Any]) -> dict[str, Any]:
    return dict(results.get("classes", {}))


__all__ = [
    "COLUMNS",
    "HEADLINE",
    "cell",
    "conditions_table",
    "conversations",
    "eval_results",
    "generation_table",
    "headline",
    "improvement",
    "is_generation",
    "measured_on",
    "model_index",
    "recognised",
    "results_table",
]
