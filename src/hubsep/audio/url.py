# SPDX-License-Identifier: Apache-2.0
"""Fetching a recording from an https address, without becoming a way into the network of whoever runs this.

Decisions: only https; the name is resolved here, every address it has must be public, and the connection goes to one
that was checked, so a second answer of the name server changes nothing. All of this again after each redirect. Proxies
are not used, because a proxy would resolve the name itself. The standard library is enough for it, but for time: its
timeouts are those of one call, so a server that sends a byte now and then is never done. Here every call gets what is
left of the whole.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from ..errors import AudioError
from .addresses import is_public
from .limits import AudioLimits


MAX_REDIRECTS = 5
STALL_TIMEOUT_S = 10.0  # for one answer: of a name server, to a connection, to a read
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SHOWN_CHARACTERS = 200


class _Clock:
    """How much time is left of the whole."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    def next_timeout(self) -> float:
        """Seconds that the next call may take.

        Raises:
            TimeoutError: if none are left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, STALL_TIMEOUT_S)


class _Incoming(io.RawIOBase):
    """What comes from a socket, each read with the time that is left."""

    def __init__(self, plain: socket.socket, clock: _Clock):
        self._socket, self._clock = plain, clock
        self._file = plain.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._clock.next_timeout())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _TimedSocket:
    """As much of a socket as `http.client` uses."""

    def __init__(self, plain: socket.socket, clock: _Clock):
        self._socket, self._clock = plain, clock
        self.close = plain.close

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._socket, self._clock))

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._clock.next_timeout())
        self._socket.sendall(data)


class _Connection(http.client.HTTPSConnection):
    """Connects to the first address that answers, of those that were checked, and speaks TLS with the name."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], context: ssl.SSLContext, clock: _Clock):
        super().__init__(host, port, context=context)
        self._addresses, self._tls, self._clock = addresses, context, clock

    def connect(self) -> None:
        plain = self._plain()
        try:
            plain.settimeout(self._clock.next_timeout())
            secure = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self.sock = _TimedSocket(secure, self._clock)

    def _plain(self) -> socket.socket:
        for address in self._addresses[:-1]:
            try:
                return socket.create_connection((address, self.port), timeout=self._clock.next_timeout())
            except OSError:
                continue
        return socket.create_connection((self._addresses[-1], self.port), timeout=self._clock.next_timeout())


def download(
    url: str,
    limits: AudioLimits,
    *,
    allowed: Callable[[str], bool] = is_public,
    context: ssl.SSLContext | None = None,
) -> BinaryIO:
    """Fetches an address into an unnamed temporary file.

    Args:
        url: https only.
        limits: size, and time from the first question to a name server to the last byte.
        allowed: whether an IP address may be connected to.
        context: TLS settings; by default the system's certificates.

    Returns:
        The file, at its start.

    Raises:
        AudioError: if the address is not allowed, or does not give a complete file within the limits.
    """
    context = context or ssl.create_default_context()
    clock = _Clock(limits.download_timeout_s)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            connection, target = _connect(url, allowed, context, clock)
            try:
                connection.request("GET", target, headers={"User-Agent": "hubsep", "Accept-Encoding": "identity"})
                response = connection.getresponse()
                if response.status not in REDIRECTS:
                    return _save(response, url, limits, clock)
                url = urljoin(url, response.headers.get("Location") or "")
            finally:
                connection.close()
    except AudioError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        if clock.is_over:
            raise _too_slow(url, limits) from error
        reason = _printable(str(error)) or type(error).__name__
        raise AudioError(f"{_shown(url)} cannot be fetched: {reason}") from error
    raise AudioError(f"{_shown(url)} cannot be fetched: more than {MAX_REDIRECTS} redirects")


def _connect(
    url: str, allowed: Callable[[str], bool], context: ssl.SSLContext, clock: _Clock
) -> tuple[_Connection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise AudioError(f"{_shown(url)} is not an address: {_printable(str(error))}") from error
    if parts.scheme != "https" or not host:
        raise AudioError(f"{_shown(url)}: only https addresses are fetched; download the file and pass its path")
    addresses = _addresses(host, port, clock)
    refused = [address for address in addresses if not allowed(address)]
    if refused or not addresses:
        raise AudioError(f"{_shown(url)} is at {', '.join(refused)}, which is not on the public internet")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Connection(host, port, addresses, context, clock), target


def _addresses(host: str, port: int, clock: _Clock) -> list[str]:
    """All addresses of a name, in the order the system prefers; a name server cannot be interrupted, so a thread asks.

    Raises:
        OSError: if there are none, or no answer in time.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=clock.next_timeout())
    except queue.Empty:
        raise TimeoutError("its name server does not answer") from None
    if isinstance(answer, Exception):
        raise answer
    return list(dict.fromkeys(str(entry[4][0]) for entry in answer))


def _save(response: http.client.HTTPResponse, url: str, limits: AudioLimits, clock: _Clock) -> BinaryIO:
    if response.status != 200:
        reason = _printable(response.reason)
        raise AudioError(f"{_shown(url)} cannot be fetched: status {response.status} {reason}")
    most = limits.max_download_bytes
    if response.length is not None and response.length > most:
        raise AudioError(f"{_shown(url)} has {response.length} bytes, above the limit of {most}")
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the source
    try:
        size = 0
        while chunk := response.read1(2**16):
            size += len(chunk)
            if size > most:
                raise AudioError(f"{_shown(url)} has more bytes than the limit of {most}")
            if clock.is_over:
                raise _too_slow(url, limits)
            file.write(chunk)
        if response.length:
            raise AudioError(f"{_shown(url)} broke off {response.length} bytes before its end")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _too_slow(url: str, limits: AudioLimits) -> AudioError:
    return AudioError(
        f"{_shown(url)} took longer than {limits.download_timeout_s:g} s; download the file and pass its path"
    )


def _shown(url: str) -> str:
    """The address without what may be secret in it; after a redirect it is the server's."""
    parts = url.split("?")[0].split("#")[0]
    scheme, separator, rest = parts.partition("://")
    return _printable(scheme + separator + rest.rpartition("@")[2] if separator else parts)


def _printable(text: str) -> str:
    """What a server said, short and without line breaks and escape codes."""
    return "".join(each if each.isprintable() else "?" for each in text[:SHOWN_CHARACTERS])


__all__ = ["download", "is_public"]
