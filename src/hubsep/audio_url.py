# SPDX-License-Identifier: Apache-2.0
"""Fetching a recording from an https address, without becoming a way into the network of whoever runs this.

Decisions: only https; the name is resolved here, every address it has must be public, and the connection goes to the
address that was checked, so a second answer of the name server changes nothing. All of this again after each redirect.
Proxies are not used, because a proxy would resolve the name itself. The standard library is enough for it.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from .audio_limits import AudioLimits
from .errors import AudioError


MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 10.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def is_public(address: str) -> bool:
    """Whether an IP address is one on the open internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if parsed in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


class _Connection(http.client.HTTPSConnection):
    """Connects to an address that was checked, and speaks TLS with the name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext):
        super().__init__(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


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
        limits: size and time.
        allowed: whether an IP address may be connected to.
        context: TLS settings; by default the system's certificates.

    Returns:
        The file, at its start.

    Raises:
        AudioError: if the address is not allowed, or does not give a complete file within the limits.
    """
    context = context or ssl.create_default_context()
    deadline = time.monotonic() + limits.download_timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            connection, target = _connect(url, allowed, context)
            try:
                connection.request("GET", target, headers={"User-Agent": "hubsep", "Accept-Encoding": "identity"})
                response = connection.getresponse()
                if response.status not in REDIRECTS:
                    return _save(response, url, limits, deadline)
                url = urljoin(url, response.headers.get("Location") or "")
            finally:
                connection.close()
    except AudioError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise AudioError(f"{_shown(url)} cannot be fetched: {error or type(error).__name__}") from error
    raise AudioError(f"{_shown(url)} cannot be fetched: more than {MAX_REDIRECTS} redirects")


def _connect(url: str, allowed: Callable[[str], bool], context: ssl.SSLContext) -> tuple[_Connection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise AudioError(f"{_shown(url)} is not an address: {error}") from error
    if parts.scheme != "https" or not host:
        raise AudioError(f"{_shown(url)}: only https addresses are fetched; download the file and pass its path")
    addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    refused = [address for address in addresses if not allowed(address)]
    if refused or not addresses:
        raise AudioError(f"{_shown(url)} is at {', '.join(refused)}, which is not on the public internet")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Connection(host, port, addresses[0], context), target


def _save(response: http.client.HTTPResponse, url: str, limits: AudioLimits, deadline: float) -> BinaryIO:
    if response.status != 200:
        raise AudioError(f"{_shown(url)} cannot be fetched: status {response.status} {response.reason}")
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
            if time.monotonic() > deadline:
                raise AudioError(f"{_shown(url)} took longer than {limits.download_timeout_s:g} s")
            file.write(chunk)
        if response.length:
            raise AudioError(f"{_shown(url)} broke off {response.length} bytes before its end")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _shown(url: str) -> str:
    """The address without what may be secret in it."""
    parts = url.split("?")[0].split("#")[0]
    scheme, separator, rest = parts.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else parts


__all__ = ["download", "is_public"]
