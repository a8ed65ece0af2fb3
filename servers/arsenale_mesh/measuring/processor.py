"""How busy a machine is: processor, memory, load; by psutil, on every system that it knows."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What the processors did since the machine started, seconds over all logical cores."""

    busy_s: float
    total_s: float


def times() -> Times:
    """Read the processor's times; waiting for disks is idling, what a host took away is not."""
    said = psutil.cpu_times()._asdict()
    for counted_twice in ("guest", "guest_nice"):  # Linux has them in `user` and `nice` too
        said.pop(counted_twice, None)
    idle = said["idle"] + said.get("iowait", 0.0)
    total = sum(said.values())
    return Times(busy_s=total - idle, total_s=total)


def share(before: Times, after: Times) -> float | None:
    """Return the share in use between two readings, 0..1, or None where no time went by."""
    total = after.total_s - before.total_s
    if total <= 0:
        return None
    return min(max((after.busy_s - before.busy_s) / total, 0.0), 1.0)


def cores() -> int:
    """Return the number of logical cores."""
    return psutil.cpu_count() or 1


def memory_free() -> int:
    """Return the bytes that programs can have without swapping."""
    return int(psutil.virtual_memory().available)


def load() -> float:
    """Return how many processes ran or wanted to, mean over the last minute."""
    return float(psutil.getloadavg()[0])
