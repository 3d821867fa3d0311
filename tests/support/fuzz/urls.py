# SPDX-License-Identifier: Apache-2.0
"""Addresses, and servers on this computer that do not keep to the rules.

What is asked: no connection to an address that is not on the public internet, however it is written; and of a server
that is allowed here, the file it has or a refusal, within the limits of size and time.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import corpus

from fuzz.cases import Action, Case, Kind, expect
from fuzz.values import NAMES, changed_bytes
from hubsep.audio import read_audio
from hubsep.audio.addresses import is_public
from hubsep.audio.limits import AudioLimits
from hubsep.audio.url import download


TIMEOUT_S, MOST_BYTES = 0.8, 200_000
PATIENCE_S, FOREVER_S = 60, 3_600  # a machine may be busy; what is looked for never ends
PRIVATE = (
    "127.0.0.1",
    "10.1.2.3",
    "192.168.1.1",
    "172.16.9.9",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "127.99.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "240.0.0.1",
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e")
PRIVATE_6 = (
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",
    "64:ff9b:1::1",
    "2001::1",
    "3fff::1",
    "5f00::1",
)


def prepare(place: Path) -> None:
    """A certificate, and a recording to serve."""
    arguments = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(
        ["openssl", "req", *arguments, "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=place,
        check=True,
        capture_output=True,
    )
    (place / "sound").write_bytes(corpus.encode(corpus.sound(5_000), format="WAV"))


def make(case: Case) -> Action:
    """An address, or a server."""
    return make_address(case) if case.chance(0.4) else make_server(case)


def make_address(case: Case) -> Action:
    """A way to write an address that must not be reached, or one that may."""
    random = case.random
    if case.chance(0.15):
        address = random.choice(PUBLIC)
        case.note(f"public {address}")
        return lambda: verdict(address, True)
    address = random.choice([*PRIVATE, *PRIVATE_6]) if case.chance(0.4) else embedded(random.choice(PRIVATE), case)
    case.note(address)
    if case.chance(0.4):
        return lambda: verdict(address, False)
    host = f"[{address}]" if ":" in address else written(address, case)
    scheme = random.choice(["https", "https", "https", "HTTPS", "http", "ftp", "file", "data", "https:", "gopher"])
    user = random.choice(["", "", "user:secret@", "8.8.8.8@", "8.8.8.8\\@", "%00@"])
    port = random.choice(["", "", ":443", ":0", ":99999", ":x", ":-1"])
    path = random.choice(["a.wav", "", "..", "\0", "x" * 70_000, "%0d%0aX: y", "é", "?token=secret"])
    url = f"{scheme}://{user}{host}{port}/{path}"
    if case.chance(0.15):
        url = random.choice(
            [
                url.replace("//", "/"),
                url.replace("//", "///"),
                " " + url,
                url.upper(),
                random.choice(NAMES) + url,
                url.replace("/", "\\"),
                "https://" + random.choice(NAMES).replace("{outside}", "x"),
            ]
        )
    case.note(url[:200])
    return lambda: refused(url)


def written(address: str, case: Case) -> str:
    """An IPv4 address as a number, in octal, in hexadecimal or with parts left out."""
    parts = [int(part) for part in address.split(".")]
    number = int(ipaddress.IPv4Address(address))
    return case.random.choice(
        [
            address,
            str(number),
            hex(number),
            ".".join(f"0{part:o}" for part in parts),
            ".".join(map(hex, parts)),
            f"{parts[0]}.{number & 0xFFFFFF}",
            address + ".",
            "".join(chr(0xFF10 + int(c)) if c.isdigit() else c for c in address),
            f"0{parts[0]:o}.{number & 0xFFFFFF}",
        ]
    )


def embedded(address: str, case: Case) -> str:
    """An IPv4 address inside an IPv6 one."""
    number = int(ipaddress.IPv4Address(address))
    host = case.random.getrandbits(16)
    values = {
        "mapped": 0xFFFF << 32 | number,
        "compatible": number,
        "NAT64": 0x64FF9B << 96 | number,
        "6to4": 0x2002 << 112 | number << 80 | host,
        "Teredo": 0x20010000 << 96 | 0x08080808 << 64 | (number ^ 0xFFFFFFFF),
        "translated": 0xFFFF << 48 | number,
        "ISATAP": 0xFE80 << 112 | 0x5EFE << 32 | number,
        "local NAT64": 0x64FF9B0001 << 80 | number,
    }
    return str(ipaddress.IPv6Address(case.choose(values)))


def verdict(address: str, public: bool) -> str:
    """What the table says of an address."""
    expect(is_public(address) is public, f"{address} is taken for {'private' if public else 'public'}")
    return "public" if public else "private"


def refused(url: str) -> str:
    """An address that is not fetched; the guard sees any attempt. What is no address is a path that is not there."""
    found = read_audio(url, limits=AudioLimits(download_timeout_s=TIMEOUT_S))
    raise AssertionError(f"{url} was read: {found.waveform.shape}")


def make_server(case: Case) -> Action:
    """A server that answers, in one of many ways, and what is fetched from it."""
    data = (case.templates / "sound").read_bytes()
    pieces, whole = answer(data, case)
    case.serves = True
    trusting = ssl.create_default_context(cafile=str(case.templates / "certificate.pem"))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(case.templates / "certificate.pem", case.templates / "key.pem")
    server = socket.create_server(("127.0.0.1", 0))
    silent = case.chance(0.05)
    if silent:
        case.note("never speaks")
    thread = threading.Thread(target=serve, args=(server, serving, pieces, silent), daemon=True)

    def act() -> str:
        thread.start()
        start = time.monotonic()
        limits = AudioLimits(download_timeout_s=TIMEOUT_S, max_download_bytes=MOST_BYTES)
        try:
            with download(
                f"https://127.0.0.1:{server.getsockname()[1]}/a.wav",
                limits,
                allowed=lambda address: address == "127.0.0.1",
                context=trusting,
            ) as file:
                content = file.read()
        finally:
            spent = time.monotonic() - start
            expect(spent < PATIENCE_S, f"it took {spent:.1f} s; {TIMEOUT_S} are allowed")
        expect(len(content) <= MOST_BYTES, f"{len(content)} bytes came; {MOST_BYTES} are allowed")
        expect(whole is None or content == whole, f"{len(content)} bytes are not the file of {len(data)}")
        return "fetched"

    return act


Piece = tuple[bytes, float, int]  # what is sent, the pause after it in seconds, and how often


def answer(data: bytes, case: Case) -> tuple[list[Piece], bytes | None]:
    """What a server sends; and the file, where it is right about it."""
    choose = case.random.choice
    head, length = b"HTTP/1.1 200 OK\r\n", b"Content-Length: %d\r\n\r\n" % len(data)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"".join(
        b"%x\r\n%s\r\n" % (len(data[at : at + 1_000]), data[at : at + 1_000]) for at in range(0, len(data), 1_000)
    )
    slow, forever = 0.05, 10**6
    answers: dict[str, tuple[list[Piece], bytes | None]] = {
        "good": ([(head + length + data, 0, 1)], data),
        "chunks": ([(head + chunked + body + b"0\r\n\r\n", 0, 1)], data),
        "no length": ([(head + b"\r\n" + data, 0, 1)], data),
        "slow but whole": ([(head, 0.2, 1), (length + data, 0, 1)], data),
        "cut": ([(head + length + data[: choose([0, 1, len(data) // 2, len(data) - 1])], 0, 1)], data),
        "chunks cut": ([(head + chunked + body[: choose([0, 3, len(body) // 2])], 0, 1)], data),
        "more": ([(head + length + data + data, 0, 1)], data),
        "status drips": ([(b"H", slow, forever)], None),
        "headers drip": ([(head, 0, 1), (b"X: y\r\n", slow, forever)], None),
        "a header drips": ([(head + b"X: ", 0, 1), (b"y", slow, forever)], None),
        "body drips": ([(head + b"Content-Length: 100000\r\n\r\n", 0, 1), (b"x", slow, forever)], None),
        "chunk sizes drip": ([(head + chunked, 0, 1), (b"0", slow, forever)], None),
        "chunk extension drips": ([(head + chunked + b"1;", 0, 1), (b"x", slow, forever)], None),
        "trailers drip": ([(head + chunked + body + b"0\r\n", 0, 1), (b"X: y\r\n", slow, forever)], None),
        "continue": ([(b"HTTP/1.1 100 Continue\r\n\r\n", slow, forever)], None),
        "continue fast": ([(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0, forever)], None),
        "endless": ([(head + b"\r\n" + bytes(60_000), 0, 1), (bytes(60_000), 0, forever)], None),
        "endless chunks": ([(head + chunked, 0, 1), (b"ea60\r\n" + bytes(60_000) + b"\r\n", 0, forever)], None),
        "long header": ([(head + b"X: " + b"y" * 200_000, 0, 1)], None),
        "many headers": ([(head + b"X: y\r\n" * 5_000 + b"\r\n", 0, 1)], None),
        "length lies": (
            [
                (
                    head
                    + b"Content-Length: "
                    + choose([b"-1", b"x", b"1e9", b"99999999999999999999", b"5, 6", b"0x10", b"+5", b"\xb2"])
                    + b"\r\n\r\n"
                    + data,
                    0,
                    1,
                )
            ],
            None,
        ),
        "chunk lies": (
            [
                (
                    head + chunked + choose([b"-1", b"ffffffffffffffff", b"x", b"", b"0x5", b"5_0"]) + b"\r\n" + data,
                    0,
                    1,
                )
            ],
            None,
        ),
        "both": ([(head + b"Content-Length: 10\r\n" + chunked + body + b"0\r\n\r\n", 0, 1)], None),
        "encoded": ([(head + b"Content-Encoding: gzip\r\n" + length + data, 0, 1)], None),
        "redirect": (
            [
                (
                    b"HTTP/1.1 302 Found\r\nLocation: "
                    + choose(
                        [
                            b"https://10.0.0.1/",
                            b"http://127.0.0.1/",
                            b"file:///etc/passwd",
                            b"/a.wav",
                            b"",
                            b"https://[::ffff:10.0.0.1]/",
                            b"//169.254.169.254/",
                            b"\xff\xfe",
                            b"https://user:secret@10.0.0.1/",
                            b"https://[",
                            b"x" * 50_000,
                            b"a b\tc",
                        ]
                    )
                    + b"\r\nContent-Length: 0\r\n\r\n",
                    0,
                    1,
                )
            ],
            None,
        ),
        "status": (
            [
                (
                    b"HTTP/1.1 "
                    + choose(
                        [
                            b"404 Not Found",
                            b"200",
                            b"999 x",
                            b"000 x",
                            b"2 00",
                            b"-200 OK",
                            b"500 \x1b[2J",
                            b"206 Partial",
                            b"204 No Content",
                            b"304 x",
                            b"101 Switching",
                        ]
                    )
                    + b"\r\n"
                    + length
                    + data,
                    0,
                    1,
                )
            ],
            None,
        ),
        "no HTTP": (
            [
                (
                    choose([b"", b"x\r\n\r\n", b"RTSP/1.0 200 OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"\0" * 100])
                    + data,
                    0,
                    1,
                )
            ],
            None,
        ),
        "bytes": ([(changed_bytes(head + length, case) + data, 0, 1)], None),
    }
    return case.choose(answers)


def serve(server: socket.socket, context: ssl.SSLContext, pieces: list[Piece], silent: bool) -> None:
    """Answers connections one after the other, for as long as whoever asks wants to hear it."""
    while True:
        plain, _ = server.accept()
        try:
            if silent:
                time.sleep(FOREVER_S)
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65_536)
                for content, pause_s, times in pieces:
                    for _ in range(times):
                        connection.sendall(content)
                        time.sleep(pause_s)
        except (OSError, ValueError):
            pass
        finally:
            plain.close()


URLS = Kind(prepare, make, resolves=True)


__all__ = ["URLS"]
