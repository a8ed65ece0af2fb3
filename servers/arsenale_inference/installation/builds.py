"""The ways to get an engine, fastest first; each next one is safer."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from arsenale_core.config import build_flags
from arsenale_inference.installation import prebuilt, source
from arsenale_inference.installation.processes import Say
from arsenale_inference.installation.source import Flags

Make: TypeAlias = Callable[[Path, Say], Path]
"""Makes the wheel in a folder and returns its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A way to make the wheel.

    Attributes:
        name: Of its folder in the cache; lower case and hyphens.
        kind: Builds of one kind need the same downloads and tools: where one cannot be made, none
            can.
        what: What it is, for people.
        key: What the wheel depends on besides version and processor.
    """

    name: str
    kind: str
    what: str
    make: Make
    key: str = ""


def builds(*, from_source: bool) -> list[Build]:
    """Return the builds to try, in order.

    Args:
        from_source: Leave out the prebuilt ones. `CMAKE_ARGS` in the environment does so too, since
            a prebuilt library cannot honour it.
    """
    compiled = [
        _compiled("source", "built from source", Flags(repair_amx=True)),
        _compiled("source-no-amx", "built from source without AMX", Flags(compiler=source.NO_AMX)),
        _compiled(
            "source-generic", "built from source for any processor of this kind",
            Flags(cmake=("-DGGML_NATIVE=OFF",)),
        ),
    ]  # fmt: skip
    if platform.machine() not in ("x86_64", "AMD64"):
        compiled = [build for build in compiled if build.name != "source-no-amx"]
    return compiled if from_source or any(build_flags().values()) else [*_prebuilt(), *compiled]


def _prebuilt() -> list[Build]:
    return [
        Build(name="prebuilt", kind="prebuilt", what="prebuilt", make=prebuilt.make_wheel),
        Build(
            name="prebuilt-no-amx", kind="prebuilt", what="prebuilt, without AMX",
            make=partial(prebuilt.make_wheel, without=prebuilt.AMX_VARIANTS),
        ),
        Build(
            name="prebuilt-portable", kind="prebuilt", what="prebuilt, for any x86-64 processor",
            make=partial(prebuilt.make_wheel, variants=prebuilt.PORTABLE_VARIANTS),
        ),
    ]  # fmt: skip


def _compiled(name: str, what: str, flags: Flags) -> Build:
    key = "\n".join([source.compiler_version(), repr(flags), repr(sorted(build_flags().items()))])
    make = partial(source.build_wheel, flags=flags)
    return Build(name=name, kind="source", what=what, make=make, key=key)
