"""Carbon intensity: from a setting, a file, a service; with its age, and never in the way."""

import contextlib
import itertools
import json
import math
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_mesh.measuring.carbon import (
    FRESH_S,
    RETRY_S,
    STALE_S,
    Carbon,
    SeriesFile,
    Service,
    Setting,
    answered,
    series,
)
from arsenale_mesh.measuring.sampling import Sampler

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()

CSV = """time,value
# the grid of an island
2026-11-21T11:30:00Z,310
2026-11-21T11:00:00,300.5

2026-11-21T13:00:00+01:00,320
2026-11-21T12:30:00Z,330
"""


def test_a_series_gives_the_latest_value_that_is_not_of_the_future(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(CSV, encoding="utf-8")
    source = SeriesFile(file)
    assert source.at(NOON) == Carbon(grams_per_kwh=320, origin="file grid.csv", age_s=0)
    assert source.at(NOON - 1).grams_per_kwh == 310
    assert source.at(NOON - 1801).grams_per_kwh == 300.5
    early = source.at(NOON - 3601)
    assert (early.grams_per_kwh, early.problem) == (None, "it has no value up to now")
    late = source.at(NOON + 1800 + STALE_S)
    assert (late.fresh, late.is_stale, late.age_s) == (330, False, STALE_S)
    stale = source.at(NOON + 1801 + STALE_S)
    assert (stale.grams_per_kwh, stale.is_stale, stale.fresh) == (330, True, None)


def test_json_is_a_series_too() -> None:
    rows = [{"time": "2026-11-21T12:00:00Z", "value": 5}, ["2026-11-21T11:00:00+00:00", 4.5]]
    assert [(r.at, r.grams_per_kwh) for r in series(json.dumps(rows))] == [
        (NOON - 3600, 4.5), (NOON, 5.0),
    ]  # fmt: skip
    assert series("") == () == series("[]")


@pytest.mark.parametrize(
    "text",
    ["2026-11-21T12:00Z", "2026-11-21,1,2", "2026-11-21,abc", "2026-11-21,-1", "2026-11-21,nan",
     "2026-11-21,1e9", "time,value\nyesterday,5", "[", "{}", "[1]", '[["2026-11-21", true]]',
     '[[5, 5]]', '[["2026-11-21", null]]', "2026-11-21T12:00Z,\x00"],
)  # fmt: skip
def test_what_is_no_series_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="time series cannot be read"):
        series(text)


def test_a_file_that_breaks_keeps_its_values_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    source = SeriesFile(file)
    assert source.at(NOON).problem == "it cannot be read (FileNotFoundError)"
    file.write_text("2026-11-21T11:00Z,300", encoding="utf-8")
    assert source.at(NOON).fresh == 300
    file.write_text("2026-11-21T11:00Z,300\nbroken", encoding="utf-8")
    for _ in range(2):
        broken = source.at(NOON)
        assert broken.fresh == 300 and "line 2" in broken.problem
    file.unlink()
    assert source.at(NOON).fresh == 300 and "FileNotFoundError" in source.at(NOON).problem
    file.write_text("2026-11-21T11:30Z,310", encoding="utf-8")
    assert source.at(NOON) == Carbon(grams_per_kwh=310, origin="file grid.csv", age_s=1800)


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text("2026-11-21T11:00Z,300", encoding="utf-8")
    source = SeriesFile(file)
    assert source.at(NOON).fresh == 300
    read_at = file.stat().st_mtime_ns
    file.write_text("2026-11-21T11:00Z,400", encoding="utf-8")
    os.utime(file, ns=(read_at, read_at))
    assert source.at(NOON).fresh == 300
    os.utime(file, ns=(read_at, read_at + 1))
    assert source.at(NOON).fresh == 400


@pytest.mark.parametrize("grams", [math.nan, math.inf, -1.0, 3001.0])
def test_a_setting_that_no_grid_has_is_refused(grams: float) -> None:
    assert Setting(475).at(NOON) == Carbon(grams_per_kwh=475, origin="setting", age_s=0)
    with pytest.raises(InvalidError, match="a carbon intensity of"):
        Setting(grams)


@dataclass
class Grid:
    """A real HTTP server that answers as it is told."""

    url: str
    body: bytes = b""
    status: int = 200
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def says(self, answer: Any) -> None:
        self.body, self.status = json.dumps(answer).encode(), 200


@pytest.fixture
def grid() -> Iterator[Grid]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append({name.lower(): value for name, value in self.headers.items()})
            found.reached.set()
            found.go_on.wait(30)
            self.send_response(found.status)
            self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # who asked went away
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Grid(url=f"http://127.0.0.1:{server.server_address[1]}/latest?zone=DE&key=secret")
    found.go_on.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


MAPS = {"zone": "DE", "carbonIntensity": 302, "datetime": "2026-11-21T11:00:00.000Z",
        "updatedAt": "2026-11-21T11:50:01.000Z", "isEstimated": False}  # fmt: skip


def britain(actual: int | None, forecast: int | None) -> dict[str, Any]:
    """Build an answer as api.carbonintensity.org.uk/intensity gives it."""
    told = {"forecast": forecast, "actual": actual, "index": "moderate"}
    return {"data": [{"from": "2026-11-21T11:30Z", "to": "2026-11-21T12:00Z", "intensity": told}]}


async def test_a_service_as_electricity_maps_is_asked_with_its_token(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    grid.says(MAPS)
    service = Service(http, grid.url, headers={"auth-token": "t0ken"})
    assert service.at(NOON).problem == "it was not asked yet"
    assert await service.refresh(NOON) == FRESH_S
    assert [asked["auth-token"] for asked in grid.asked] == ["t0ken"]
    assert service.at(NOON) == Carbon(
        grams_per_kwh=302, origin="service 127.0.0.1", age_s=3600
    )  # fmt: skip
    assert service.at(NOON + STALE_S).is_stale
    grid.says({**MAPS, "isEstimated": True, "datetime": "2030-01-01T00:00:00Z"})
    await service.refresh(NOON + FRESH_S)
    known = service.at(NOON + FRESH_S + 9)
    assert (known.origin, known.age_s) == ("service 127.0.0.1, estimated", 9)


async def test_a_service_as_britains_gives_what_was_before_what_will_be(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    service = Service(http, grid.url)
    grid.says(britain(263, 266))
    await service.refresh(NOON)
    assert service.at(NOON) == Carbon(
        grams_per_kwh=263, origin="service 127.0.0.1", age_s=1800
    )  # fmt: skip
    grid.says(britain(None, 266))
    await service.refresh(NOON + FRESH_S)
    told = service.at(NOON + FRESH_S)
    assert (told.grams_per_kwh, told.origin) == (266, "service 127.0.0.1, forecast")


async def test_a_service_is_asked_once_in_five_minutes(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    grid.says(MAPS)
    service = Service(http, grid.url)
    assert [await service.refresh(NOON + at) for at in (0, 1, 299)] == [FRESH_S, 299, 1]
    assert len(grid.asked) == 1
    await service.refresh(NOON + 300)
    await service.refresh(NOON - 86_400)  # the clock was set back a day
    assert len(grid.asked) == 3


async def test_a_service_that_fails_keeps_its_value_and_says_how_old_it_is(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    grid.says({**MAPS, "datetime": None})
    service = Service(http, grid.url)
    await service.refresh(NOON)
    grid.status = 503
    assert await service.refresh(NOON + 600) == RETRY_S
    kept = service.at(NOON + 600)
    assert (kept.fresh, kept.age_s, kept.problem) == (302, 600, "it answers 503")
    assert service.at(NOON + STALE_S + 1).fresh is None
    grid.says({**MAPS, "datetime": None, "carbonIntensity": 250})
    await service.refresh(NOON + 660)
    assert (service.at(NOON + 660).fresh, service.at(NOON + 660).problem) == (250, "")


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"<html>", "none of a carbon service"), (b"[]", "none of"), (b"{}", "none of"),
     (b'{"carbonIntensity": -5}', "none of"), (b'{"carbonIntensity": 1e9}', "none of"),
     (b'{"carbonIntensity": NaN}', "none of"), (b'{"carbonIntensity": null}', "none of"),
     (b'{"data": []}', "none of"), (b"\xff\xfe", "none of"), (b"[" * 100_000, "none of"),
     (json.dumps(britain(None, None)).encode(), "neither actual nor forecast"),
     (b" " * 300_000, "too large")],
)  # fmt: skip
async def test_an_answer_that_is_none_is_a_problem_and_no_value(
    grid: Grid, http: httpx2.AsyncClient, body: bytes, problem: str
) -> None:
    grid.body = body
    service = Service(http, grid.url)
    assert await service.refresh(NOON) == RETRY_S
    found = service.at(NOON)
    assert found.grams_per_kwh is None and problem in found.problem
    assert "secret" not in str(found)


async def test_a_redirect_is_not_followed(grid: Grid, http: httpx2.AsyncClient) -> None:
    grid.status = 302
    service = Service(http, grid.url)
    await service.refresh(NOON)
    assert service.at(NOON).problem == "it answers 302"


async def test_a_service_that_hangs_holds_up_no_sample(
    grid: Grid, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    grid.says(MAPS)
    service = Service(http, grid.url, timeout_s=60)
    await service.refresh(NOON)
    grid.go_on.clear()
    grid.reached.clear()
    measuring = Sampler("pc", monotonic=float, now=lambda: NOON, carbon=service, root=tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(service.refresh, NOON + FRESH_S)
        assert await to_thread.run_sync(grid.reached.wait, 20)
        sampled = measuring.sample()
        assert (sampled.carbon.fresh, sampled.carbon.problem) == (302, "")
        assert sampled.telemetry().carbon == 302
        group.cancel_scope.cancel()


async def test_a_service_that_hangs_is_given_up(grid: Grid, http: httpx2.AsyncClient) -> None:
    grid.go_on.clear()
    service = Service(http, grid.url, timeout_s=0.1)
    assert await service.refresh(NOON) == RETRY_S
    assert service.at(NOON).problem == "it does not answer (TimeoutError)"


async def test_a_service_that_is_not_there_is_a_problem(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    service = Service(http, "http://127.0.0.1:1/")
    await service.refresh(NOON)
    assert service.at(NOON).problem == "it does not answer (ConnectError)"
    for url in ("file:///etc/passwd", "grid", "http://", "http://[::1"):
        with pytest.raises(InvalidError, match="address is none"):
            Service(http, url)


async def test_a_service_is_asked_again_and_again_in_the_background(
    grid: Grid, http: httpx2.AsyncClient
) -> None:
    grid.says(MAPS)
    service = Service(http, grid.url)
    slept: list[float] = []
    done = anyio.Event()
    times = itertools.count(NOON, FRESH_S)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        grid.status = 500 if len(slept) == 2 else 200
        if len(slept) == 4:
            done.set()
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(service.keep_fresh, lambda: next(times), sleep)
            await done.wait()
            group.cancel_scope.cancel()
    assert slept == [FRESH_S, FRESH_S, RETRY_S, FRESH_S]
    assert len(grid.asked) == 4


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["data", "intensity", "actual", "carbonIntensity", "datetime", "from"]),
        inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_an_answer_is_a_value_in_bounds_or_refused(body: bytes) -> None:
    try:
        found = answered(body, NOON)
    except ValueError:
        return
    assert 0 <= found.grams_per_kwh <= 3000 and math.isfinite(found.at)
