# SPDX-License-Identifier: Apache-2.0
"""Errors in the words of a command line: what Python calls `queries=` is `-q` here.

Decisions: what is wrong is found out below, where nobody knows who asks, and told in Python's names. They are
translated here, in one table, when a line is printed. A test looks for Python's names in what commands print. A
foreign error is translated where its cause is known, else it is one line, and `--debug` shows the traceback.
"""

from __future__ import annotations

import errno
import re

from ..errors import HubsepError, TooLittleMemoryError, is_out_of_memory
from ..hub.naming import FULL, of_the_system


DEBUG = "--debug"
LONGEST = 400  # letters of a name or of a foreign message; a path of a user has fewer
WAYS = {
    errno.ENAMETOOLONG: "choose a shorter name, or fewer folders",
    errno.ENOSPC: "make room on the disk, or write to another one",
    errno.EFBIG: "allow larger files (ulimit -f), or write to another disk",
    errno.EDQUOT: "make room on the disk, or write to another one",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.ENOTDIR: "part of that path is a file: choose another place",
}
LESS_MEMORY = (
    "shorter parts take less (--duration, --seconds), and so does less at once (--batch-size, --candidates, "
    "--set batch_size=1) or --low-memory"
)
# arguments of Python, and the options for them; not where they are a part of a file's name
OPTIONS = {
    "only_active": "--only-active", "on_short": "--on-short", "offset_s": "--offset",
    "duration_s": "--duration", "model_options": "--set", "negative_queries": "--negative",
    "query_audio": "--example", "num_inference_steps": "--steps", "guidance_scale": "--guidance",
    "negative_prompt": "--negative", "num_waveforms_per_prompt": "--candidates",
}  # fmt: skip
NOT_BEFORE, NOT_AFTER = r"(?<![\w./\\'\"-])", r"(?![\w/\\'\"-]|\.\w)"
# (what is said in Python, what a command says); the longer ones first
WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            r'pass queries="\.\.\." \(a text or a list of texts\), query_audio= \(an example recording\) '
            r"or query_embeds=",
            "say what with -q TEXT, which may be repeated, or with --example FILE",
        ),
        (r"leave out sources and pass queries=", "leave out --sources and say what with -q TEXT"),
        (r"leave out the queries\b", "leave out -q, --example and --negative"),
        (r"leave out sources\b", "leave out --sources"),
        (r"\bsources is empty\b", "--sources is empty"),
        (
            r'load it with hubsep\.AudioLDM2Pipeline, or pipeline\("text-to-audio", model=\.\.\.\)\.',
            "`hubsep generate --model` takes it.",
        ),
        (
            r'load it with pipeline\("audio-separation", model=\.\.\.\)\.',
            "`hubsep separate --model` takes it.",
        ),
        (r'pass on_short="warn" to use what is there', "--on-short warn uses what is there"),
        (r"pass query_embeds or processor=", "save it again together with its processor"),
        (r"load it with dtype=torch\.float32", "load it with --dtype float32"),
        (r" \(config\.known_sounds\)", " (hubsep list --sounds MODEL)"),
        (r"\bnegative_prompt=", "--negative "),
        *((f"{NOT_BEFORE}{name}{NOT_AFTER}", option) for name, option in OPTIONS.items()),
    )
)


def in_options(text: str) -> str:
    """A message with the options of the command line in place of the arguments of Python."""
    for pattern, words in WORDS:
        text = pattern.sub(words, text)
    return text


def explain(error: Exception) -> str:
    """An error in one line: one of our own as it is, a foreign one with what to do about it."""
    if isinstance(error, TooLittleMemoryError) and error.__cause__ is not None:
        error = MemoryError(str(error.__cause__))  # its way out is in Python's words
    if isinstance(error, HubsepError):
        cause = error.__cause__
        way = WAYS.get(cause.errno or 0) if isinstance(cause, OSError) and cause.errno in FULL else None
        return f"{str(error).rstrip('.')}; {way}" if way else str(error)
    if (cause := of_the_system(error)) is not None:
        return of_system(cause)
    text = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error):
        return f"there is not enough memory for this: {shortened(text)}; {LESS_MEMORY}"
    return f"unexpected {type(error).__name__}: {text}; run it again with {DEBUG} for a traceback to report"


def of_system(error: OSError) -> str:
    """An error of the system as it says it, with names of bearable length and, where one is known, the way out."""
    names = " -> ".join(repr(shortened(str(name))) for name in (error.filename, error.filename2) if name is not None)
    text = f"[Errno {error.errno}] {error.strerror}: {names}" if names and error.strerror else shortened(str(error))
    way = WAYS.get(error.errno or 0)
    return text + (f"; {way}" if way else "")


def shortened(text: str) -> str:
    """A text without its middle where it is longer than anybody reads."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


__all__ = ["DEBUG", "explain", "in_options", "of_system", "shortened"]
