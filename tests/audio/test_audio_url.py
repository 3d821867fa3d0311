# SPDX-License-Identifier: Apache-2.0
"""Recordings from an address: which are fetched, how long it may take, what a server may not do.

Servers are of this process and on the loopback interface; nothing else is connected to.
"""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import corpus
import pytest

from hubsep.audio import AudioLimits, read_audio
from hubsep.audio.url import download, is_public
from hubsep.errors import AudioError


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.org/a.wav", "only https"),
        ("file:///etc/passwd", "only https"),
        ("ftp://example.org/a.wav", "only https"),
        ("https:///a.wav", "only https"),
        ("https://localhost/a.wav", "not on the public internet"),
        ("https://127.0.0.1/a.wav", r"127\.0\.0\.1, which is not on the public internet"),
        ("https://2130706433/a.wav", r"127\.0\.0\.1"),
        ("https://0.0.0.0/a.wav", "not on the public internet"),
        ("https://10.1.2.3/a.wav", "not on the public internet"),
        ("https://192.168.0.1:8443/a.wav", "not on the public internet"),
        ("https://172.16.0.1/a.wav", "not on the public internet"),
        ("https://169.254.169.254/latest/meta-data", "not on the public internet"),
        ("https://100.64.0.1/a.wav", "not on the public internet"),
        ("https://224.0.0.1/a.wav", "not on the public internet"),
        ("https://[::1]/a.wav", "not on the public internet"),
        ("https://[::ffff:127.0.0.1]/a.wav", "not on the public internet"),
        ("https://[fe80::1]/a.wav", "not on the public internet"),
        ("https://[fc00::1]/a.wav", "not on the public internet"),
        ("https://[64:ff9b::7f00:1]/a.wav", "not on the public internet"),
        ("https://[2002:7f00:1::]/a.wav", "not on the public internet"),
        ("https://example.org:99999/a.wav", "is not an address"),
        ("https://[::1/a.wav", "is not an address"),
        ("https://" + "x" * 70 + ".org/a.wav", "cannot be fetched"),
    ],
)
def test_addresses_that_are_not_fetched(url: str, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        read_audio(url)


PUBLIC = ("1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1")
PRIVATE_IPV4 = ("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.31.255.255", "169.254.169.254", "100.100.100.200")


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *PRIVATE_IPV4, "0.0.0.0", "168.63.129.16", "192.0.0.192", "192.0.0.9", "192.88.99.1", "198.19.0.1",
        "203.0.113.7", "239.1.1.1", "240.0.0.1", "255.255.255.255", "161.26.0.6",
        "::", "::1", "fe80::a9fe:a9fe", "fe80::1%1", "2606:4700::1111%1", "fec0::1", "fc00::1", "fd00:ec2::254",
        "fd20:ce::254", "ff02::1", "ff0e::1", "100::1", "64:ff9b:1::a00:1", "64:ff9b:1::808:808", "2001:db8::1",
        "2001::1", "2001:2::1", "2001:20::1", "3fff::1", "4000::1", "5f00::1", "2606:4700::5efe:a00:1",
        "2606:4700::200:5efe:7f00:1", "", "localhost", "1.1.1.1.1", "0x7f.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("inside", PRIVATE_IPV4)
@pytest.mark.parametrize(
    "form", ["::{}", "::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}", "2002:{:x}:{:x}::"]
)
def test_private_addresses_in_every_form_of_the_longer_ones(form: str, inside: str) -> None:
    parts = socket.inet_aton(inside)
    halves = int.from_bytes(parts[:2], "big"), int.from_bytes(parts[2:], "big")
    assert not is_public(form.format(*halves) if ":x" in form else form.format(inside))


def test_teredo_is_never_public() -> None:
    hidden = socket.inet_aton("8.8.8.8")
    turned = ":".join(f"{value ^ 0xFFFF:x}" for value in (hidden[0] << 8 | hidden[1], hidden[2] << 8 | hidden[3]))
    assert not is_public(f"2001:0:4136:e378:8000:63bf:{turned}")


def test_secrets_in_an_address_are_not_shown() -> None:
    with pytest.raises(AudioError) as caught:
        read_audio("https://user:hunter2@127.0.0.1/a.wav?token=hunter3#hunter4")
    assert "hunter" not in str(caught.value)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one recording in several ways."""

    def log_message(self, *args: Any) -> None:
        """Keeps quiet."""

    def do_GET(self) -> None:
        data: bytes = self.server.data  # type: ignore[attr-defined]
        name, _, argument = self.path.strip("/").partition("/")
        if name == "to":
            self.send_response(302)
            self.send_header("Location", argument)
            self.end_headers()
            return
        if name == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if name != "unknown-length":
            self.send_header("Content-Length", str(len(data) + 10 * (name == "cut")))
        self.end_headers()
        with suppress(OSError):  # whoever has seen enough hangs up
            self.wfile.write(data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    arguments = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"]
    try:
        subprocess.run(["openssl", "req", *arguments, *names], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes a certificate for the test server, is not installed")
    return folder


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    return context


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "certificate.pem"))


def fetch(url: str, certificate: Path, **limits: Any) -> Any:
    return download(url, AudioLimits(**limits), allowed=lambda _: True, context=trusting(certificate))


@pytest.fixture(scope="module")
def https_server(certificate: Path) -> Iterator[tuple[str, ssl.SSLContext, bytes]]:
    data = corpus.encode(corpus.sound(5_000), format="WAV", subtype="FLOAT")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data = data  # type: ignore[attr-defined]
    server.socket = serving(certificate).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", trusting(certificate), data
    server.shutdown()
    server.server_close()


@contextmanager
def fetched(server: tuple[str, ssl.SSLContext, bytes], path: str, **limits: Any) -> Iterator[Any]:
    """What `download` gives if this one loopback address counts as public."""
    address, context, _ = server
    with download(
        address + path, AudioLimits(**limits), allowed=lambda found: found == "127.0.0.1", context=context
    ) as file:
        yield file


@pytest.mark.parametrize("path", ["/a.wav", "/unknown-length/a.wav", "/to//a.wav", "/a%20b.wav?x=1"])
def test_fetching(https_server: tuple[str, ssl.SSLContext, bytes], path: str) -> None:
    with fetched(https_server, path) as file:
        assert file.read() == https_server[2]


@pytest.mark.parametrize(
    ("path", "limits", "says"),
    [
        ("/missing", {}, "status 404"),
        ("/cut/a.wav", {}, "broke off 10 bytes before its end"),
        ("/a.wav", {"max_download_bytes": 1_000}, "above the limit of 1000"),
        ("/unknown-length/a.wav", {"max_download_bytes": 1_000}, "more bytes than the limit of 1000"),
        ("/a.wav", {"download_timeout_s": 0.0}, "longer than 0 s"),
        ("/to/http://127.0.0.1/a.wav", {}, "only https"),
        ("/to/file:///etc/passwd", {}, "only https"),
        ("/to/https://127.0.0.2/a.wav", {}, r"127\.0\.0\.2, which is not"),
        ("/to/https://169.254.169.254/a.wav", {}, "not on the public internet"),
        ("/to/" * 7 + "a.wav", {}, "more than 5 redirects"),
    ],
)
def test_fetching_that_fails(
    https_server: tuple[str, ssl.SSLContext, bytes], path: str, limits: dict[str, Any], says: str
) -> None:
    with pytest.raises(AudioError, match=says), fetched(https_server, path, **limits):
        pass


def test_certificates_are_checked(https_server: tuple[str, ssl.SSLContext, bytes]) -> None:
    with pytest.raises(AudioError, match="certificate verify failed"):
        download(https_server[0] + "/a.wav", AudioLimits(), allowed=lambda _: True)


class Dripping:
    """A server that is never done: it sends a beginning, and then a piece again and again."""

    def __init__(self, tls: ssl.SSLContext):
        self.begin, self.again, self.pause_s, self.tls = b"", b"", 0.02, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._context, self._over = tls, threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                self._answer(self.listener.accept()[0])

    def _answer(self, plain: socket.socket) -> None:
        with plain:
            if not self.tls:
                plain.recv(1)
                self._over.wait(HANG_S)
                return
            with self._context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(4_096)
                secure.sendall(self.begin)
                while not self._over.wait(self.pause_s):
                    secure.sendall(self.again)

    def stop(self) -> None:
        self._over.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # ends the waiting for the next client
        self.listener.close()
        self._thread.join()


@pytest.fixture
def dripping(certificate: Path) -> Iterator[Dripping]:
    server = Dripping(serving(certificate))
    yield server
    server.stop()


OK = b"HTTP/1.1 200 OK\r\n"
HANG_S = 60  # what is looked for never ends
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header": (OK + b"X: ", b"x"),
    "headers": (OK, b"X: y\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim headers": (b"HTTP/1.1 100 Continue\r\nX: ", b"x"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"5;", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "body": (OK + b"Content-Length: 9999\r\n\r\n", b"x"),
    "body without length": (OK + b"\r\n", b"x"),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: ", b"x"),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_server_that_is_never_done_is_left_in_time(drip: str, dripping: Dripping, certificate: Path) -> None:
    dripping.begin, dripping.again = DRIPS[drip]
    start = time.monotonic()
    with pytest.raises(AudioError, match=r"took longer than 0\.4 s"):
        fetch(f"https://127.0.0.1:{dripping.port}/a.wav", certificate, download_timeout_s=0.4)
    assert time.monotonic() - start < HANG_S


def test_a_server_that_does_not_greet_is_left_in_time(dripping: Dripping, certificate: Path) -> None:
    dripping.tls = False
    start = time.monotonic()
    with pytest.raises(AudioError, match=r"took longer than 0\.4 s"):
        fetch(f"https://127.0.0.1:{dripping.port}/a.wav", certificate, download_timeout_s=0.4)
    assert time.monotonic() - start < HANG_S


def test_a_name_server_that_does_not_answer_is_left_in_time(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait() and [])
    start = time.monotonic()
    with pytest.raises(AudioError, match=r"took longer than 0\.4 s"):
        fetch("https://example.org/a.wav", certificate, download_timeout_s=0.4)
    assert time.monotonic() - start < HANG_S
    over.set()


def test_what_a_server_says_is_shown_short_and_without_escape_codes(dripping: Dripping, certificate: Path) -> None:
    for answer in (b"HTTP/1.1 404 \x1b[2J", b"HTTP/1.1 302 x\r\nLocation: http://\x1b[2J"):
        dripping.begin, dripping.again = answer + b"x" * 5_000 + b"\r\n\r\n", b"x"
        with pytest.raises(AudioError) as caught:
            fetch(f"https://127.0.0.1:{dripping.port}/a.wav", certificate)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 700


def test_the_next_address_is_tried_where_one_does_not_answer(
    https_server: tuple[str, ssl.SSLContext, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, context, data = https_server
    port = int(address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    connect, tried, hosts = socket.create_connection, [], ["::1", "127.0.0.2", "127.0.0.1"]

    def connection(place: tuple[str, int], **options: Any) -> socket.socket:
        tried.append(place[0])
        with monkeypatch.context() as real:
            real.setattr(socket, "getaddrinfo", resolve)
            return connect(("127.0.0.1", port if place[0] == "127.0.0.1" else closed), **options)

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "create_connection", connection)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (host, port)) for host in hosts])
    with download(address, AudioLimits(), allowed=lambda _: True, context=context) as file:
        assert file.read() == data
    assert tried == hosts
    with pytest.raises(AudioError, match=r"127\.0\.0\.2, which is not"):
        download(address, AudioLimits(), allowed=lambda found: found != "127.0.0.2", context=context)
    assert tried == hosts, "nothing was connected to"
