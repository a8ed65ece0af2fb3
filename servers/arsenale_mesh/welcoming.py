"""The gateway's side of a node's joining: who it is, and what it says of itself."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from arsenale_core.errors import ArsenaleError, InvalidError
from arsenale_mesh import handshake
from arsenale_mesh.changes import Newcomer
from arsenale_mesh.handshake import Words
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, Message
from arsenale_mesh.record import KINDS
from arsenale_mesh.sandbox.kinds import MEMORY_BYTES

JOIN_S = 15.0
"""How long a newcomer may take."""

MOST_SLOTS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A node that has proved its name, and what it still has from before."""

    newcomer: Newcomer
    holds: object
    measured: object


async def welcome(link: Link, identity: Identity, house: str) -> Arrival:
    """Return who is at the other end of LINK, which is proved.

    Args:
        link: Fresh.
        identity: The gateway's.
        house: The did of our own node.

    Raises:
        InvalidError: It does not say what is needed, or proves nothing.
        UnavailableError: It went.
        TimeoutError: It takes too long.
    """
    with anyio.fail_after(JOIN_S):
        hello = await _said(link, "hello")
        if hello.get("version") != handshake.VERSION:
            raise InvalidError("the node speaks another version", hint="update the older of both")
        words = Words(
            node=_text(hello, "node", 100), gateway=identity.did,
            node_nonce=_text(hello, "nonce", 100), gateway_nonce=handshake.nonce(),
            channel=link.way.channel,
        )  # fmt: skip
        answer = {
            "gateway": identity.did, "nonce": words.gateway_nonce,
            "signature": words.signed("gateway", identity),
        }  # fmt: skip
        await link.send(Message(kind="challenge", body=answer))
        about = await _said(link, "join")
    if not words.holds("node", about.get("signature")):
        raise InvalidError("the node does not prove its name", hint="its key is another")
    return Arrival(
        newcomer=_newcomer(words.node, about, link, house),
        holds=about.get("holds", []),
        measured=about.get("measured"),
    )


async def refuse(link: Link, exc: ArsenaleError) -> None:
    """Tell a newcomer why not."""
    await link.send(Message(kind="refused", body={"reason": exc.what, "hint": exc.hint}))


def is_beyond(host: str) -> bool:
    """Say whether to listen at HOST lets other machines in."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _newcomer(did: str, about: Mapping[str, Any], link: Link, house: str) -> Newcomer:
    kind = about.get("kind")
    if kind not in KINDS:
        raise InvalidError(f"a node is one of {', '.join(KINDS)}", hint="give --kind")
    slots, memory = about.get("slots"), about.get("memory_bytes")
    if type(slots) is not int or not 1 <= slots <= MOST_SLOTS:
        raise InvalidError(f"a node has 1 to {MOST_SLOTS} slots", hint="give --slots")
    if type(memory) is not int or not 0 <= memory < 2**53:
        raise InvalidError("a node says how much memory a guest may have", hint="update it")
    if did == house and not link.way.local:
        raise InvalidError("our own key came from elsewhere", hint="was it copied? make a new one")
    return Newcomer(
        did=did, name=_text(about, "name", 60), kind=kind, house=did == house,
        local=link.way.local, slots=slots, memory_bytes=min(memory, MEMORY_BYTES),
        engine=_text(about, "engine", 100), invitation=_text(about, "invitation", 100),
    )  # fmt: skip


def _text(said: Mapping[str, Any], name: str, most: int) -> str:
    value = said.get(name)
    if not isinstance(value, str) or len(value) > most or not (value.isprintable()):
        raise InvalidError(f"{name} is no text of at most {most} characters", hint="update it")
    return value


async def _said(link: Link, kind: str) -> dict[str, Any]:
    message = await link.receive()
    if message.kind != kind or message.blobs:
        raise InvalidError(f"{message.kind[:40]!r} came before {kind}", hint="is it a node?")
    return message.body
