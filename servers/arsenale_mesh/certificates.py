"""A gateway's certificate: its did:key as X.509 (RFC 5280, RFC 8410), signed by itself."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from arsenale_core.errors import UnavailableError
from arsenale_core.files import make_private
from arsenale_mesh.identity import Identity, did_of

VALID = timedelta(days=3_650)
"""Nodes go by the key, and never look at the dates."""


def did_in(certificate: bytes) -> str:
    """Return the did:key that a certificate (DER) holds; "" where it holds none."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return ""
    return did_of(key) if isinstance(key, Ed25519PublicKey) else ""


def write(file: Path, identity: Identity, now_s: float) -> bytes:
    """Write certificate and key of IDENTITY to FILE (PEM, 0600); return the certificate as DER.

    Raises:
        UnavailableError: It cannot be written.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.did[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(identity.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + VALID)
        .sign(identity.key, None)
    )
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        make_private(file.parent)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(certificate.public_bytes(Encoding.PEM) + key)
        fresh.replace(file)
    except OSError as exc:
        raise UnavailableError(f"{file}: {exc.strerror}", hint="make it writable to you") from exc
    return certificate.public_bytes(Encoding.DER)
