"""Rendering again when what an identity is made of changes."""

from pathlib import Path

import anyio
from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

from arsenale_core import logs
from arsenale_memory.personas import Personas

STEP_MS = 200
"""Changes within so long are one."""


async def watch(personas: Personas) -> None:
    """Render each persona again whose `identity.toml` or template changes; until cancelled.

    Our own writing into `CLAUDE.md` is not what an identity is made of and starts nothing.
    """
    log = logs.get("arsenale.memory")
    folders = [folder for folder in (personas.folder, *personas.templates) if folder.is_dir()]
    async for changes in awatch(*folders, step=STEP_MS, stop_event=None):
        for persona in sorted(_touched(personas, [Path(path) for _, path in changes])):
            try:
                written = await personas.render(persona)
            except Exception as exc:  # noqa: BLE001  # the edge of a task
                log.warning("identity not rendered", persona=persona, reason=str(exc))
            else:
                if written:
                    log.info("identity rendered", persona=persona, files=written)


def _touched(personas: Personas, paths: list[Path]) -> set[str]:
    """Return the personas that PATHS are about: a template is about all of them."""
    described = {file.parent.name for file in personas.folder.glob("*/identity.toml")}
    if any(path.name.endswith(".j2") for path in paths):
        return described
    return {path.parent.name for path in paths if path.name == "identity.toml"} & described


async def watch_when_there(personas: Personas, look_every_s: float = 30.0) -> None:
    """Watch as soon as there is a persona; until cancelled."""
    while not personas.folder.is_dir():  # noqa: ASYNC110  # nobody tells us of a first folder
        await anyio.sleep(look_every_s)
    await watch(personas)
