"""Ids that sort by the time they were made."""

import secrets
import uuid


def uuid7(at_s: float) -> str:
    """Return a UUID version 7 (RFC 9562 §5.7) of the moment AT_S, Unix seconds."""
    millis = int(at_s * 1000) & (2**48 - 1)
    random = secrets.randbits(74)
    value = millis << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (2**62 - 1)
    return str(uuid.UUID(int=value))
