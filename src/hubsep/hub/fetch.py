# SPDX-License-Identifier: Apache-2.0
"""Fetching from the Hub within limits of size, number and time, whatever a server does.

huggingface_hub compares the size of a file when all of it is there, waits for as long as a byte comes now and then,
and calls files in its cache what the server calls them: an ETag of "../../x" is written outside of the cache.
Decisions: its own functions fetch, marked by their user agent. A hook in the HTTP client that they share looks at each
answer to them before it is used, and counts its bytes as they come; answers to anybody else pass it untouched. The
call runs in a thread that is waited for, because what drips the headers of an answer never gets to a hook. What comes
by Xet, which is not Python, is seen by the progress bar alone; it is as large as the listing says, which is bounded.
"""

from __future__ import annotations

import itertools
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from .. import __version__
from ..errors import CheckpointError


T = TypeVar("T")
MAX_FILES = 1_000  # to be fetched; published models have 5 to 60
MAX_ENTRIES = 50_000  # of listings, to be fetched or not
MAX_VALUES = 2_000_000  # in one listing; a file has a dozen
MAX_ANSWERS = 5_000
MAX_BYTES = 100 << 30
MAX_ANSWER_BYTES = 64 << 20  # of a listing, and of a file whose size nobody says
PATIENCE_S = 600.0  # a Hub that is asked too often says "in five minutes"
ANSWER_S, BYTES_PER_S = 2.0, 10_000  # what an answer and what its bytes add to that
CHECK_S = 1.0
AGAIN_S = 0.5
LIBRARY: dict[str, Any] = {"library_name": "hubsep", "library_version": __version__}  # who asks
END_S = 10.0  # what was asked for once more after an error ends with the next answer

# what becomes the name of a file
NAMING = ("etag", "x-linked-etag", "x-repo-commit", "x-xet-hash")
NAME = re.compile(r'(W/)?"?[\w.+=-]*"?')
COMMIT = re.compile(r"[0-9a-f]{40}")
OVER = "nobody waits for this download any more."
MARK = re.compile(r"hubsep-transfer-\d+\.")
WAIT_S = re.compile(r"(?:^|t=) *(\d+)")  # of `Retry-After`, and of the `t=` of `RateLimit`

_transfers: dict[str, _Transfer] = {}
_numbers = itertools.count()


def fetch(
    fetching: Callable[..., T],
    name: str,
    *arguments: Any,
    most_bytes: int = MAX_BYTES,
    look: Callable[[set[str]], None] | None = None,
    **options: Any,
) -> T:
    """Calls a function of huggingface_hub that downloads, within limits.

    Args:
        fetching: `snapshot_download` or `hf_hub_download`.
        name: of the repository.
        *arguments: further ones of the function.
        most_bytes: that its files may have together.
        look: is called with the paths of all files when they were listed, before any of them is fetched, and may
            raise what ends the call.
        **options: likewise.

    Raises:
        CheckpointError: if what the server sends is beyond a limit.
        Exception: what the function raises.
    """
    transfer = _Transfer(name, options.get("allow_patterns"), most_bytes, look)
    _transfers[transfer.mark] = transfer
    try:
        return transfer.wait_for(
            lambda: fetching(
                name, *arguments, **LIBRARY, user_agent=transfer.mark, tqdm_class=_bar_class(transfer), **options
            )
        )
    except (KeyboardInterrupt, SystemExit):
        transfer.end()
        raise
    finally:
        transfer.is_over = True
        del _transfers[transfer.mark]


class _Transfer:
    """One call, and what has come for it.

    Args:
        name: of the repository.
        patterns: of the files that are to be fetched, None for one file that was named.
        most_bytes: that they may have together.
        look: is called with the paths of all files.
    """

    def __init__(
        self,
        name: str,
        patterns: list[str] | None,
        most_bytes: int = MAX_BYTES,
        look: Callable[[set[str]], None] | None = None,
    ):
        self.mark = f"hubsep-transfer-{next(_numbers)}."
        self.progress, self.is_over = 0, False
        self._thread: threading.Thread | None = None
        self._name, self._patterns = name, patterns
        self._answers = self._received = self._entries = self._files = self._listed = 0
        self._most_listed, self._look = most_bytes, look
        self._paths: set[str] = set()
        self._most = MAX_ANSWER_BYTES if patterns is None else most_bytes

    def wait_for(self, call: Callable[[], T]) -> T:
        """Runs the call in a thread, for as long as enough comes."""
        results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put((call(), None))
            except BaseException as error:
                results.put((None, error))

        start = time.monotonic()
        _look_on()
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        while True:
            with suppress(queue.Empty):
                result, error = results.get(timeout=CHECK_S)
                if error is not None:
                    raise error
                return result
            _look_on()  # huggingface_hub begins with another client after some errors
            if time.monotonic() - start > PATIENCE_S + self._answers * ANSWER_S + self.progress / BYTES_PER_S:
                self._give_up()

    def end(self) -> None:
        """Ends what still waits for the server, on which Python itself would wait when it ends.

        More than once: a thread of huggingface_hub that asks again between the two calls does so by a client that
        nothing looks at.
        """
        from huggingface_hub import close_session

        self.is_over = True
        deadline = time.monotonic() + END_S
        while True:
            close_session()
            _look_on()
            if self._thread is None:
                return
            self._thread.join(AGAIN_S)  # it takes away what it has half of a file
            if not self._thread.is_alive() or time.monotonic() > deadline:
                return

    def _give_up(self) -> NoReturn:
        self.end()
        self._refuse(f"{self.progress} bytes in more than {PATIENCE_S:.0f} s are too slow; try again later, or")

    def go_on(self, step: str, info: Any) -> None:
        """Called by the HTTP client at each step of a request; a connection that was being made was not closed."""
        if self.is_over and step.endswith(".started") and "close" not in step:
            raise CheckpointError(OVER)

    def check_answer(self, response: Any) -> None:
        """Checks an answer (httpx's, or httpx2's) by its headers, and what follows when it is read."""
        self._answers += 1
        if response.request.method == "HEAD":
            for header in NAMING:
                self._check_name(header, response.headers.get(header))
        waits = [WAIT_S.search(response.headers.get(header, "")) for header in ("retry-after", "ratelimit")]
        if any(wait and int(wait[1]) > PATIENCE_S for wait in waits):
            self._refuse("the server asks to be asked again much later;")
        if self._answers > MAX_ANSWERS:
            self._refuse(f"it takes more than {MAX_ANSWERS} answers of the server;")
        is_listing = "/api/" in response.request.url.path
        says_size = "content-length" in response.headers and not is_listing
        self._bound(response, MAX_BYTES if says_size else MAX_ANSWER_BYTES)
        if is_listing and response.status_code < 300:
            content = self._parsed(response.read())
            self._check_listing(content)
            if isinstance(content, list) and self._look is not None:
                self._paths.update(str(entry.get("path")) for entry in content if isinstance(entry, dict))
                if "next" not in response.links:  # the last page
                    self._look(self._paths)

    def _parsed(self, listing: bytes) -> Any:
        """JSON of a server; empty lists take twenty times the memory of their text, so what it holds is counted."""
        if sum(map(listing.count, (b"[", b"{", b","))) > MAX_VALUES:
            self._refuse(f"the server lists more than {MAX_VALUES} values;")
        try:
            return json.loads(listing)
        except RecursionError:
            self._refuse("the server's listing is nested too deeply;")

    def _bound(self, response: Any, most: int) -> None:
        """Counts the bytes of an answer as they come, and as they are unpacked."""
        raw, unpacked = response.iter_raw, response.iter_bytes

        def iter_raw(chunk_size: int | None = None) -> Iterator[bytes]:
            for chunk in raw(chunk_size):
                if self.is_over:
                    raise CheckpointError(OVER)
                self.progress += len(chunk)
                yield chunk

        def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
            count = 0
            for chunk in unpacked(chunk_size):
                count += len(chunk)
                self._received += len(chunk)
                if count > most or self._received > self._most:
                    self._refuse(f"the server sent more than the {min(most, self._most)} bytes that it may;")
                yield chunk

        response.iter_raw, response.iter_bytes = iter_raw, iter_bytes

    def _check_listing(self, content: Any) -> None:
        """What a server says of a repository, or one page of its files."""
        if isinstance(content, dict) and content.get("sha") is not None and not COMMIT.fullmatch(str(content["sha"])):
            self._refuse("the server names a commit that cannot be one;")
        if isinstance(content, list) and self._patterns is not None:
            from huggingface_hub.utils import filter_repo_objects

            entries = {str(entry.get("path")): entry for entry in content if isinstance(entry, dict)}
            fetched = list(filter_repo_objects(entries, allow_patterns=self._patterns))
            self._entries += len(content)
            self._files += len(fetched)
            self._listed += sum(self._check_entry(entries[path]) for path in fetched)
            if self._files > MAX_FILES or self._entries > MAX_ENTRIES:
                self._refuse(f"it has more than {MAX_FILES} files to fetch, or {MAX_ENTRIES} in all;")
            if self._listed > self._most_listed:
                self._refuse(f"its files have more than {self._most_listed / 2**30:.3g} GiB;")
            self._most = MAX_ANSWER_BYTES + 2 * self._listed  # some are sent again after an error

    def _check_entry(self, entry: dict[str, Any]) -> int:
        """The size of a file of a listing."""
        stored = entry.get("lfs")
        large: dict[str, Any] = stored if isinstance(stored, dict) else {}
        for name in (entry.get("oid"), large.get("oid"), large.get("sha256"), entry.get("xetHash")):
            self._check_name("listing", name)
        sizes = [size for size in (entry.get("size"), large.get("size")) if isinstance(size, int)]
        return max([0, *sizes])

    def _check_name(self, place: str, name: Any) -> None:
        if name is not None and (not NAME.fullmatch(str(name)) or ".." in str(name)):
            self._refuse(f"the server's {place} would be a file outside of the cache;")

    def _refuse(self, reason: str) -> NoReturn:
        raise CheckpointError(
            f"{self._name!r} was not fetched from the Hub: {reason} fetch the files that you need with "
            f"`hf download {self._name} FILE ... --local-dir FOLDER`, and name that folder."
        )


def _look_on() -> None:
    """Puts the hooks into the client that huggingface_hub uses now."""
    from huggingface_hub import get_session

    client = get_session()
    for event, hook in (("request", _check_request), ("response", _check_answer)):
        hooks = client.event_hooks
        if hook not in hooks[event]:
            client.event_hooks = {**hooks, event: [*hooks[event], hook]}


def _transfer_of(request: Any) -> _Transfer | None:
    """The transfer that a request is for, None if it is somebody else's; what was given up asks for nothing more."""
    mark = MARK.search(request.headers.get("user-agent", ""))
    if mark is None:
        return None
    transfer = _transfers.get(mark[0])
    if transfer is None or transfer.is_over:
        raise CheckpointError(OVER)
    return transfer


def _check_request(request: Any) -> None:
    transfer = _transfer_of(request)
    if transfer is not None:
        request.extensions["trace"] = transfer.go_on


def _check_answer(response: Any) -> None:
    transfer = _transfer_of(response.request)
    if transfer is not None:
        transfer.check_answer(response)


def _bar_class(transfer: _Transfer) -> Any:
    """A progress bar of huggingface_hub that also tells the transfer."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            transfer.progress += int(n or 0)
            return super().update(n)

    return Bar


__all__ = ["LIBRARY", "fetch"]
