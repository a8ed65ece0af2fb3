"""What the relay remembers of a session."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arsenale_relay.inflight import InFlight


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def answer(id: Any) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b',"result":{}}'


def test_an_answered_request_is_not_in_flight() -> None:
    flight = InFlight()
    flight.sent(line(id=1, method="tools/call"))
    assert flight.waiting
    assert flight.received(answer(1))
    assert not flight.waiting
    assert flight.lost("gone") == []


def test_a_call_is_failed_and_a_listing_is_asked_again_but_once() -> None:
    flight = InFlight()
    listing = line(id="l", method="tools/list")
    flight.sent(line(id=1, method="tools/call"))
    flight.sent(listing)
    [error] = map(json.loads, flight.lost("gone"))
    assert (error["id"], error["error"]["message"]) == (1, "tools/call: gone")
    assert flight.opening() == (None, [listing])
    [error] = map(json.loads, flight.lost("gone"))
    assert error["id"] == "l"


def test_a_handshake_is_replayed_and_its_second_answer_swallowed() -> None:
    flight = InFlight()
    hello, done = line(id=0, method="initialize"), line(method="notifications/initialized")
    flight.sent(hello)
    assert flight.received(answer(0))
    flight.sent(done)
    flight.lost("gone")
    assert flight.opening() == (hello, [done])
    assert flight.handshaking
    assert not flight.received(answer(0))
    assert not flight.handshaking


def test_what_asks_nothing_is_no_request() -> None:
    flight = InFlight()
    assert flight.asks(line(id=0, method="ping"))
    assert flight.asks(b"no JSON")
    assert not flight.asks(line(method="notifications/initialized"))
    assert not flight.asks(line(id=3, result={}))


def test_the_answer_to_a_dead_daemons_question_is_dropped() -> None:
    flight = InFlight()
    assert flight.received(line(id=7, method="elicitation/create"))
    assert flight.sent(line(id=7, result={}))
    assert flight.received(line(id=8, method="elicitation/create"))
    flight.lost("gone")
    assert not flight.sent(line(id=8, result={}))


def test_a_cancelled_request_is_waited_for_no_more() -> None:
    flight = InFlight()
    flight.sent(line(id=3, method="tools/call"))
    flight.sent(line(method="notifications/cancelled", params={"requestId": 3}))
    assert not flight.waiting


def test_a_line_that_is_no_json_passes() -> None:
    assert InFlight().sent(b"garbage\n")
    assert InFlight().received(b"garbage")


ids = st.integers() | st.text(max_size=12)


@given(st.lists(ids, unique_by=json.dumps, max_size=12), st.data())
def test_each_request_ends_in_one_answer_or_one_error(ids: list[Any], data: st.DataObject) -> None:
    flight = InFlight()
    for id in ids:
        flight.sent(line(id=id, method="tools/call"))
    answered = data.draw(st.lists(st.sampled_from(ids), unique_by=json.dumps)) if ids else []
    for id in answered:
        assert flight.received(answer(id))
    failed = [json.loads(error)["id"] for error in flight.lost("gone")]
    assert sorted(map(json.dumps, [*answered, *failed])) == sorted(map(json.dumps, ids))
