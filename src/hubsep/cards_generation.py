# SPDX-License-Identifier: Apache-2.0
"""How a card shows what `hubsep evaluate --dataset prompts` measured of a generator of sounds.

A figure stands beside the one that says what it is worth: the accuracy on generated sounds beside that on real ones, a
Frechet distance beside that of recordings that training heard, of other classes, and of noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


TASK = "text-to-audio"
COLUMNS = {
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
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows.values())]
    lines = [("class", *(COLUMNS[name] for name in shown)), ("---", *("---:" for _ in shown))]
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
        made, real, rolloff, real_rolloff = (results[name] for name in level)
        lines.append(
            f"Level {made:.1f} dB against full scale (recordings as training takes them {real:.1f}); 95 % of the "
            f"energy below {rolloff:.0f} Hz ({real_rolloff:.0f} Hz)"
        )
    return lines


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return _percent(value) if name.startswith(PERCENT) else str(value)


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.1 or not part else f"{100 * part:.1f} %"


__all__ = ["generation_table", "is_generation", "recognised"]
