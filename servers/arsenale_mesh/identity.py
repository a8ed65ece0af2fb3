"""Who a node is: an Ed25519 key, named by its did:key (W3C did-method-key v0.9, RFC 8032).

A did:key holds the public key itself, so nobody has to be asked whose it is.
"""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_core.files import make_private

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Bitcoin's base 58 (multibase `z`)."""

_ED25519: Final = b"\xed\x01"
"""Multicodec prefix of an Ed25519 public key, as a varint."""

_PREFIX: Final = "did:key:z"
_LONGEST_DID = 80


@dataclass(frozen=True)
class Identity:
    """A key pair. The secret never leaves the process and its file."""

    key: Ed25519PrivateKey

    @cached_property
    def did(self) -> str:
        """The public key as a did:key."""
        return did_of(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of DATA, 64 bytes."""
        return self.key.sign(data)


def make() -> Identity:
    """Return a new identity."""
    return Identity(Ed25519PrivateKey.generate())


def load_or_make(file: Path) -> Identity:
    """Return the identity in FILE (0600, 32 bytes in hex), made if absent.

    Two processes that make it at once end up with the same one.

    Raises:
        UnavailableError: It cannot be read or written.
        InvalidError: It holds no key.
    """
    try:
        make_private(file.parent)
        if not file.exists():
            _write(file, make().key.private_bytes_raw().hex())
        text = file.read_text(encoding="ascii")
        return Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.strip())))
    except OSError as exc:
        raise UnavailableError(f"{file}: {exc.strerror}", hint="make it readable to you") from exc
    except ValueError as exc:
        raise InvalidError(f"{file} holds no key", hint="move it away for a new identity") from exc


def _write(file: Path, text: str) -> None:
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, file)  # the first to do so wins
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def did_of(public: Ed25519PublicKey) -> str:
    """Return the did:key of a public key."""
    return _PREFIX + _base58(_ED25519 + public.public_bytes_raw())


@lru_cache(maxsize=1_024)
def public_of(did: str) -> Ed25519PublicKey:
    """Return the public key that a did:key is.

    Raises:
        InvalidError: It is no did:key of an Ed25519 key in its one form.
    """
    hint = "it begins with did:key:z6Mk"
    if not did.startswith(_PREFIX) or len(did) > _LONGEST_DID:
        raise InvalidError(f"{did[:80]!r} is no did:key", hint=hint)
    raw = _unbase58(did[len(_PREFIX) :])
    if raw is None or raw[:2] != _ED25519 or len(raw) != 34:
        raise InvalidError(f"{did!r} is no Ed25519 did:key", hint=hint)
    try:
        public = Ed25519PublicKey.from_public_bytes(raw[2:])
    except ValueError as exc:
        raise InvalidError(f"{did!r} is no Ed25519 did:key", hint=hint) from exc
    if did_of(public) != did:
        raise InvalidError(f"{did!r} is not in its one form", hint=hint)
    return public


def is_signed(did: str, signature: bytes, data: bytes) -> bool:
    """Say whether SIGNATURE is DID's, of DATA; false for a did that is none."""
    try:
        public_of(did).verify(signature, data)
    except (InvalidSignature, InvalidError):
        return False
    return True


def _base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def _unbase58(text: str) -> bytes | None:
    number = 0
    for char in text:
        place = _ALPHABET.find(char)
        if place < 0:
            return None
        number = number * 58 + place
    body = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return b"\0" * (len(text) - len(text.lstrip("1"))) + body
