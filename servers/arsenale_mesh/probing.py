"""How far away a node is, and how wide the way: measured by who asks, never taken from its word."""

import secrets
from contextlib import suppress
from hashlib import sha256
from typing import Final

from arsenale_core.errors import UnavailableError
from arsenale_mesh.links import Message
from arsenale_mesh.roster import Roster
from arsenale_mesh.sessions import Session

EVERY_US: Final = 60_000_000
"""How often the latency of a node that is at rest is measured."""

BYTES: Final = 256 << 10
"""Of the probe that measures bandwidth, once a connection."""

LEAST_SHARE: Final = 10
"""A tenth of the time at least is the bytes': the latency, measured before, may have been more."""


class Prober:
    """Probes the nodes of ROSTER."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def begin(self, session: Session) -> None:
        """Measure both for a node that has just come."""
        with suppress(UnavailableError):
            await session.link.send(self._probe(session, 0))
            await session.link.send(self._probe(session, BYTES))

    def look_after(self, session: Session) -> None:
        """Measure again where it is due; give a probe up that was never answered."""
        now = self._roster.clock.ticks_us()
        if session.probes and now - session.probed_us > EVERY_US:  # very slow
            session.probes.clear()
            session.latency_s = max(session.latency_s or 0.0, EVERY_US / 1e6)
            self._roster.rate(session)
        elif not session.probes and not session.leases and now - session.probed_us > EVERY_US:
            session.tell(self._probe(session, 0))

    def heard(self, session: Session, nonce: str, digest: object) -> None:
        """Take in the answer to a probe; what is none changes nothing."""
        sent = session.probes.pop(nonce, None)
        if sent is None or sent[2] != digest:
            return
        took_s = max((self._roster.clock.ticks_us() - sent[0]) / 1e6, 1e-6)
        if not sent[1]:
            before = session.latency_s
            session.latency_s = took_s if before is None else 0.7 * before + 0.3 * took_s
        else:
            on_the_way_s = max(took_s - (session.latency_s or 0.0), took_s / LEAST_SHARE, 1e-6)
            session.bandwidth = sent[1] / on_the_way_s
        self._roster.rate(session)

    def _probe(self, session: Session, size: int) -> Message:
        """Return what only who got all of it can answer."""
        nonce, data = secrets.token_hex(8), secrets.token_bytes(size) if size else b""
        digest = sha256(data).hexdigest() if data else ""
        session.probed_us = self._roster.clock.ticks_us()
        session.probes[nonce] = (session.probed_us, size, digest)
        blobs = (data,) if data else ()
        return Message(kind="probe", body={"nonce": nonce}, blobs=blobs)
