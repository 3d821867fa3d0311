# SPDX-License-Identifier: Apache-2.0
"""Fetching a published file from an https address, which goes on where it was broken off.

For the addresses of the table of published checkpoints alone; `audio/url.py` is for addresses that a stranger names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from ..errors import CheckpointError
from .fetch import BYTES_PER_S, LIBRARY, PATIENCE_S
from .wire import wire_errors


TRIES = 5
REDIRECTS = 5
LOOPBACK = "127.0.0.1"  # this computer, which needs no https
AGENT = "/".join(LIBRARY.values())
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
    part, deadline = target.with_name(f"{target.name}.part"), time.monotonic() + PATIENCE_S
    with wire_errors(f"{address} could not be fetched", False):
        for _ in range(TRIES):
            if _continue(address, part, most_bytes, deadline):
                os.replace(part, target)
                return target
    raise CheckpointError(f"{address} broke off {TRIES} times; the next try goes on where it ended.")


def _continue(address: str, part: Path, most_bytes: int, deadline: float) -> bool:
    """Fetches what is missing of a file; whether that was all."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import tqdm

    tag_file = part.with_name(f"{part.name}.tag")  # tells the file that was begun from another one
    tag = tag_file.read_text(encoding="ascii") if part.is_file() and tag_file.is_file() else ""
    have = part.stat().st_size if tag else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
    session, place = get_session(), address
    for _ in range(REDIRECTS + 1):
        _check_allowed(place, address)
        with session.stream("GET", place, headers=headers, timeout=TIMEOUT_S, follow_redirects=False) as answer:
            if answer.is_redirect:
                place = urljoin(place, answer.headers.get("location", ""))
                continue
            if answer.status_code == 416:  # it has all of it, or another file is there now
                part.unlink(missing_ok=True)
                return False
            answer.raise_for_status()
            is_rest = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(
                f"bytes {have}-"
            )
            have = have if is_rest else 0
            length = answer.headers.get("content-length")
            total = have + int(length) if length is not None else None
            if total is not None and total > most_bytes:
                raise CheckpointError(f"{address} has {total} bytes, more than the {most_bytes} it may have.")
            new_tag = answer.headers.get("etag", "")
            if not is_rest:
                part.unlink(missing_ok=True)
                is_usable = new_tag.isascii() and not new_tag.startswith("W/")  # a weak one is of no use for a range
                tag_file.write_text(new_tag if is_usable else "", encoding="ascii")
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=address.rpartition("/")[2])
            with part.open("ab") as file, bar:
                return _save(answer, file, bar, have, total, most_bytes, deadline, address)
    raise CheckpointError(f"{address} leads on more than {REDIRECTS} times.")


def _save(
    answer: Any, file: BinaryIO, bar: Any, have: int, total: int | None, most_bytes: int, deadline: float, address: str
) -> bool:
    """Writes what comes; whether it is all."""
    try:
        for block in answer.iter_bytes():
            have += len(block)
            if have > most_bytes:
                raise CheckpointError(f"{address} has more than the {most_bytes} bytes it may have.")
            if time.monotonic() > deadline + have / BYTES_PER_S:
                raise CheckpointError(f"{address} comes too slowly: {have} bytes so far; try again later.")
            file.write(block)
            bar.update(len(block))
    except CheckpointError:
        raise
    except Exception:  # broken off; the HTTP library below is not the same in every version
        return False
    file.flush()
    os.fsync(file.fileno())
    return total is None or have == total


def _check_allowed(place: str, first: str) -> None:
    """Refuses to ask an address that is not https; this computer may be asked if that was named first.

    Raises:
        CheckpointError: naming the address.
    """
    target, start = urlsplit(place), urlsplit(first)
    if target.scheme != "https" and not (target.hostname == start.hostname == LOOPBACK):
        raise CheckpointError(f"{first} leads to an address that is not https.")


__all__ = ["fetch_address"]
