"""Modules from WebAssembly text (WAT). The text is a stranger's, so a jailed process reads it."""

import signal
from hashlib import sha256
from typing import Final

import anyio

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh.sandbox import processes
from arsenale_mesh.sandbox.processes import GONE

TEXT_BYTES: Final = 1 << 20
CPU_S: Final = 3
DATA_BYTES: Final = 512 << 20
MODULE_BYTES: Final = 4 << 20

_REMEMBERED: Final = 64
_TRIES: Final = 2
_HINT: Final = 'a core module as text: (module (func (export "_start")) …)'


class Assembler:
    """Makes modules of text, each in a process of its own; the latest ones are remembered."""

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}
        self._one = anyio.Semaphore(1)

    async def assemble(self, text: str) -> bytes:
        """Return the module that TEXT is.

        Raises:
            InvalidError: It is none, or too long; where and why.
            UnavailableError: No process can be started.
        """
        data = text.encode(errors="replace")
        if len(data) > TEXT_BYTES:
            raise InvalidError("the text has more than 1 MiB", hint="submit it as wasm")
        name = sha256(data).hexdigest()
        if name not in self._made:
            async with self._one:
                self._made[name] = await _assembled(data)
            while len(self._made) > _REMEMBERED:
                del self._made[next(iter(self._made))]
        return self._made[name]


async def _assembled(text: bytes) -> bytes:
    for _ in range(_TRIES):
        said = await _asked(text)
        if said is not None:
            return said
    raise UnavailableError("the process that reads it is killed, time and again", hint="try again")


async def _asked(text: bytes) -> bytes | None:
    """Return the module, or nothing where somebody killed the process: not the text's fault."""
    worker = await processes.start(DATA_BYTES)
    try:
        with anyio.fail_after(4 * CPU_S):
            said, blobs = await worker.ask(
                {"op": "assemble", "cpu_s": CPU_S}, (text,), MODULE_BYTES
            )
    except (*GONE, TimeoutError) as exc:
        code = await worker.end()
        if code == -signal.SIGKILL and not isinstance(exc, TimeoutError):
            return None
        what = "the text takes too much to read, or is too large"
        raise InvalidError(what, hint=_HINT) from exc
    finally:
        await worker.end()
    if said.get("status") != "ok" or len(blobs) != 1:
        what = f"the text is no module ({str(said.get('detail'))[:300]})"
        raise InvalidError(what, hint=_HINT)
    return blobs[0]
