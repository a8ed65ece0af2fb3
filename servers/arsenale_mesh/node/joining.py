"""How a node joins: who is at the other end is known before anything is said."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_mesh import handshake
from arsenale_mesh.certificates import did_in
from arsenale_mesh.handshake import Words
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, Message, StreamLink, Way

CONNECT_S = 10.0
ANSWER_S = 20.0


class RefusedError(ArsenaleError):
    """The gateway does not admit the node; asking again is of no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Where a gateway is. Without `host` it is the home's own, at the socket `path`.

    Attributes:
        did: Whose certificate is expected there.
        invitation: The secret that admits a new node.
    """

    path: Path | None = None
    host: str = ""
    port: int = 0
    did: str = ""
    invitation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What the gateway says: the name it gave, and how often it wants to hear of the node."""

    name: str
    heartbeat_s: float


def address(text: str) -> Gateway:
    """Return the gateway that `mesh://host:port/did#invitation` means.

    Raises:
        InvalidError: It is no such address.
    """
    hint = "`arsenale mesh invite` prints one: mesh://HOST:PORT/did:key:z6Mk…#SECRET"
    rest = text.removeprefix("mesh://")
    place, _, tail = rest.partition("/")
    host, _, port = place.rpartition(":")
    did, _, secret = tail.partition("#")
    if rest == text or not host or not port.isdecimal() or not did.startswith("did:key:"):
        raise InvalidError(f"{text[:100]!r} is no address of a mesh", hint=hint)
    if not 0 < int(port) < 65_536:
        raise InvalidError(f"{port} is no port", hint=hint)
    return Gateway(host=host.strip("[]"), port=int(port), did=did, invitation=secret)


async def connect(gateway: Gateway) -> Link:
    """Return a link to GATEWAY, whose name is the expected one.

    Raises:
        UnavailableError: Nobody is there.
        RefusedError: Somebody else is there.
    """
    try:
        with anyio.fail_after(CONNECT_S):
            if gateway.path is not None:
                return StreamLink(await anyio.connect_unix(gateway.path), Way(local=True))
            stream: ByteStream = await anyio.connect_tcp(
                gateway.host, gateway.port, ssl_context=_context(), tls=True,
                tls_standard_compatible=False,  # messages say how long they are: no end is awaited
            )  # fmt: skip
    except (OSError, TimeoutError, anyio.BrokenResourceError) as exc:
        where = str(gateway.path or f"{gateway.host}:{gateway.port}")
        raise UnavailableError(f"no gateway answers at {where}", hint="is its daemon up?") from exc
    certificate: bytes = stream.extra(TLSAttribute.peer_certificate_binary) or b""
    found = did_in(certificate)
    if found != gateway.did:
        await anyio.aclose_forcefully(stream)
        raise RefusedError(
            f"{gateway.host}:{gateway.port} is {found or 'nobody known'}",
            hint=f"expected was {gateway.did}: ask for a new invitation",
        )
    channel = sha256(certificate).hexdigest()
    return StreamLink(stream, Way(local=False, channel=channel, gateway=found))


async def join(
    link: Link, identity: Identity, about: Mapping[str, Any], invitation: str = ""
) -> Joined:
    """Say who we are over LINK, and check who is there.

    Args:
        link: Fresh.
        identity: Ours.
        about: Kind, name, slots, memory, engine, and the leases that we still hold.
        invitation: The secret that admits a new node.

    Raises:
        RefusedError: We are not admitted, or it is not the gateway that it should be.
        UnavailableError: It went.
    """
    ours = handshake.nonce()
    try:
        with anyio.fail_after(ANSWER_S):
            hello = {"version": handshake.VERSION, "node": identity.did, "nonce": ours}
            await link.send(Message(kind="hello", body=hello))
            said = _expected(await link.receive(), "challenge")
            words = Words(
                node=identity.did, gateway=str(said.get("gateway")), node_nonce=ours,
                gateway_nonce=str(said.get("nonce")), channel=link.way.channel,
            )  # fmt: skip
            expected = link.way.gateway or words.gateway
            if words.gateway != expected or not words.holds("gateway", said.get("signature")):
                raise RefusedError("the gateway does not prove its name", hint="ask who runs it")
            signed = {
                **about,
                "invitation": invitation,
                "signature": words.signed("node", identity),
            }
            await link.send(Message(kind="join", body=signed))
            answer = _expected(await link.receive(), "joined")
    except TimeoutError as exc:
        raise UnavailableError("the gateway does not answer", hint="it is tried again") from exc
    return Joined(name=str(answer["name"]), heartbeat_s=float(answer["heartbeat_s"]))


def _expected(message: Message, kind: str) -> dict[str, Any]:
    if message.kind == "refused":
        reason, hint = message.body.get("reason"), message.body.get("hint")
        raise RefusedError(str(reason)[:300], hint=str(hint)[:300])
    if message.kind != kind:
        raise InvalidError(f"the gateway says {message.kind[:40]!r}", hint=f"expected {kind}")
    return message.body


def _context() -> ssl.SSLContext:
    """Return TLS 1.3 that takes any certificate: whose it is, is compared afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
