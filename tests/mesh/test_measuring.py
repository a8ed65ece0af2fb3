"""What a node says of itself: power, heat, battery, carbon; each with where it comes from."""

import math
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_mesh.measuring import energy, power, processor
from arsenale_mesh.measuring.carbon import Carbon
from arsenale_mesh.measuring.heat import heat
from arsenale_mesh.measuring.power import Counter
from arsenale_mesh.measuring.sampling import Sampler

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write FILES below ROOT/class as /sys has them, each with a newline at its end."""
    for name, text in files.items():
        file = root / "class" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    return root


def zone(name: str, energy_uj: int, most: int = 262_143_328_850) -> dict[str, str]:
    return {"name": name, "energy_uj": str(energy_uj), "max_energy_range_uj": str(most)}


def zones(**found: dict[str, str]) -> dict[str, str]:
    return {
        f"powercap/{where.replace('_', ':').replace('rapl', 'intel-rapl')}/{file}": text
        for where, files in found.items()
        for file, text in files.items()
    }


def supply(name: str, **files: str) -> dict[str, str]:
    return {f"power_supply/{name}/{file}": text for file, text in files.items()}


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sampler(root: Path, clock: Clock, kind: str = "pc") -> Sampler:
    return Sampler(kind, monotonic=clock, now=lambda: NOON, root=root)


def test_power_is_the_energy_of_all_packages_and_their_memory_over_time(tmp_path: Path) -> None:
    clock = Clock()
    doubles = {"rapl_0_0": zone("core", 7), "rapl_2": zone("psys", 9)}
    tree(tmp_path, zones(rapl_0=zone("package-0", 1_000_000), rapl_1=zone("package-1", 5),
                         rapl_0_1=zone("dram", 0), **doubles))  # fmt: skip
    tree(tmp_path, {"powercap/intel-rapl-mmio:0/name": "package-0", "powercap/dtpm/x": "1"})
    measuring = sampler(tmp_path, clock)
    clock.now += 2
    tree(tmp_path, zones(rapl_0=zone("package-0", 31_000_000), rapl_1=zone("package-1", 10_000_005),
                         rapl_0_1=zone("dram", 4_000_000)))  # fmt: skip
    found = measuring.sample().power
    assert (found.watts, found.source) == (pytest.approx(15 + 5 + 2), "measured")
    assert found.basis.startswith("RAPL")


@given(st.integers(0, 65_532_610_987), st.integers(0, 60 * 10**6), st.floats(0.5, 60))
def test_a_counter_that_began_anew_is_read_on(start: int, used_uj: int, elapsed_s: float) -> None:
    most = 65_532_610_987
    before = {"intel-rapl:0": Counter(energy_uj=start, range_uj=most)}
    after = {"intel-rapl:0": Counter(energy_uj=(start + used_uj) % most, range_uj=most)}
    watts = power.rapl_watts(before, after, elapsed_s)
    assert watts == pytest.approx(used_uj / 1e6 / elapsed_s)


def test_counters_that_cannot_tell_say_nothing() -> None:
    one = {"intel-rapl:0": Counter(energy_uj=50, range_uj=262_143_328_850)}
    assert power.rapl_watts({}, one, 1) is None
    assert power.rapl_watts(one, {}, 1) is None
    assert power.rapl_watts(one, one, 0) is None
    assert power.rapl_watts(one, one, 262) == 0
    assert power.rapl_watts(one, one, 263) is None  # a kilowatt fills it in 262 s
    reset = {"intel-rapl:0": Counter(energy_uj=0, range_uj=262_143_328_850)}
    assert power.rapl_watts(one, reset, 5) is None


def test_a_meter_that_only_root_may_read_gives_an_estimate(tmp_path: Path) -> None:
    clock = Clock()
    tree(tmp_path, zones(rapl_0=zone("package-0", 1), rapl_1=zone("package-1", 1)))
    hidden = tmp_path / "class/powercap/intel-rapl:1/energy_uj"
    hidden.unlink()
    hidden.mkdir()  # nobody, not even root, can read this one
    measuring = sampler(tmp_path, clock, "gateway")
    busy_until(0.2)
    clock.now += 1
    found = measuring.sample()
    assert found.power.source == "estimated" and found.cpu is not None
    assert found.power == power.estimate("gateway", found.cpu, found.cores)


def test_the_model_is_idle_power_and_so_much_a_busy_core() -> None:
    assert power.estimate("gateway", 0.5, 4).watts == pytest.approx(2.3 + 0.8 * 4 * 0.5)
    assert power.estimate("pc", 0.0, 12).watts == pytest.approx(40)
    assert power.estimate("phone", 1.0, 8).watts == pytest.approx(4.3)
    assert power.estimate("toaster", 1.0, 8).source == "unknown"
    assert power.estimate("pc", None, 8).watts is None


def test_a_battery_that_discharges_measures_the_whole_machine(tmp_path: Path) -> None:
    tree(tmp_path, {
        **supply("AC", type="Mains", online="0"),
        **supply("BAT0", type="Battery", status="Discharging", capacity="80", present="1",
                 power_now="9500000", energy_full="40000000"),
        **supply("BAT1", type="Battery", status="Discharging", capacity="20",
                 current_now="-250000", voltage_now="12000000", energy_full="20000000"),
        **supply("hidpp_battery_0", type="Battery", scope="Device", status="Discharging",
                 capacity="5"),
        **zones(rapl_0=zone("package-0", 1)),
    })  # fmt: skip
    clock = Clock()
    measuring = sampler(tmp_path, clock)
    clock.now += 1
    found = measuring.sample()
    assert (found.power.watts, found.power.source) == (pytest.approx(12.5), "measured")
    assert found.power.basis == "battery: the whole machine"
    assert found.battery and found.battery.share == pytest.approx(0.6)
    assert not found.battery.on_mains


def test_on_the_mains_a_battery_measures_nothing(tmp_path: Path) -> None:
    cell = supply("BAT0", type="Battery", status="Charging", capacity="50", power_now="20000000")
    tree(tmp_path, cell)
    found = power.battery(tmp_path)
    assert found == power.Battery(share=0.5, on_mains=True, watts=None)
    tree(tmp_path, {**supply("usb", type="USB", online="1"),
                    **supply("BAT0", status="Discharging")})  # fmt: skip
    weak = power.battery(tmp_path)  # a charger that gives less than is drawn
    assert weak and weak.on_mains
    assert sampler(tmp_path, Clock()).sample().power.source != "measured"


def test_a_machine_without_sensors_says_that_it_knows_nothing(tmp_path: Path) -> None:
    found = sampler(tmp_path / "none", Clock(), "mainframe").sample()
    assert (found.battery, found.heat.celsius, found.heat.source) == (None, None, "unknown")
    assert (found.power.watts, found.power.source) == (None, "unknown")
    assert (found.carbon.grams_per_kwh, found.carbon.origin) == (None, "unknown")
    said = found.telemetry()
    assert (said.watts, said.celsius, said.carbon, said.energy) == (None, None, None, "unknown")


@pytest.mark.parametrize("text", ["", "abc", "1.5", "9" * 30, "\x00", "-1", "12 W"])
def test_a_file_that_says_nonsense_is_no_figure(tmp_path: Path, text: str) -> None:
    tree(tmp_path, {
        **zones(rapl_0={"name": "package-0", "energy_uj": text, "max_energy_range_uj": "100"}),
        **supply("BAT0", type="Battery", status="Discharging", capacity="50", current_now=text,
                 voltage_now="12000000"),
        "thermal/thermal_zone0/type": "x86_pkg_temp", "thermal/thermal_zone0/temp": text,
    })  # fmt: skip
    assert power.counters(tmp_path) == {}
    cells = power.battery(tmp_path)
    assert cells is not None and (cells.watts is None or cells.watts < 1e-4)
    assert heat(tmp_path).celsius in (None, -0.001)


def test_heat_is_the_hottest_sensor_of_the_processor(tmp_path: Path) -> None:
    tree(tmp_path, {
        "thermal/thermal_zone0/type": "iwlwifi_1", "thermal/thermal_zone0/temp": "91000",
        "thermal/thermal_zone1/type": "x86_pkg_temp", "thermal/thermal_zone1/temp": "47000",
        "thermal/thermal_zone2/type": "cpu-thermal", "thermal/thermal_zone2/temp": "-274000",
        "thermal/cooling_device0/type": "cpu",
    })  # fmt: skip
    assert (heat(tmp_path).celsius, heat(tmp_path).basis) == (47.0, "x86_pkg_temp")
    tree(tmp_path, {
        "hwmon/hwmon0/name": "nvme", "hwmon/hwmon0/temp1_input": "80000",
        "hwmon/hwmon1/name": "coretemp", "hwmon/hwmon1/temp1_input": "51000",
        "hwmon/hwmon1/temp2_input": "53500", "hwmon/hwmon1/temp3_input": "255000",
    })  # fmt: skip
    found = heat(tmp_path)
    assert (found.celsius, found.source, found.basis) == (53.5, "measured", "coretemp")


def busy_until(cpu_s: float) -> None:
    """Use so much processor time."""
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        math.sqrt(2.0)


def test_this_machine_is_measured_for_real() -> None:
    measuring = Sampler("pc", monotonic=time.monotonic, now=time.time)
    began = time.monotonic()
    busy_until(0.4)
    found = measuring.sample()
    gone = time.monotonic() - began
    assert found.cores == os.cpu_count()
    least = 0.5 * 0.4 / (gone * found.cores)  # half: the kernel counts in hundredths
    assert found.cpu is not None and least <= found.cpu <= 1
    assert 2**20 < found.memory_free < 2**50 and found.load >= 0
    assert found.power.source in ("measured", "estimated") and found.power.watts
    assert found.telemetry(3.0).cpu == found.cpu and found.telemetry(3.0).joules_per_gfuel == 3


def test_a_share_is_of_the_time_between_and_none_where_none_went_by() -> None:
    before = processor.Times(busy_s=10, total_s=100)
    assert processor.share(before, processor.Times(busy_s=13, total_s=104)) == 0.75
    assert processor.share(before, before) is None
    assert processor.share(before, processor.Times(busy_s=9, total_s=104)) == 0  # a core went


def test_energy_has_its_units() -> None:
    # 20 W, of which the guest used a quarter, at 2.5 Gfuel/s: 5 W / 2.5 = 2 J for 10^9 fuel
    assert energy.joules_per_gfuel(20, 0.25, 2.5e9) == pytest.approx(2.0)
    assert energy.machine_share(3.0, 2.0, 6) == pytest.approx(0.25)
    assert energy.joules(10_000_000_000, 2.0) == pytest.approx(20.0)
    # a kilowatt for an hour, at 475 g/kWh
    assert energy.grams_co2e(1000 * 3600, 475) == pytest.approx(475.0)
    assert energy.grams_co2e(20.0, 475) == pytest.approx(0.0026389, rel=1e-4)


@given(st.floats(), st.floats(), st.floats())
def test_energy_is_a_number_or_unknown(watts: float, share: float, fuel_per_s: float) -> None:
    found = energy.joules_per_gfuel(watts, share, fuel_per_s)
    assert found is None or found >= 0
    part = energy.machine_share(watts, share, 2)
    assert part is None or 0 <= part <= 1


def test_carbon_that_is_stale_is_not_told_as_telemetry(tmp_path: Path) -> None:
    found = sampler(tmp_path, Clock()).sample()
    old = Carbon(grams_per_kwh=50, origin="file x", age_s=1e4, is_stale=True)
    assert replace(found, carbon=old).telemetry().carbon is None
    assert replace(found, carbon=replace(old, is_stale=False)).telemetry().carbon == 50
