# SPDX-License-Identifier: Apache-2.0
"""What stands before the web framework of a demo: requests that are too large, or that it would remember too long.

Decisions: gradio bounds each file of an upload, not their sum, and nothing else; and it keeps the name a visitor's
page gives to itself, the session hash, in several tables, whatever its length. So the size of every request is known
before it is read, and such a name is as short as those that pages really give. Pages in browsers and gradio's clients
say how long a request is, so one that does not is refused. What is large is the one route that writes a body to the
disk as it comes; every other reads it whole. A path is looked at as the framework does: the server has undone its
percent signs once, and nobody does so again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from .limits import DemoLimits


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAMES_OF_PAGES = ("session_hash", "upload_id", "event_id")
UPLOAD, HEARTBEAT = "/gradio_api/upload", "/gradio_api/heartbeat/"
MAX_ADDRESS_BYTES = 4_096
MAX_CALL_BYTES = 256 * 2**10  # of all but uploads: what was typed into a page, and names of files
MAX_FORM_BYTES = 64 * 2**10  # of an upload, beside its files


class Gate:
    """ASGI middleware that answers for the app where a request is too large.

    Args:
        app: what answers all others.
        limits: of the demo.
    """

    def __init__(self, app: App, limits: DemoLimits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As of any ASGI app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = _wrong_address(scope) or self._wrong_size(scope, headers)
        if refusal is None and not _is_upload(scope) and int(headers.get(b"content-length", b"0")):
            body, receive = await _whole(receive)
            refusal = _wrong_names(body)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await self._drain(headers, receive)
        await _answer(send, *refusal)

    def _wrong_size(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if b"transfer-encoding" in headers:
            return 411, "A request has to say how long it is."
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "This is no length."
        most = self._limits.max_upload_mb
        if _is_upload(scope) and int(length) > most * 2**20 + MAX_FORM_BYTES:
            size = int(length) / 2**20
            return 413, f"This is {size:.0f} MB, more than the {most} MB of one upload. Upload a part of it."
        if not _is_upload(scope) and int(length) > MAX_CALL_BYTES:
            return 413, "This is more than the page can be told at once. Use fewer words."
        return None

    async def _drain(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        """Reads what still comes, up to twice an upload: who is still sending does not hear an answer."""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > 2 * self._limits.max_upload_mb * 2**20 + MAX_CALL_BYTES:
            return
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass


def _is_upload(scope: MutableMapping[str, Any]) -> bool:
    return scope["method"] == "POST" and _route(scope) == UPLOAD


def _route(scope: MutableMapping[str, Any]) -> str:
    """The path without that of a server in front, as the framework compares it with its routes."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if path.startswith(f"{root}/") else path


def _wrong_address(scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
    """Too long a path, or a name in it that no page gives itself."""
    query = scope.get("query_string", b"")
    if len(scope["path"].encode()) + len(query) > MAX_ADDRESS_BYTES:
        return 414, "This address is too long."
    names = [value for name, value in parse_qsl(query.decode("latin-1")) if name in NAMES_OF_PAGES]
    if (route := _route(scope)).startswith(HEARTBEAT):
        names.append(route.removeprefix(HEARTBEAT).rstrip("/"))
    return None if all(map(SESSION.fullmatch, names)) else (400, "This is no name of a page.")


def _wrong_names(body: bytes) -> tuple[int, str] | None:
    """A name in a call that no page gives itself; what is no JSON is the app's to refuse."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        call = None
    names = [call[name] for name in NAMES_OF_PAGES if call.get(name) is not None] if isinstance(call, dict) else []
    right = all(isinstance(name, str) and SESSION.fullmatch(name) for name in names)
    return None if right else (400, "This is no name of a page.")


async def _whole(receive: Receive) -> tuple[bytes, Receive]:
    """The body of a request, and how to receive it again."""
    parts, message = [], await receive()
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
        message = await receive()
    body = b"".join(parts)
    waiting = [{"type": "http.request", "body": body, "more_body": False}] if message["type"] == "http.request" else []

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return body, again


async def _answer(send: Send, status: int, text: str) -> None:
    content = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": content})


__all__ = ["Gate"]
