"""What every benchmark shares: a line about the machine, quantiles, and a verdict on a ratio."""

import math
import os
import platform
import resource
import sys
from collections.abc import Sequence


def machine() -> str:
    """Describe this machine and how busy it is."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    python = platform.python_version()
    return f"{os.cpu_count()} cores, load average {load}, Python {python}, {sys.platform}"


def quantile(values: Sequence[float], q: float) -> float:
    """Return the nearest-rank Q-quantile of VALUES (Hyndman & Fan 1996, type 1)."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def children_cpu_s() -> float:
    """Return the CPU time of all child processes that have ended, seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verdict(
    name: str, value: float, limit: float, unit: str = "", *, at_least: bool = False
) -> None:
    """Print VALUE beside the LIMIT it is held to."""
    met = value >= limit if at_least else value <= limit
    sign = ">=" if at_least else "<="
    print(f"{'ok  ' if met else 'MISS'} {name}: {value:,.3f}{unit} (asked {sign} {limit:,g}{unit})")
