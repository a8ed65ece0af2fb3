"""What a node says of itself in a heartbeat, measured now; each figure with where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arsenale_mesh.health import Telemetry
from arsenale_mesh.measuring import processor
from arsenale_mesh.measuring.carbon import UNKNOWN_CARBON, Carbon, CarbonSource
from arsenale_mesh.measuring.heat import Heat, heat
from arsenale_mesh.measuring.power import (
    Battery,
    Power,
    battery,
    counters,
    estimate,
    rapl_watts,
)
from arsenale_mesh.measuring.sysfs import SYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A machine at one moment.

    Attributes:
        cpu: Share of its processors in use since the sample before, 0..1; None if no time went by.
        cores: Logical cores.
        memory_free: Bytes.
        load: Processes that ran or wanted to, mean over a minute.
        battery: None where it has none.
    """

    cpu: float | None
    cores: int
    memory_free: int
    load: float
    power: Power
    heat: Heat
    carbon: Carbon
    battery: Battery | None

    def telemetry(self, joules_per_gfuel: float | None = None) -> Telemetry:
        """Return what health and placement read; carbon that is stale counts as unknown."""
        return Telemetry(
            joules_per_gfuel=joules_per_gfuel,
            energy="unknown" if joules_per_gfuel is None else self.power.source,
            watts=self.power.watts,
            celsius=self.heat.celsius,
            carbon=self.carbon.fresh,
            cpu=self.cpu,
            memory_free=self.memory_free,
        )


class Sampler:
    """Measures this machine again and again. Reads a few small files; asks no network.

    One at a time: two threads that sample at once would share what is between samples.
    """

    def __init__(
        self,
        kind: str,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        carbon: CarbonSource | None = None,
        root: Path = SYS,
    ) -> None:
        """Begin; the first sample covers the time from here.

        Args:
            kind: Of the node; where nothing measures power, it is guessed by it (`MODELS`).
            monotonic: Seconds by a clock that nobody sets.
            now: Unix seconds.
            carbon: Where carbon intensity comes from.
            root: Of a tree like Linux's /sys.
        """
        self._kind = kind
        self._monotonic = monotonic
        self._now = now
        self._carbon = carbon
        self._root = root
        self._times = processor.times()
        self._counters = counters(root)
        self._read_at = monotonic()

    def sample(self) -> Measured:
        """Measure. What cannot be is unknown or estimated, and says so; nothing is raised."""
        times, before = processor.times(), self._times
        cpu, cores = processor.share(before, times), processor.cores()
        self._times = times
        cells = battery(self._root)
        metered = self._metered()
        return Measured(
            cpu=cpu,
            cores=cores,
            memory_free=processor.memory_free(),
            load=processor.load(),
            power=_discharge(cells) or metered or estimate(self._kind, cpu, cores),
            heat=heat(self._root),
            carbon=self._carbon.at(self._now()) if self._carbon else UNKNOWN_CARBON,
            battery=cells,
        )

    def _metered(self) -> Power | None:
        found, read_at = counters(self._root), self._monotonic()
        watts = rapl_watts(self._counters, found, read_at - self._read_at)
        self._counters, self._read_at = found, read_at
        if watts is None:
            return None
        return Power(watts=watts, source="measured", basis="RAPL: processor and its memory only")


def _discharge(cells: Battery | None) -> Power | None:
    if cells is None or cells.on_mains or cells.watts is None:
        return None
    return Power(watts=cells.watts, source="measured", basis="battery: the whole machine")
