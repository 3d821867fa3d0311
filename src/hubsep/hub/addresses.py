# SPDX-License-Identifier: Apache-2.0
"""Fetching a published file from an https address, which goes on where it was broken off.

For the addresses of the table of published checkpoints alone; `audio/url.py` is for addresses that a stranger names.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CheckpointError
from .wire import wire_errors


TRIES = 5
LOOPBACK = "127.0.0.1"  # this computer, which needs no https
TIMEOUT_S = 30.0  # for one answer


def fetch_address(address: str, target: Path, most_bytes: int, *, again: bool = False) -> Path:
    """The file of an address.

    Args:
        address: of the file.
        target: where it is kept; beside it is the part that came so far.
        most_bytes: it may have.
        again: whether it is fetched although it is there.

    Raises:
        CheckpointError: if it cannot be fetched, or is larger.
    """
    if target.is_file() and not again:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with wire_errors(f"{address} could not be fetched", False):
        for attempt in range(TRIES):
            if _continue(address, part, most_bytes):
                os.replace(part, target)
                return target
            if attempt == TRIES - 1:
                break
    raise CheckpointError(f"{address} broke off {TRIES} times; the next try goes on where it ended.")


def _continue(address: str, part: Path, most_bytes: int) -> bool:
    """Fetches what is missing of a file; whether that was all."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import tqdm

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    session = get_session()
    with session.stream("GET", address, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as answer:
        if any(each.url.scheme != "https" and each.url.host != LOOPBACK for each in (*answer.history, answer)):
            raise CheckpointError(f"{address} leads to an address that is not https.")
        if answer.status_code == 416:  # it has all of it, or another file is there now
            part.unlink()
            return False
        answer.raise_for_status()
        have = have if answer.status_code == 206 else 0
        length = answer.headers.get("content-length")
        total = have + int(length) if length is not None else None
        if total is not None and total > most_bytes:
            raise CheckpointError(f"{address} has {total} bytes, more than the {most_bytes} it may have.")
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=address.rpartition("/")[2]) as bar,
        ):
            try:
                for block in answer.iter_bytes():
                    have += len(block)
                    if have > most_bytes:
                        raise CheckpointError(f"{address} has more than the {most_bytes} bytes it may have.")
                    file.write(block)
                    bar.update(len(block))
            except CheckpointError:
                raise
            except Exception:  # broken off; the HTTP library below is not the same in every version
                return False
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


__all__ = ["fetch_address"]
