"""How a node and a gateway convince each other of who they are; pure.

Both sign the same words: both names, a nonce of each, and the channel that they speak over. What
one signs is so of use for no other gateway, no other moment and no other connection. Over TLS the
node knows the gateway's name beforehand and finds it in the certificate, so nobody stands between.
"""

import secrets
from dataclasses import asdict, dataclass
from typing import Final, Literal

from arsenale_mesh.canonical import canonical
from arsenale_mesh.identity import Identity, is_signed

VERSION: Final = 1
NONCE_BYTES: Final = 16
_TAG: Final = b"arsenale-mesh-join-v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What both sign, each with their role before it."""

    node: str
    gateway: str
    node_nonce: str
    gateway_nonce: str
    channel: str

    def signed(self, role: Literal["node", "gateway"], identity: Identity) -> str:
        """Return the signature of one of the two, hex."""
        return identity.sign(self._data(role)).hex()

    def holds(self, role: Literal["node", "gateway"], signature: object) -> bool:
        """Say whether SIGNATURE is of the one that has that role."""
        if not isinstance(signature, str):
            return False
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            return False
        who = self.node if role == "node" else self.gateway
        return is_signed(who, raw, self._data(role))

    def _data(self, role: str) -> bytes:
        return _TAG + canonical({**asdict(self), "role": role, "version": VERSION})


def nonce() -> str:
    """Return what has never been said before."""
    return secrets.token_hex(NONCE_BYTES)
