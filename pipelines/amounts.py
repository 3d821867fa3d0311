# SPDX-License-Identifier: Apache-2.0
"""How much sound is made at once, and memory that is not there.

What is made together is held in memory together: so many sounds of so many seconds are as much as one sound of all of
these seconds, and one may last an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hubsep.errors import QueryError, TooLittleMemoryError, is_out_of_memory
from hubsep.registry import MOST_SECONDS


LESS_AT_ONCE = (
    "make less at once: shorter sounds or parts of a recording, fewer prompts, candidates or variations, a smaller "
    "batch_size or segment_s; or load the model in half precision"
)


def check_amount(seconds: float, sounds: int, what: str) -> None:
    """Refuses more sound at once than is made.

    Args:
        seconds: of each sound.
        sounds: that are made together.
        what: they are, in the words of whoever asks for them.

    Raises:
        QueryError: naming both numbers.
    """
    if seconds * sounds > MOST_SECONDS:
        raise QueryError(
            f"{what} are {seconds * sounds:g} s of sound at once; at most {MOST_SECONDS} are made: ask for fewer or "
            "shorter ones"
        )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Says that there is too little memory, in place of what Python and PyTorch raise; also decorates functions.

    Raises:
        TooLittleMemoryError: with what to do instead.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TooLittleMemoryError) or not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TooLittleMemoryError(f"there is not enough memory for this ({reason}); {LESS_AT_ONCE}") from error


__all__ = ["check_amount", "memory_errors"]
