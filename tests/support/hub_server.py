# SPDX-License-Identifier: Apache-2.0
"""A Hub in a thread: what huggingface_hub asks of one to make, fill and fetch repositories, and faults on demand.

Decisions: `.safetensors` go the way of large files (LFS: batch, PUT, then a line in the commit), all else is in the
commit. A Space is a repository `spaces/OWNER/NAME`. Xet is not spoken, so clients switch it off. Only 127.0.0.1 is
listened on. A fault meets requests whose "METHOD /path" a pattern finds, as often as it says: the connection is cut
halfway through the body, the request's for PUT and POST and the answer's for GET, or another status is answered.
A Hub that is hostile answers such requests in ways of its own.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_repository import Repository, entry, git_hash, is_large, sha256


CUT = 0
WRITER, READER = "hf_writerWRITERwriter", "hf_readerREADERreader"  # READER knows of no private repository


@dataclass
class Fault:
    """What is to go wrong: a status to answer, or CUT."""

    pattern: str
    status: int = CUT
    times: int = 1


class HubServer(ThreadingHTTPServer):
    """Answers at `url` until `stop`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.attacks: dict[str, Callable[[Handler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections: list[socket.socket] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def fault(self, pattern: str, status: int = CUT, times: int = 1) -> None:
        """Let the next requests that the pattern finds go wrong."""
        self.faults.append(Fault(pattern, status, times))

    def publish(self, name: str, files: dict[str, bytes]) -> None:
        """A new commit of a repository, which is made if it is not there."""
        self.repositories.setdefault(name, Repository()).commit("main", files, "published")

    def seen(self, pattern: str) -> list[dict[str, str]]:
        """Headers of the requests that the pattern finds."""
        return [headers for request, headers in self.requests if re.search(pattern, request)]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def stop(self) -> None:
        """Close the port and what is open to it; nobody answers there any more."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)

    def next_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self.answer_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer_request(self) -> None:
        self.path = urlsplit(self.path).path.replace("/api/spaces/", "/api/models/spaces/")
        request = f"{self.command} {self.path}"
        fault = self.server.next_fault(request)
        self.halved = fault is not None and fault.status == CUT
        self.server.requests.append((request, {name.lower(): value for name, value in self.headers.items()}))
        body = self.body()
        attacks = [attack for pattern, attack in self.server.attacks.items() if re.search(pattern, request)]
        if attacks:
            attacks[0](self)
        elif self.halved and self.command in ("POST", "PUT"):
            self.close_connection = True
        elif fault is not None and fault.status != CUT:
            self.refuse(fault.status, "", "made to fail")
        else:
            for pattern, method in ROUTES:
                if match := re.fullmatch(pattern, request):
                    method(self, body, *(group and unquote(group) for group in match.groups()))
                    return
            self.refuse(404, "", f"no such route: {request}")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size + 2)[:-2])
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size // 2 if self.halved else size)

    def send(self, content: bytes, status: int = 200, **headers: Any) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.halved else content)
        self.close_connection = self.close_connection or self.halved

    def json(self, content: Any, status: int = 200, **headers: Any) -> None:
        self.send(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def refuse(self, status: int, code: str, message: str, **headers: Any) -> None:
        self.json({"error": message}, status, X_Error_Code=code, X_Error_Message=message, **headers)

    def role(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return {WRITER: "writer", READER: "reader"}.get(token)

    def repository(self, name: str, *, write: bool = False) -> Repository | None:
        """The repository, if it is there and this token may see it; else the refusal was sent."""
        role, found = self.role(), self.server.repositories.get(name)
        if self.headers.get("Authorization") and role is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif found is None or (found.private and role != "writer"):
            self.refuse(404 if role else 401, "RepoNotFound", "Repository not found")
        elif write and role != "writer":
            self.refuse(403 if role else 401, "", "You have no write access to this repository")
        else:
            return found
        return None

    def whoami(self, body: bytes) -> None:
        role = self.role()
        if role is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self.json({"type": "user", "name": role, "orgs": [{"name": "org"}]})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        kind = "spaces/" if asked.get("type") == "space" else ""
        name = f"{kind}{asked.get('organization') or self.role()}/{asked['name']}"
        if self.role() != "writer":
            self.refuse(403 if self.role() else 401, "", "You have no right to create a repository here")
        elif name in self.server.repositories:
            self.json({"url": f"{self.server.url}/{name}", "error": "exists already"}, 409)
        else:
            self.server.repositories[name] = made = Repository(private=asked.get("visibility") == "private")
            made.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "first")
            self.json({"url": f"{self.server.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        self.json({"errors": [], "warnings": []})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self.repository(name, write=True)
        if repository is not None and branch in repository.branches:
            self.refuse(409, "", "Reference already exists")
        elif repository is not None:
            repository.branches[branch] = repository.branches["main"]
            self.json({})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        repository = self.repository(name, write=True)
        if repository is not None:
            here = repository.files(revision)
            self.json({"files": [self.mode(file["path"], here) for file in json.loads(body)["files"]]})

    def mode(self, path: str, here: dict[str, bytes]) -> dict[str, Any]:
        oid = None if path not in here else sha256(here[path]) if is_large(path) else git_hash(here[path])
        return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False, "oid": oid}

    def batch(self, body: bytes, name: str) -> None:
        if self.repository(name, write=True) is not None:
            wanted = [{"oid": item["oid"], "size": item["size"]} for item in json.loads(body)["objects"]]
            for item in wanted:
                if item["oid"] not in self.server.large:
                    item["actions"] = {"upload": {"href": f"{self.server.url}/large/{item['oid']}"}}
            self.json({"transfer": "basic", "objects": wanted})

    def store(self, body: bytes, oid: str) -> None:
        if sha256(body) != oid:
            self.refuse(400, "", "the content is not what its name says")
        else:
            self.server.large[oid] = body
            self.send(b"")

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self.repository(name, write=True)
        if repository is None:
            return
        files, message = dict(repository.files(revision)), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                del files[value["path"]]
        sha = repository.commit(revision, files, message)
        self.json({"success": True, "commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision; None if the refusal was sent."""
        repository = self.repository(name)
        sha = repository.sha(revision) if repository is not None else None
        if repository is not None and sha is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return (sha, repository.commits[sha]) if repository is not None and sha is not None else None

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if (found := self.at(name, revision or "main")) is not None:
            siblings = [{"rfilename": path} for path in sorted(found[1])]
            self.json({"id": name, "sha": found[0], "private": False, "tags": [], "siblings": siblings})

    def tree(self, body: bytes, name: str, revision: str, folder: str | None = None) -> None:
        if (found := self.at(name, revision)) is None:
            return
        entries = [entry(path, data) for path, data in sorted(found[1].items()) if path.startswith(folder or "")]
        if folder and not entries:
            self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        else:
            self.json(entries)

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        if (found := self.at(name, revision)) is None:
            return
        sha, files = found
        if path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=sha)
            return
        data = files[path]
        etag = sha256(data) if is_large(path) else git_hash(data)
        headers: dict[str, Any] = {"X_Repo_Commit": sha, "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(data[start:], 206, **headers)
        else:
            self.send(data, **headers)

    def log_message(self, format: str, *args: Any) -> None:
        pass


NAME, REVISION = r"((?:spaces/)?[\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES = (
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{NAME}/branch/{REVISION}", Handler.branch),
    (rf"POST /api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /large/(\w+)", Handler.store),
    (rf"POST /api/models/{NAME}/commit/{REVISION}", Handler.commit),
    (rf"GET /api/models/{NAME}(?:/revision/{REVISION})?", Handler.info),
    (rf"GET /api/models/{NAME}/tree/{REVISION}(?:/(.+))?", Handler.tree),
    (rf"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(.+)", Handler.resolve),
)


__all__ = ["READER", "WRITER", "Handler", "HubServer"]
