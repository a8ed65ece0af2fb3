"""Reading the WebAssembly binary format (core specification 2.0, §5); pure."""

from dataclasses import dataclass, field
from typing import Final

from arsenale_core.errors import InvalidError
from arsenale_mesh.receipts import Status
from arsenale_mesh.sandbox.remedies import SEE_ABI

MAGIC: Final = b"\0asm\1\0\0\0"
"""What a core module of version 1 begins with; a component begins otherwise."""


class RefusedError(InvalidError):
    """A module that is not compiled, or a call that is not made: STATUS says why."""

    def __init__(self, status: Status, what: str, *, hint: str = SEE_ABI) -> None:
        super().__init__(what, hint=hint)
        self.status: Status = status


def malformed(what: str) -> RefusedError:
    """Return the error of a module that breaks the format."""
    return RefusedError("invalid_module", f"the module is malformed: {what}")


def unsupported(feature: str, status: Status = "invalid_module") -> RefusedError:
    """Return the error of a module that is valid, but uses a feature that is off."""
    what = f"the module uses {feature}, which is not supported"
    return RefusedError(status, what, hint=f"compile without it; {SEE_ABI}")


@dataclass(slots=True)
class Cursor:
    """A place in DATA, and where the part that is read ends."""

    data: bytes
    at: int = 0
    end: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.end < 0:
            self.end = len(self.data)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.at >= self.end

    def byte(self) -> int:
        """Read one byte.

        Raises:
            RefusedError: There is none; so do all that read.
        """
        if self.at >= self.end:
            raise malformed("it ends too early")
        self.at += 1
        return self.data[self.at - 1]

    def number(self, bits: int = 32) -> int:
        """Read an unsigned LEB128 number of at most BITS bits."""
        value = shift = 0
        while True:
            one = self.byte()
            value |= (one & 0x7F) << shift
            shift += 7
            if one < 0x80:
                break
            if shift >= bits:
                raise malformed("a number is too long")
        if value >> bits:
            raise malformed("a number is too large")
        return value

    def skip(self, size: int) -> None:
        """Go on by SIZE bytes."""
        if size > self.end - self.at:
            raise malformed("it ends too early")
        self.at += size

    def take(self, size: int) -> bytes:
        """Read SIZE bytes."""
        self.skip(size)
        return self.data[self.at - size : self.at]

    def part(self) -> "Cursor":
        """Read a size, and return that many bytes as a cursor of their own."""
        size = self.number()
        start = self.at
        self.skip(size)
        return Cursor(self.data, start, start + size)

    def name(self) -> str:
        """Read a name, which is UTF-8."""
        try:
            return self.take(self.number()).decode()
        except UnicodeDecodeError as exc:
            raise malformed("a name is not UTF-8") from exc

    def finish(self, what: str) -> None:
        """Check that all of a part was read."""
        if not self.is_done:
            raise malformed(f"the {what} section has more than it says")
