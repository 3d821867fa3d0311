# SPDX-License-Identifier: Apache-2.0
"""An address on 127.0.0.1 that serves one file under every name, by ranges, and breaks off when it is to."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Files(http.server.BaseHTTPRequestHandler):
    """Serves one file, by ranges; the first answers end early."""

    content, cuts, ranges, agents = b"", 0, [], []  # type: ignore[var-annotated]

    def do_GET(self) -> None:
        kind = type(self)
        kind.ranges.append(self.headers["Range"])
        kind.agents.append(self.headers["User-Agent"])
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
        part = kind.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{len(kind.content)}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(kind.content) - 1}/{len(kind.content)}")
        self.end_headers()
        if kind.cuts:
            kind.cuts -= 1
            part = part[: len(part) // 2]
        with io.BytesIO(part) as file:
            self.wfile.write(file.read())

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, type[Files]]]:
    """The address, and what serves there."""
    handler = type("Handler", (Files,), {"ranges": [], "agents": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/2stems.tar.gz", handler
    finally:
        server.shutdown()
        server.server_close()


__all__ = ["Files", "serving"]
