"""What the relay remembers of a session."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_relay.inflight import InFlight, asks


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def sent(flight: InFlight, raw: bytes) -> bool:
    """Give a line of the host to FLIGHT, as the relay does."""
    [(passed, message)], answer = flight.arrived(raw)
    assert not answer
    return flight.sent(passed, message)


def answer(id: Any) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b',"result":{}}'


def test_an_answered_request_is_not_in_flight() -> None:
    flight = InFlight()
    sent(flight, line(id=1, method="tools/call"))
    assert flight.waiting
    assert flight.received(answer(1))
    assert not flight.waiting
    assert flight.lost("gone") == []


def test_a_call_is_failed_and_a_listing_is_asked_again_but_once() -> None:
    flight = InFlight()
    listing = line(id="l", method="tools/list")
    sent(flight, line(id=1, method="tools/call"))
    sent(flight, listing)
    [error] = map(json.loads, flight.lost("gone"))
    assert (error["id"], error["error"]["message"]) == (1, "tools/call: gone")
    assert flight.opening() == (None, [listing])
    [error] = map(json.loads, flight.lost("gone"))
    assert error["id"] == "l"


def test_a_handshake_is_replayed_and_its_second_answer_swallowed() -> None:
    flight = InFlight()
    hello, done = line(id=0, method="initialize"), line(method="notifications/initialized")
    sent(flight, hello)
    assert flight.received(answer(0))
    sent(flight, done)
    flight.lost("gone")
    assert flight.opening() == (hello, [done])
    assert flight.handshaking
    assert not flight.received(answer(0))
    assert not flight.handshaking


def test_a_notification_and_a_response_ask_nothing() -> None:
    assert asks({"id": 0, "method": "ping"})
    assert not asks({"method": "notifications/initialized"})
    assert not asks({"id": 3, "result": {}})


def test_the_answer_to_a_dead_daemons_question_is_dropped() -> None:
    flight = InFlight()
    assert flight.received(line(id=7, method="elicitation/create"))
    assert sent(flight, line(id=7, result={}))
    assert flight.received(line(id=8, method="elicitation/create"))
    flight.lost("gone")
    assert not sent(flight, line(id=8, result={}))


def test_a_cancelled_request_is_waited_for_no_more() -> None:
    flight = InFlight()
    sent(flight, line(id=3, method="tools/call"))
    sent(flight, line(method="notifications/cancelled", params={"requestId": 3}))
    assert not flight.waiting


def test_a_line_of_the_daemon_that_is_not_json_passes() -> None:
    assert InFlight().received(b"garbage") == b"garbage\n"


def batch_flight() -> InFlight:
    """Return a session that agreed on the one revision with batches."""
    flight = InFlight()
    sent(flight, line(id=0, method="initialize", params={"protocolVersion": "2025-03-26"}))
    flight.received(b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-03-26"}}')
    return flight


def test_a_batch_is_answered_by_one_array_when_its_last_answer_is_there() -> None:
    flight = batch_flight()
    raw = b"[" + b",".join((line(id=1, method="ping"), line(id="b", method="ping"))) + b"]"
    passed, now = flight.arrived(raw)
    assert (len(passed), now) == (2, b"")
    for one, message in passed:
        assert flight.sent(one, message)
    assert flight.received(answer("b")) == b""
    answers = json.loads(flight.received(answer(1)))
    assert [each["id"] for each in answers] == ["b", 1]


def test_a_batch_whose_members_are_partly_invalid_has_an_answer_for_each() -> None:
    flight = batch_flight()
    raw = json.dumps([
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}, 42, {"id": 2, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/x"},
        {"jsonrpc": "2.0", "id": 3, "method": "initialize"},
    ]).encode()  # fmt: skip
    passed, _ = flight.arrived(raw)
    assert [message["method"] for _, message in passed] == ["tools/call", "notifications/x"]
    for one, message in passed:
        flight.sent(one, message)
    [array] = flight.lost("gone")
    codes = {each["id"]: each["error"]["code"] for each in json.loads(array)}
    assert codes == {1: -32000, None: -32600, 2: -32600, 3: -32600}


def test_a_batch_of_notifications_gets_no_answer() -> None:
    passed, now = batch_flight().arrived(b'[{"jsonrpc":"2.0","method":"notifications/x"}]')
    assert (len(passed), now) == (1, b"")


def test_a_batch_in_a_revision_without_batches_is_invalid() -> None:
    passed, now = InFlight().arrived(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]')
    assert not passed and json.loads(now)["error"]["code"] == -32600


ids = st.integers() | st.text(max_size=12)


@given(st.lists(ids, unique_by=json.dumps, max_size=12), st.data())
def test_each_request_ends_in_one_answer_or_one_error(ids: list[Any], data: st.DataObject) -> None:
    flight = InFlight()
    for id in ids:
        sent(flight, line(id=id, method="tools/call"))
    answered = data.draw(st.lists(st.sampled_from(ids), unique_by=json.dumps)) if ids else []
    for id in answered:
        assert flight.received(answer(id)) == answer(id) + b"\n"
    failed = [json.loads(error)["id"] for error in flight.lost("gone")]
    assert sorted(map(json.dumps, [*answered, *failed])) == sorted(map(json.dumps, ids))


def test_an_answer_with_an_id_of_any_length_ends_its_request() -> None:
    for id in ("x" * 1_900, "x" * 5_000, "ä" * 3_000, "\\" * 2_000):
        flight = InFlight()
        sent(flight, line(id=id, method="tools/call"))
        assert flight.received(answer(id))
        assert flight.lost("gone") == []


def test_a_batch_is_answered_when_what_it_still_waits_for_is_cancelled() -> None:
    flight = InFlight()
    flight.answered_here(line(id=0, method="initialize"), {"method": "initialize", "id": 0},
                         "2025-03-26")  # fmt: skip
    calls = [{"jsonrpc": "2.0", "id": id, "method": "tools/call"} for id in (1, 2)]
    passed, _ = flight.arrived(json.dumps(calls).encode() + b"\n")
    for one, message in passed:
        flight.sent(one, message)
    assert flight.received(answer(1)) == b""
    assert flight.release() == b""
    sent(flight, line(method="notifications/cancelled", params={"requestId": 2}))
    [only] = json.loads(flight.release())
    assert only["id"] == 1
    assert flight.release() == b""


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[[1],"])
def test_an_answer_whose_id_is_nested_without_end_passes(opening: bytes) -> None:
    raw = b'{"jsonrpc":"2.0","id":' + opening * 50_000
    assert InFlight().received(raw) == raw + b"\n"
