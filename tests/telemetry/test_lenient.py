"""An odd byte costs that byte: the call counts, and no secret stays in the quarantine."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_telemetry import reading
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture, normal_path, normalise
from arsenale_telemetry.spool import Spool, documents
from arsenale_telemetry.store import TelemetryStore
from arsenale_telemetry.tables import call
from arsenale_telemetry.window import parse

HOOK = Path(__file__).parents[2] / "hooks" / "log_event.sh"
TEXT = (
    '{"session_id":"s","cwd":"/w/app","hook_event_name":"PostToolUse","tool_name":"Bash",'
    '"tool_use_id":"t1","tool_input":{"command":"make é"},"tool_response":{"stdout":"é ok @"},'
    '"duration_ms":12}\n'
)
WHOLE = TEXT.encode()


def deep(depth: int) -> bytes:
    return WHOLE.replace(b'"\xc3\xa9 ok @"', b"[" * depth + b"]" * depth)


ODD: dict[str, bytes] = {
    "plain": WHOLE,
    "half a surrogate pair, first": WHOLE.replace(b"@", b"\\ud83d"),
    "half a surrogate pair, second": WHOLE.replace(b"@", b"\\ude00"),
    "a surrogate pair the wrong way": WHOLE.replace(b"@", b"\\ude00\\ud83d"),
    "a surrogate as UTF-8": WHOLE.replace(b"@", b"\xed\xa0\xbd"),
    "a half in the input": WHOLE.replace("make é".encode(), b"make \\ud83d"),
    "a half in a key": WHOLE.replace(b'"stdout"', b'"std\\ud83d"'),
    "Latin-1": TEXT.encode("latin-1"),
    "Windows-1252 quotes": WHOLE.replace(b"@", b"\x93x\x94"),
    "a cut character": WHOLE.replace(b"@", b"\xf0\x9f\x98"),
    "an overlong slash": WHOLE.replace(b"@", b"\xc0\xaf"),
    "a byte that is never UTF-8": WHOLE.replace(b"@", b"\xff\xfe"),
    "NaN": WHOLE.replace(b'"\xc3\xa9 ok @"', b"NaN"),
    "Infinity": WHOLE.replace(b'"\xc3\xa9 ok @"', b"[Infinity,-Infinity]"),
    "a number out of range": WHOLE.replace(b'"\xc3\xa9 ok @"', b"1e999"),
    "a number of 5,000 digits": WHOLE.replace(b'"\xc3\xa9 ok @"', b"9" * 5_000),
    "BOM": b"\xef\xbb\xbf" + WHOLE,
    "UTF-16 with BOM": TEXT.encode("utf-16"),
    "UTF-16, big, with BOM": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 without": TEXT.encode("utf-16-le"),
    "UTF-32": TEXT.encode("utf-32"),
    "a raw control character": WHOLE.replace(b"@", b"\x01\x1b[31m"),
    "a raw line end in a text": WHOLE.replace(b"@", b"a\nb"),
    "a raw NUL": WHOLE.replace(b"@", b"\0"),
    "nesting of 200": deep(200),
    "nesting of 2,000": deep(2_000),
    "nesting of 100,000": deep(100_000),
    "unclosed nesting": WHOLE.replace(b'"\xc3\xa9 ok @"', b'[{"a":' * 5_000),
    "cut in the output": WHOLE[: WHOLE.index(b"ok @")],
    "cut in a character": WHOLE[: WHOLE.index(b"ok @") - 2],
    "cut after the output": WHOLE[: WHOLE.index(b',"duration_ms"')],
    "cut in an escape": WHOLE.replace(b"@", b"\\ud8")[: WHOLE.index(b"@") + 4],
    "cut before the last brace": WHOLE[:-2],
    "a BOM after a line end": b"\r\n\xef\xbb\xbf" + WHOLE,
    "printed prettily with a half": json.dumps(json.loads(TEXT), indent=2).encode()
    .replace(b"@", b"\\ud83d"),
    "pretty and cut": json.dumps(json.loads(TEXT), indent=2).encode()[:-25],
    "trailing commas": WHOLE.replace(b'"duration_ms":12', b'"duration_ms":12,'),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_an_event_with_something_odd_counts_as_a_call(odd: str) -> None:
    found, damaged = documents(ODD[odd])
    assert (len(found), damaged) == (1, [])
    orjson.dumps(found)  # strict from here on
    event = normalise(found[0], at_us=1, origin="o", capture=Capture(level="bodies"))
    assert (event.tool, event.phase, event.session, event.cwd) == ("Bash", "end", "s", "/w/app")
    if "NaN" not in odd:
        assert event.output is not None
    if not odd.startswith(("cut", "pretty", "unclosed")):
        assert event.duration_us == 12_000


def test_events_around_an_odd_one_are_read_each_on_its_own() -> None:
    lines = [
        WHOLE.replace(b"t1", str(n).encode()).replace(b"@", b"\\ud83d" if n % 2 else b"ok")
        for n in range(6)
    ]
    found, damaged = documents(b"".join(lines))
    assert ([event["tool_use_id"] for event in found], damaged) == (list("012345"), [])


def test_what_names_no_event_is_still_set_aside() -> None:
    for content in (b"garbage", b'{"a":"\\ud83d"}', b"[1,2", b"\xff\xff\xff", b'"text', b"nul"):
        assert documents(content)[0] == []
        assert documents(content)[1]
    found, damaged = documents(WHOLE + b"garbage\xff\n")
    assert (len(found), len(damaged)) == (1, 1)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(content: bytes) -> None:
    found, _ = documents(content)
    orjson.dumps(found)


@given(st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=3))
def test_an_inserted_byte_never_raises(at: int, odd: bytes) -> None:
    found, _ = documents(WHOLE[:at] + odd + WHOLE[at:])
    orjson.dumps(found)


def drained(store: TelemetryStore, tmp_path: Path, *contents: bytes) -> tuple[Spool, list[Any]]:
    spool = Spool(tmp_path / "spool")
    for content in contents:
        command = ["/bin/sh", str(HOOK), str(spool.folder)]
        subprocess.run(command, input=content, check=True)
    drain = Drain(spool, store, capture=Capture(), max_bytes=2**20, step_ms=5, now=time.time)
    drain.once()
    with store.reading() as db:
        return spool, [dict(row) for row in db.execute(call.select()).mappings()]


def test_a_pair_with_something_odd_is_one_finished_call(
    store: TelemetryStore, tmp_path: Path
) -> None:
    start = WHOLE.replace(b"PostToolUse", b"PreToolUse").replace(b"@", b"\\ud83d")
    spool, calls = drained(store, tmp_path, start, ODD["half a surrogate pair, first"])
    assert [one["status"] for one in calls] == ["ok"]
    assert calls[0]["output_bytes"] > 10
    assert list((spool.folder / "quarantine").iterdir()) == []


SECRETS = {
    "a key of a cloud": b"AKIA" + b"IOSFODNN7EXAMPLE",
    "a key of a model": b"sk-ant-" + b"api03-abcdefghijklmnopqrstuvwx",
    "a token of a forge": b"ghp_" + b"A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("frame", [b"garbage %s\xff", b'{"no event": "%s', b"\xff\xfe\xfd %s"])
def test_secrets_are_masked_in_the_quarantine(kind: str, frame: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    (spool.folder / "1.2.json").write_bytes(frame % SECRETS[kind])
    [file], _ = spool.claim(10, 10**6, time.time() + 60)
    spool.quarantine(file, file.content)
    [kept] = (spool.folder / "quarantine").iterdir()
    assert SECRETS[kind] not in kept.read_bytes()
    assert b"[redacted:" in kept.read_bytes()


PATHS = [
    ("/w/app", "/w/app"), ("/w/app/", "/w/app"), ("/w/app//", "/w/app"), ("/w//app", "/w/app"),
    ("/w/./app/.", "/w/app"), ("/w/x/../app", "/w/app"), ("//w/app", "/w/app"),
    ("///w/app", "/w/app"), (" /w/app ", "/w/app"), ("/", "/"), ("/..", "/"),
    ("file:///w/my%20app/", "/w/my app"), ("C:\\w\\app", "C:/w/app"), ("c:\\w\\app\\", "C:/w/app"),
    ("C:/w/app/", "C:/w/app"), ("c:\\", "C:/"), ("C:", "C:/"), ("/c:/w/app", "C:/w/app"),
    ("file:///c%3A/w/app", "C:/w/app"), ("\\\\?\\C:\\w\\app", "C:/w/app"),
    ("C:\\w/app", "C:/w/app"), ("\\\\server\\share\\app\\", "//server/share/app"),
    ("app/", "app"), ("./app", "app"), (".", "."), ("~/app/", "~/app"), ("/w/a\\b", "/w/a\\b"),
    ("/W/App", "/W/App"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "project"), PATHS)
def test_a_folder_has_one_spelling(given: str, project: str) -> None:
    assert normal_path(given) == project
    assert normal_path(project) == project or project.startswith("//")


def test_one_folder_with_and_without_a_slash_is_one_project(
    store: TelemetryStore, tmp_path: Path
) -> None:
    other = WHOLE.replace(b'"/w/app"', b'"/w/app/"').replace(b"t1", b"t2")
    drained(store, tmp_path, WHOLE, other.replace(b'"s"', b'"s2"'))
    window = parse("all", time.time(), ZoneInfo("UTC"))
    with store.reading() as db:
        groups = reading.groups(db, reading.Scope(window=window), "project", buckets=False)
    assert [(group.name, group.calls) for group in groups] == [("/w/app", 2)]


@pytest.mark.parametrize("ahead_s", [3 * 3600, 86_400, 40 * 86_400, 3_650 * 86_400])
@pytest.mark.parametrize("since", ["today", "24h", "7d", "4w"])
def test_a_clock_that_runs_ahead_adds_nothing_to_a_report_up_to_now(
    since: str, ahead_s: int, store: TelemetryStore, event: Callable[..., Any]
) -> None:
    now = 1_795_262_400
    zone = ZoneInfo("UTC")
    store.add([
        event("PostToolUse", "a", at_us=now * 1_000_000, session="one"),
        event("PostToolUse", "b", at_us=(now + ahead_s) * 1_000_000, session="two"),
    ])  # fmt: skip
    window, ever = parse(since, now, zone), parse("all", now, zone)
    same_day = since in ("7d", "4w") and ahead_s < 86_400 / 2
    with store.reading() as db:
        scope = reading.Scope(window=window)
        assert (
            sum(g.calls for g in reading.groups(db, scope, "tool", buckets=False)) == 1 + same_day
        )
        assert len(reading.slowest(db, scope, 9)) <= 1 + same_day
        assert reading.session_count(db, window) == 1 + same_day
        assert reading.session_count(db, ever) == 2
        days = sum(reading.kinds(db, window.last_day, window.last_day).values())
        assert days == 1 + (ahead_s < 86_400 / 2)


def test_the_hook_itself_takes_any_bytes(tmp_path: Path) -> None:
    for content in ODD.values():
        subprocess.run(["/bin/sh", str(HOOK), str(tmp_path)], input=content, check=True)
    kept = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(kept) == len(ODD) and set(kept) == set(ODD.values())
    assert os.stat(tmp_path).st_mode
