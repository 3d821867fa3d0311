# SPDX-License-Identifier: Apache-2.0
"""Which IP addresses are on the open internet.

Decisions: the table is here and not the one of `ipaddress`, which differs between releases of Python: that of 3.13.0
still takes `::127.0.0.1`, `fec0::1`, `64:ff9b::a00:1` and 168.63.129.16 for global. Of IPv6 only what is given out to
the internet, 2000::/3, is open at all. An address that holds an IPv4 address inside is as public as that one. What a
registry sets aside for a special purpose holds no recordings, so all of it is refused, and so are the addresses at
which clouds answer their own machines alone.

Sources: the special-purpose registries of IANA (RFC 6890 and later); for 64:ff9b::/96 RFC 6052, 64:ff9b:1::/48 RFC
8215, 2002::/16 RFC 3056, ISATAP RFC 5214. A network may translate IPv4 under a prefix of its own; nobody can see that.
"""

from __future__ import annotations

import ipaddress


NOT_PUBLIC_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' own; 100.100.100.200 tells machines of Alibaba their secrets
        "127.0.0.0/8",  # this computer
        "161.26.0.0/16",  # services for machines of IBM
        "166.8.0.0/14",  # services for machines of IBM
        "168.63.129.16/32",  # the same of Azure
        "169.254.0.0/16",  # this link; 169.254.169.254 tells machines of most clouds their secrets
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols; 192.0.0.192 is a cloud's
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # measurements
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocols: Teredo, measurements, ORCHID
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former test network
        "3fff::/20",  # documentation
    )
)
HOLD_IPV4 = (  # and by how many bits what they hold stands from the right
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def is_public(address: str) -> bool:
    """Whether an IP address is one on the open internet; what is no address, or has a zone, is not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in NOT_PUBLIC_IPV4)
    if "%" in address:
        return False
    for network, shift in HOLD_IPV4:
        if parsed in network:
            return _holds_public(parsed, shift)
    if int(parsed) >> 32 & 0xFFFF_FFFF in ISATAP and not _holds_public(parsed, 0):
        return False
    return parsed in PUBLIC_IPV6 and not any(parsed in network for network in NOT_PUBLIC_IPV6)


def _holds_public(address: ipaddress.IPv6Address, shift: int) -> bool:
    return is_public(str(ipaddress.IPv4Address(int(address) >> shift & 0xFFFF_FFFF)))


__all__ = ["is_public"]
