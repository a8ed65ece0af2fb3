"""From watts to joules for fuel and grams of CO2e for a task; pure.

    joules = watts x share of the machine x seconds
    grams  = joules / 3.6e6 x grams a kilowatt-hour

The second is O = E x I, the operational part of the Software Carbon Intensity specification (Green
Software Foundation, ISO/IEC 21031:2024); what making the machine cost is left out.
"""

import math
from typing import Final

GFUEL: Final = 10**9
"""Fuel that energy is stated for."""

JOULES_PER_KWH: Final = 3.6e6


def machine_share(cpu_s: float, wall_s: float, cores: int) -> float | None:
    """Return the share of a machine that a guest used, 0..1, or None where that cannot be told.

    Args:
        cpu_s: Processor time of the guest, seconds.
        wall_s: In so many seconds of wall time.
        cores: Logical cores of the machine.
    """
    if not _all_finite(cpu_s, wall_s) or cpu_s < 0 or wall_s <= 0 or cores < 1:
        return None
    return min(cpu_s / (wall_s * cores), 1.0)


def joules_per_gfuel(watts: float, share: float, fuel_per_s: float) -> float | None:
    """Return the energy of 10**9 fuel in joules, or None where that cannot be told.

    Args:
        watts: What the machine draws.
        share: Of the machine that the guest used, 0..1; it answers for so much of the watts, those
            of idling included.
        fuel_per_s: Fuel that the guest burnt in a second of wall time.
    """
    if not _all_finite(watts, share, fuel_per_s):
        return None
    if watts < 0 or not 0 <= share <= 1 or fuel_per_s <= 0:
        return None
    return watts * share / fuel_per_s * GFUEL


def joules(fuel: int, per_gfuel: float) -> float:
    """Return the energy of a task in joules, by its FUEL and the joules of 10**9 fuel."""
    return fuel / GFUEL * per_gfuel


def grams_co2e(energy_j: float, grams_per_kwh: float) -> float:
    """Return the grams of CO2e of so much energy where a kilowatt-hour has so many."""
    return energy_j / JOULES_PER_KWH * grams_per_kwh


def _all_finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
