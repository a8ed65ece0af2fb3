"""How warm a machine's processor is, by the sensors in Linux's /sys (hwmon, thermal zones)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arsenale_mesh.health import Source
from arsenale_mesh.measuring.sysfs import folders, whole, word

CHIPS: Final = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal"})
"""Names in hwmon of what measures processors."""

ZONES: Final = re.compile(r"x86_pkg_temp|.*cpu.*|.*soc.*|acpitz", re.IGNORECASE)
"""Types of thermal zones that lie in or at the processor."""

COLDEST, HOTTEST = -40.0, 150.0
"""Degrees Celsius that a processor can have; else the sensor is broken or absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """The hottest spot of the processor. `basis` names the sensor, for people."""

    celsius: float | None
    source: Source
    basis: str


def heat(root: Path) -> Heat:
    """Return the highest temperature that the processor's sensors tell."""
    for readings in (_chips(root), _zones(root)):
        found = [(c, name) for c, name in readings if COLDEST < c < HOTTEST]
        if found:
            celsius, name = max(found)
            return Heat(celsius=celsius, source="measured", basis=name)
    return Heat(celsius=None, source="unknown", basis="no sensor")


def _chips(root: Path) -> Iterator[tuple[float, str]]:
    for chip in folders(root / "class" / "hwmon", r"hwmon\d+"):
        name = word(chip / "name") or ""
        if name in CHIPS:
            for file in sorted(chip.glob("temp*_input")):
                millidegrees = whole(file)
                if millidegrees is not None:
                    yield millidegrees / 1000, name


def _zones(root: Path) -> Iterator[tuple[float, str]]:
    for zone in folders(root / "class" / "thermal", r"thermal_zone\d+"):
        name, millidegrees = word(zone / "type") or "", whole(zone / "temp")
        if millidegrees is not None and ZONES.fullmatch(name):
            yield millidegrees / 1000, name
