"""What `arsenale doctor` says of the mesh: what holds guests on this machine."""

from collections.abc import Iterator
from dataclasses import asdict

import anyio

from arsenale_core.checks import Check
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_mesh import running
from arsenale_mesh.sandbox import processes
from arsenale_mesh.sandbox.jail import ON, Layers
from arsenale_mesh.sandbox.pool import RUN_DATA_BYTES

DOORS = ("rlimits", "no_new_privs", "dies_with_parent", "not_dumpable", "landlock", "seccomp")


def examine(settings: Settings) -> Iterator[Check]:
    """Start a worker, and say which layers of its jail are on."""
    try:
        require = running.layers(settings.mesh_require)
        layers = anyio.run(_layers)
    except ArsenaleError as exc:
        yield Check("sandbox", "fail", str(exc), "no guest can be run until this is mended")
        return
    said = asdict(layers)
    off = [f"{name} ({said[name]})" for name in DOORS if said[name] != ON]
    trace = (
        "memory is traced by the pages that a guest writes"
        if layers.pages == ON
        else "memory is traced by hashing all of it, which is slower"
    )
    if missing := layers.missing(require):
        mend = "a newer Linux kernel, or take them out of mesh_require"
        yield Check("sandbox", "fail", f"no guest runs: {', '.join(missing)} missing", mend)
    elif off:
        mend = "guests run, held by their process and the layers left; mesh_require refuses that"
        yield Check("sandbox", "warn", f"not on: {', '.join(off)}; {trace}", mend)
    else:
        yield Check("sandbox", "ok", f"all {len(DOORS)} layers of the sandbox are active; {trace}")


async def _layers() -> Layers:
    worker = await processes.start(RUN_DATA_BYTES)
    await worker.end()
    return worker.layers
