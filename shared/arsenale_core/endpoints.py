"""Addresses of HTTP services that somebody names, and the keys that may be sent to them."""

import ipaddress
import socket
from contextlib import suppress
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from arsenale_core.errors import InvalidError

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Metadata services of clouds outside link-local: Amazon over IPv6, Alibaba."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that hold an IPv4 address in their last 32 bits (RFC 6052, section 2.1)."""


def checked(url: str, *, look_up: bool = False) -> str:
    """Return URL without a slash at its end, if a service may be asked there.

    Link-local addresses are refused: the metadata service of a cloud answers there, and gives keys
    to whoever asks from this machine.

    Args:
        url: An address as `http://127.0.0.1:8725`.
        look_up: Ask the resolver too, which may take seconds: for an address that a client names.

    Raises:
        InvalidError: It is not an HTTP address, it holds a password, or it is a refused one.
    """
    parts = _parts(url)
    host = parts.hostname or ""
    addresses = [found] if (found := _address(host)) else _resolved(host) if look_up else []
    if any(map(_is_refused, addresses)):
        raise InvalidError(
            f"{url!r} is a link-local, multicast or metadata address",
            hint="name a service by a loopback, private or public address",
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether the service at URL is on this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    found = _address(host)
    return found.is_loopback if found else host == "localhost" or host.endswith(".localhost")


def bearer(url: str, key: str | None) -> dict[str, str]:
    """Return the headers that carry KEY to URL; none without a key.

    Raises:
        InvalidError: KEY would be readable on its way: plain HTTP beyond this machine.
    """
    check_key(url, key)
    return {"Authorization": f"Bearer {key}"} if key else {}


def check_key(url: str, key: str | None) -> None:
    """Check that KEY may be sent to URL.

    Raises:
        InvalidError: KEY would be readable on its way: plain HTTP beyond this machine.
    """
    if key and _parts(url).scheme != "https" and not is_loopback(url):
        raise InvalidError(
            f"the key for {url} would be sent in plain text",
            hint="use https://, or remove the key, or forward a loopback port to that machine",
        )


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        parts, fits = SplitResult("", "", "", "", ""), False
    plain = url.isprintable() and not set(" \\") & set(url)
    if not fits or not plain:
        raise InvalidError(
            f"{url!r} is not the address of an HTTP service", hint="as http://127.0.0.1:8725"
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidError(
            f"the address of {parts.hostname} holds a user or password",
            hint="leave it out of the address and set the key by its setting",
        )
    return parts


def _address(host: str) -> IP | None:
    """Return the address that HOST writes, in any form that the system's resolver takes."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.split("%")[0])
    with suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))  # 0xa9fea9fe, 2852039166
    return None


def _resolved(host: str) -> list[IP]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # connecting will say why
    return [ipaddress.ip_address(str(where[0]).split("%")[0]) for *_, where in found]


def _is_refused(address: IP) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_refused(inner)
    return address.is_link_local or address.is_multicast or address in METADATA
