"""What a machine draws: by its battery, by the processor's own meter, else by a model.

A battery that discharges tells of the whole machine. RAPL (Intel SDM vol. 3B, "Platform specific
power management support"; AMD has it too) counts the energy of the processor packages and, where
it has a meter of its own, of memory; the rest of the machine is not in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arsenale_mesh.health import Source
from arsenale_mesh.measuring.sysfs import folders, whole, word

MOST_WATTS: Final = 1000.0
"""Of a processor package, of memory or of a battery; more is a counter that was reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a machine draws. `basis` says of what and by which way, for people."""

    watts: float | None
    source: Source
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """A machine's batteries together.

    Attributes:
        share: Of their charge that is left, 0..1, or None where they do not say.
        on_mains: Whether the machine runs from the mains.
        watts: What they give, or None: they give nothing, or do not say.
    """

    share: float | None
    on_mains: bool
    watts: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A machine whose power grows with its load: idle_w + core_w x cores x share in use.

    That power is about linear in the processor's use: Fan, Weber & Barroso, "Power provisioning
    for a warehouse-sized computer", ISCA 2007, §4.
    """

    idle_w: float
    core_w: float


MODELS: Final[Mapping[str, Model]] = {
    "pc": Model(idle_w=40.0, core_w=5.4),
    "gateway": Model(idle_w=2.3, core_w=0.8),
    "phone": Model(idle_w=0.3, core_w=0.5),
}
"""By the kind of node; crude, and marked `estimated` wherever they are used.

pc: an office PC with an i3-4150 idles at 40 W at the wall (stablecomputer.com, "Office PC power
consumption analysis"); 65 W, the usual rating of a desktop processor, over 12 logical cores.
gateway: a Raspberry Pi 4 takes 2.3 W idle and 5.4 W with its four cores busy
(chipwired.com/raspberry-pi-power-use).
phone: about 0.3 W awake with the screen off (the order found by Carroll & Heiser, "An analysis of
power consumption in a smartphone", USENIX ATC 2010); 4 W over 8 cores, beyond which a phone gets
too warm to hold, is our assumption.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A RAPL counter: microjoules, and after how many it begins anew."""

    energy_uj: int
    range_uj: int


def counters(root: Path) -> dict[str, Counter]:
    """Return the counters of all packages, and of memory apart from them, by zone.

    Empty where there are none, or where one cannot be read: since Linux 5.10 only root may
    (CVE-2020-8694).
    `intel-rapl-mmio` is the same packages again, `psys` is them and more, `core` and `uncore` are
    parts of them.
    """
    found: dict[str, Counter] = {}
    for zone in folders(root / "class" / "powercap", r"intel-rapl:\d+(:\d+)?"):
        name = word(zone / "name") or ""
        if not name.startswith("package") and name != "dram":
            continue
        energy, most = whole(zone / "energy_uj"), whole(zone / "max_energy_range_uj")
        if energy is None or most is None or energy < 0 or most <= 0:
            return {}
        found[zone.name] = Counter(energy_uj=energy, range_uj=most)
    return found


def rapl_watts(
    before: Mapping[str, Counter], after: Mapping[str, Counter], elapsed_s: float
) -> float | None:
    """Return the mean watts between two readings, or None where they cannot tell.

    A counter that is lower than before has begun anew once. In so long a time that it could have
    done so twice, or where it says more than `MOST_WATTS`, nothing is told.
    """
    if not after or before.keys() != after.keys() or elapsed_s <= 0:
        return None
    watts = 0.0
    for zone, now in after.items():
        used_uj = now.energy_uj - before[zone].energy_uj
        if used_uj < 0:
            used_uj += now.range_uj
        drawn = used_uj / 1e6 / elapsed_s
        if not 0 <= drawn <= MOST_WATTS or elapsed_s > now.range_uj / 1e6 / MOST_WATTS:
            return None
        watts += drawn
    return watts


def battery(root: Path) -> Battery | None:
    """Return the state of the machine's batteries, or None where it has none.

    Those of a mouse or a headset (scope `Device`) are not the machine's.
    """
    supplies = list(folders(root / "class" / "power_supply", r".+"))
    cells = [each for each in supplies if _is_cell(each)]
    if not cells:
        return None
    giving = [each for each in cells if word(each / "status") == "Discharging"]
    mains = [
        whole(each / "online") for each in supplies
        if (word(each / "type") or "").startswith(("Mains", "USB", "Wireless"))
    ]  # fmt: skip
    watts = [_watts(each) for each in giving]
    known = [each for each in watts if each is not None]
    return Battery(
        share=_share(cells),
        on_mains=1 in mains or not giving,
        watts=sum(known) if known and len(known) == len(watts) else None,
    )


def estimate(kind: str, cpu: float | None, cores: int) -> Power:
    """Return the power of a machine of some KIND by its model; unknown where there is none.

    Args:
        kind: A key of `MODELS`.
        cpu: Share of its processors in use, 0..1.
        cores: Logical cores.
    """
    model = MODELS.get(kind)
    if model is None or cpu is None:
        return Power(watts=None, source="unknown", basis="no meter, and nothing to guess it from")
    watts = model.idle_w + model.core_w * cores * cpu
    return Power(watts=watts, source="estimated", basis=f"model of a {kind} by its CPU share")


def _is_cell(supply: Path) -> bool:
    return (
        word(supply / "type") == "Battery"
        and word(supply / "scope") != "Device"
        and word(supply / "present") != "0"
    )


def _watts(cell: Path) -> float | None:
    power_uw = whole(cell / "power_now")
    if power_uw is None:
        current_ua, voltage_uv = whole(cell / "current_now"), whole(cell / "voltage_now")
        if current_ua is None or voltage_uv is None:
            return None
        power_uw = current_ua * voltage_uv / 1e6
    watts = abs(power_uw) / 1e6  # some drivers say what flows out below zero
    return watts if 0 < watts <= MOST_WATTS else None


def _share(cells: list[Path]) -> float | None:
    """Return the mean of what CELLS say, weighed by their size where all say it."""
    left = [whole(each / "capacity") for each in cells]
    known = [min(max(each, 0), 100) / 100 for each in left if each is not None]
    if len(known) < len(cells):
        return None
    sizes = [whole(each / "energy_full") or whole(each / "charge_full") or 0 for each in cells]
    if min(sizes) <= 0:
        sizes = [1] * len(cells)
    return sum(one * size for one, size in zip(known, sizes, strict=True)) / sum(sizes)
