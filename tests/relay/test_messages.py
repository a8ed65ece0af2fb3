"""Lines that are not valid messages: each gets one error, with its id where one is found."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_relay.inflight import InFlight

PARSE, INVALID = -32700, -32600
DEEP = "[" * 100_000
DEEP_OBJECT = '{"a":' * 100_000


def error_of(line: str | bytes) -> tuple[int, Any]:
    """Return code and id of what LINE is answered with."""
    raw = line if isinstance(line, bytes) else line.encode()
    passed, answer = InFlight().arrived(raw + b"\n")
    assert not passed
    assert answer.count(b"\n") == 1
    error = json.loads(answer, parse_constant=pytest.fail)
    assert error["jsonrpc"] == "2.0" and error["error"]["message"]
    return error["error"]["code"], error["id"]


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        ("{oops", PARSE, None),
        ("Content-Length: 42", PARSE, None),
        (DEEP, PARSE, None),
        (DEEP_OBJECT, PARSE, None),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + DEEP, PARSE, 7),
        ('{"id":"x-1","params":' + DEEP, PARSE, "x-1"),
        ('{"params":' + DEEP + "]" * 100_000 + ',"id":8}', PARSE, 8),
        ('{"params":{"id":9,"x":' + DEEP, PARSE, None),
        ('{"jsonrpc":"2.0","id":3,"meth', PARSE, 3),
        ('{"jsonrpc":"2.0","id":NaN,"method":"ping"}', INVALID, None),
        ('{"jsonrpc":"2.0","id":Infinity,"method":"ping"}', INVALID, None),
        ('{"jsonrpc":"2.0","id":-1e999,"method":"ping"}', INVALID, None),
        (r'{"jsonrpc":"2.0","id":"a\ud800","method":"ping"}', INVALID, "a\ud800"),
        (r'{"jsonrpc":"2.0","id":"\udc00b","method":"tools/call"}', INVALID, "\udc00b"),
        ('{"jsonrpc":"2.0","result":{}}', INVALID, None),
        ('{"jsonrpc":"2.0","method":"ping","id":4,}', PARSE, 4),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"\xff\xfe"}}', PARSE, 5),
        (b"\xff\xfe\x00", PARSE, None),
        ("9" * 5_000, PARSE, None),
        ('{"jsonrpc":"2.0","id":' + "9" * 5_000 + ',"method":"ping"}', PARSE, None),
        ("42", INVALID, None),
        ("null", INVALID, None),
        ("true", INVALID, None),
        ('"text"', INVALID, None),
        ("[]", INVALID, None),
        ("[1,2]", INVALID, None),
        ("{}", INVALID, None),
        ('{"id":1,"method":"ping"}', INVALID, 1),
        ('{"jsonrpc":"1.0","id":2,"method":"ping"}', INVALID, 2),
        ('{"jsonrpc":2.0,"id":2,"method":"ping"}', INVALID, 2),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID, 1.5),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID, None),
        ('{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID, None),
        ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', INVALID, None),
        ('{"jsonrpc":"2.0","id":6}', INVALID, 6),
        ('{"jsonrpc":"2.0","id":6,"method":3}', INVALID, 6),
        ('{"jsonrpc":"2.0","id":6,"method":"ping","params":[1]}', INVALID, 6),
        ('{"jsonrpc":"2.0","id":6,"method":"ping","params":"x"}', INVALID, 6),
    ],
)
def test_a_line_that_is_not_a_message_is_answered_with_its_error(
    line: str | bytes, code: int, id: object
) -> None:
    assert error_of(line) == (code, id)


@pytest.mark.parametrize("id", [0, -1, 2**53, 2**70, "", "0", "ä😀", "x" * 3_000])
def test_every_id_that_mcp_allows_passes(id: int | str) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": id, "method": "ping"}).encode()
    [(passed, message)], answer = InFlight().arrived(line)
    assert (passed, message["id"], answer) == (line, id, b"")


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":104,"method":"ping"}\r',
        b'{"jsonrpc":"2.0","id":111,"method":"ping","params":null}',
        b'{"jsonrpc":"2.0","id":114,"method":"ping","params":{"x":NaN}}',
        b'{"jsonrpc":"2.0","id":107,"method":"ping","params":{"x":"\\ud800"}}',
    ],
)
def test_unusual_messages_pass_unchanged(line: bytes) -> None:
    [(passed, _)], answer = InFlight().arrived(line)
    assert (passed, answer) == (line, b"")


@given(st.binary(max_size=200).filter(lambda raw: b"\n" not in raw and raw.strip()))
def test_any_line_is_passed_on_or_answered(raw: bytes) -> None:
    passed, answer = InFlight().arrived(raw)
    assert bool(passed) != bool(answer)


@pytest.mark.parametrize(
    "line",
    [
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        b'\xef\xbb\xbf{"arsenale":1,"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        b'{"arsenale":1,"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        b'{"arsenale":{"goodbye":1},"id":1,"jsonrpc":"2.0","method":"ping"}\n',
    ],
)
def test_a_byte_order_mark_and_the_relays_own_mark_are_not_passed_on(line: bytes) -> None:
    [(passed, _)], answer = InFlight().arrived(line)
    assert json.loads(passed) == {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert passed.endswith(b"\n") and answer == b""
