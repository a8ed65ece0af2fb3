"""A node and a gateway know who the other is, or do not speak; invitations."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.mesh.village import Hand, Village
from tests.mesh.wires import ends, listening_tls, pair

from arsenale_core.errors import ArsenaleError, ConflictError, InvalidError, UnavailableError
from arsenale_mesh import changes, handshake, identity, welcoming
from arsenale_mesh.changes import Newcomer
from arsenale_mesh.handshake import Words
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, MemoryLink, Message
from arsenale_mesh.node.joining import RefusedError, address, connect, join
from arsenale_mesh.welcoming import Arrival, welcome

ABOUT: dict[str, Any] = {
    "name": "n", "kind": "pc", "slots": 1, "memory_bytes": 1, "engine": "e", "holds": [],
    "measured": {},
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", ["memory", "unix", "tls"])
pytestmark = pytest.mark.timeout(60)


# Who is who.


async def arrive(node: Link, gateway: Link, key: Identity, asks: Callable[[], Awaitable[Any]]
                 ) -> tuple[Arrival | ArsenaleError, Any]:  # fmt: skip
    """Return what the gateway learns while ASKS is done at the node's end, and what that gives."""
    found: list[Any] = [None, None]

    async def welcomed() -> None:
        try:
            found[0] = await welcome(gateway, key, "did:key:house")
        except ArsenaleError as exc:
            found[0] = exc
            with suppress(UnavailableError):
                await welcoming.refuse(gateway, exc)
        else:
            await gateway.send(Message(kind="joined", body={"name": "n", "heartbeat_s": 1}))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(welcomed)
            try:
                found[1] = await asks()
            except ArsenaleError as exc:
                found[1] = exc
                await node.aclose()
    return found[0], found[1]


@KINDS
async def test_both_know_who_the_other_is(kind: str) -> None:
    key, ours = identity.make(), identity.make()
    if kind != "tls":
        async with ends(kind) as (node, gateway):
            found, joined = await arrive(node, gateway, key, lambda: join(node, ours, ABOUT))
    else:
        found, joined = await over_tls(key, ours)
    assert isinstance(found, Arrival)
    assert found.newcomer.did == ours.did
    assert found.newcomer.local is (kind != "tls")
    assert joined.name == "n"


async def over_tls(key: Identity, ours: Identity) -> tuple[Any, Any]:
    arrived: list[Any] = []

    async def serve(link: Link) -> None:
        arrived.append(await welcome(link, key, "did:key:house"))
        await link.send(Message(kind="joined", body={"name": "n", "heartbeat_s": 1}))
        await anyio.sleep_forever()

    async with listening_tls(key, serve) as gateway:
        link = await connect(gateway)
        joined = await join(link, ours, ABOUT, "")
        await link.aclose()
    return arrived[0], joined


async def test_who_signs_with_another_key_than_it_names_is_refused() -> None:
    key, ours = identity.make(), identity.make()
    async with pair() as (node, gateway):
        swapped = signs_as(ours.did)
        found, joined = await arrive(node, gateway, key, lambda: join(node, swapped, ABOUT))
        assert isinstance(found, InvalidError)
        assert isinstance(joined, RefusedError)
        assert "does not prove its name" in str(joined)


def signs_as(did: str) -> Identity:
    """Return a key that says it is DID."""
    made = identity.make()
    made.__dict__["did"] = did
    return made


async def test_a_gateway_that_cannot_sign_is_no_gateway() -> None:
    async with pair() as (node, gateway):
        wrong = signs_as(identity.make().did)
        _, joined = await arrive(node, gateway, wrong, lambda: join(node, identity.make(), ABOUT))
        assert isinstance(joined, RefusedError)
        assert "does not prove its name" in str(joined)


async def test_a_join_that_was_heard_is_of_no_use_to_who_says_it_again() -> None:
    key, ours = identity.make(), identity.make()
    async with pair() as (node, gateway):
        tapped = _Tapped(node.way, node.outward, node.inward)
        heard = tapped.heard = list[Message]()
        found, _ = await arrive(node, gateway, key, lambda: join(tapped, ours, ABOUT))
        assert isinstance(found, Arrival)
        async with pair() as (thief, again):

            async def replay() -> Message:
                await thief.send(heard[0])
                await thief.receive()
                await thief.send(heard[1])
                return await thief.receive()

            found, answer = await arrive(thief, again, key, replay)
            assert isinstance(found, InvalidError)
            assert answer.kind == "refused"


class _Tapped(MemoryLink):
    """A link on which somebody hears what is sent."""

    heard: list[Message]

    async def send(self, message: Message) -> None:
        self.heard.append(message)
        await super().send(message)


async def test_a_node_speaks_with_nobody_but_the_gateway_that_it_was_told_of() -> None:
    async def never(link: Link) -> None:
        with pytest.raises(UnavailableError):
            await link.receive()

    mallory, expected = identity.make(), identity.make()
    async with listening_tls(mallory, never) as place:
        with pytest.raises(RefusedError, match="expected was"):
            await connect(replace(place, did=expected.did))


async def test_who_passes_a_challenge_on_gets_a_signature_of_no_use() -> None:
    """Mallory runs a mesh that the node joins, and would like to be the node elsewhere."""
    key, mallory, ours = identity.make(), identity.make(), identity.make()
    outcome: list[Any] = []
    async with pair() as (real, at_real):

        async def relay(link: Link) -> None:
            hello = await link.receive()
            await real.send(hello)
            challenge = (await real.receive()).body
            words = Words(
                node=ours.did, gateway=mallory.did, node_nonce=hello.body["nonce"],
                gateway_nonce=challenge["nonce"], channel=link.way.channel,
            )  # fmt: skip
            body = {
                **challenge,
                "gateway": mallory.did,
                "signature": words.signed("gateway", mallory),
            }
            await link.send(Message(kind="challenge", body=body))
            await real.send(await link.receive())
            outcome.append(await real.receive())
            await link.send(outcome[0])

        async def asks() -> Any:
            async with listening_tls(mallory, relay) as place:
                link = await connect(place)
                try:
                    return await join(link, ours, ABOUT)
                finally:
                    await link.aclose()

        found, _ = await arrive(real, at_real, key, asks)
        assert isinstance(found, InvalidError)
        assert "does not prove its name" in str(found)
        assert outcome[0].kind == "refused"


def test_a_signature_is_of_one_channel_one_role_and_one_moment() -> None:
    ours = identity.make()
    words = Words(node=ours.did, gateway=ours.did, node_nonce="1", gateway_nonce="2", channel="c")
    signature = words.signed("node", ours)
    assert words.holds("node", signature)
    assert not words.holds("gateway", signature)
    for other in ("channel", "node_nonce", "gateway_nonce"):
        assert not replace(words, **{other: "x"}).holds("node", signature)
    for wrong in (None, 7, "", "zz", "00", signature[:-2], signature + "00"):
        assert not words.holds("node", wrong)


SPOILT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "version": ({"version": 99}, {}),
    "nobody": ({"node": "did:key:z6Mknobody"}, {}),
    "no text": ({"node": 7}, {}),
    "kind": ({}, {"kind": "toaster"}),
    "slots": ({}, {"slots": 0}),
    "true slots": ({}, {"slots": True}),
    "memory": ({}, {"memory_bytes": -1}),
    "name": ({}, {"name": "a\nb"}),
    "long": ({}, {"engine": "x" * 101}),
    "no signature": ({}, {"signature": None}),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_who_does_not_say_what_is_needed_is_told_why_not(what: str) -> None:
    key, ours = identity.make(), identity.make()
    async with pair() as (node, gateway):
        in_hello, in_join = SPOILT[what]

        async def asks() -> Message:
            hello: dict[str, Any] = {"version": handshake.VERSION, "node": ours.did, "nonce": "n"}
            hello |= in_hello
            await node.send(Message(kind="hello", body=hello))
            answer = await node.receive()
            if answer.kind == "refused":
                return answer
            words = Words(
                node=hello["node"], gateway=key.did, node_nonce="n",
                gateway_nonce=answer.body["nonce"], channel="local",
            )  # fmt: skip
            about = {**ABOUT, "invitation": "", "signature": words.signed("node", ours), **in_join}
            await node.send(Message(kind="join", body=about))
            return await node.receive()

        found, answer = await arrive(node, gateway, key, asks)
        assert isinstance(found, InvalidError)
        assert answer.kind == "refused"
        assert answer.body["hint"]


@pytest.mark.parametrize(
    "text",
    ["", "mesh://x", "http://h:1/did:key:z#s", "mesh://h:0/did:key:z", "mesh://:1/did:key:z#s"],
)
async def test_an_address_that_is_none_is_said_to_be_none(text: str) -> None:
    with pytest.raises(InvalidError):
        address(text)


# Invitations.


@pytest.mark.parametrize("when", ["wrong", "none", "twice", "late"])
def test_an_invitation_admits_one_node_within_a_day(village: Village, when: str) -> None:
    secret = village.do(lambda c: changes.invite(c, "for a friend"))

    def come(invitation: str) -> None:
        new = Newcomer(
            did=identity.make().did, name="far", kind="pc", house=False, local=False, slots=1,
            memory_bytes=1, engine="e", invitation=invitation,
        )  # fmt: skip
        village.do(lambda c: changes.admit(c, new))

    if when == "twice":
        come(secret)
    elif when == "late":
        clock = village.store.now
        assert isinstance(clock, Hand)
        clock.s += changes.INVITED_S + 1
    with pytest.raises(ConflictError, match="invitation"):
        come("x" * 32 if when == "wrong" else "" if when == "none" else secret)
    if when == "wrong":
        come(secret)
