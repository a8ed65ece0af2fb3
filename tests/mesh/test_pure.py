"""The mesh's rules: identities, trees, receipts, health, ledger."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_mesh import health, identity, ledger, merkle, receipts
from arsenale_mesh.canonical import canonical, digest

ONE, OTHER = identity.make(), identity.make()
DID = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"


def test_a_did_key_is_the_one_of_the_specification() -> None:
    # did:key v0.9, test vectors for Ed25519 (base58-btc of 0xed01 and the key)
    raw = bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
    did = identity.did_of(Ed25519PublicKey.from_public_bytes(raw))
    assert did == DID
    assert identity.public_of(did).public_bytes_raw() == raw


@pytest.mark.parametrize(
    "did",
    ["", "did:key:z", "did:web:x", "did:key:z6Mk0OIl", "did:key:z" + "6" * 200,
     DID + "1", "did:key:z1" + DID[9:], DID[:-1]],
)  # fmt: skip
def test_what_is_no_did_key_is_refused_and_signs_nothing(did: str) -> None:
    with pytest.raises(InvalidError):
        identity.public_of(did)
    assert not identity.is_signed(did, ONE.sign(b"x"), b"x")


def test_an_identity_stays_and_its_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "node"
    first = identity.load_or_make(file)
    assert identity.load_or_make(file).did == first.did
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["node"]
    file.write_text("nonsense", encoding="ascii")
    with pytest.raises(InvalidError, match="holds no key"):
        identity.load_or_make(file)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=40), st.data())
def test_a_leaf_is_proved_at_its_place_and_nothing_else_is(
    items: list[bytes], data: st.DataObject
) -> None:
    leaves = [merkle.leaf(item) for item in items]
    place = data.draw(st.integers(0, len(items) - 1))
    shown = merkle.proof(leaves, place)
    tree, count = merkle.root(leaves), len(leaves)
    assert merkle.holds(tree, leaves[place], place, count, shown)
    assert not merkle.holds(tree, merkle.leaf(b"other" + items[place]), place, count, shown)
    assert not merkle.holds(tree, leaves[place], place, count, (*shown, (True, b"x" * 32)))
    assert not merkle.holds(tree, leaves[place], count, count, shown)
    for elsewhere in range(count):
        if leaves[elsewhere] != leaves[place]:
            assert not merkle.holds(tree, leaves[place], elsewhere, count, shown)


def test_a_node_is_no_leaf() -> None:
    a, b = merkle.leaf(b"a"), merkle.leaf(b"b")
    assert merkle.root([a, b]) != merkle.leaf(a + b)
    assert merkle.root([]) == merkle.EMPTY


LIMITS = receipts.Limits(memory_bytes=2**29, fuel=10**10, wall_ms=30_000, output_bytes=2**20)
BODY = receipts.Body(
    task="t1", nonce="n1", module=digest(b"m"), function="run", input=digest(b"i"),
    output=digest(b"o"), seed=7, clock_us=0, limits=LIMITS, status="ok", fuel=123_456,
    slice_fuel=10**8, slices=1, trace=digest(b"t"), engine="wasmtime 50.0.1 cranelift 0",
    node=ONE.did, started_us=1, ended_us=2,
)  # fmt: skip


def test_a_receipt_is_read_back_as_it_was_signed() -> None:
    receipt = receipts.sign(BODY, ONE)
    again = receipts.parse(json.loads(json.dumps(receipt.plain())))
    assert again == receipt and again.id == receipt.id
    assert receipts.problems(again) == []


@given(st.sampled_from(sorted(canonical(receipts.sign(BODY, ONE).plain()).decode())), st.data())
def test_a_receipt_in_which_anything_is_changed_is_refused(_: str, data: st.DataObject) -> None:
    plain = receipts.sign(BODY, ONE).plain()
    name = data.draw(st.sampled_from([n for n in sorted(plain) if n not in ("proof", "limits")]))
    value: Any = plain[name]
    changed = (
        value + 1 if isinstance(value, int) else value[:-1] + ("0" if value[-1] != "0" else "1")
    )
    try:
        found = receipts.problems(receipts.parse({**plain, name: changed}))
    except InvalidError:
        return
    assert "signature" in found


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        (receipts.Expected(task="t2"), "task"), (receipts.Expected(nonce="n2"), "nonce"),
        (receipts.Expected(module="m"), "module"), (receipts.Expected(input="i"), "input"),
        (receipts.Expected(node=OTHER.did), "signer"), (receipts.Expected(engine="e"), "engine"),
        (receipts.Expected(function="f"), "function"),
        (receipts.Expected(limits=replace(LIMITS, fuel=1)), "limits"),
    ],
)  # fmt: skip
def test_a_receipt_for_something_else_is_told_as_such(
    expected: receipts.Expected, problem: str
) -> None:
    assert receipts.problems(receipts.sign(BODY, ONE), expected) == [problem]


def test_a_receipt_that_another_signed_or_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidError, match="a node signs for itself"):
        receipts.sign(BODY, OTHER)
    stolen = replace(receipts.sign(replace(BODY, node=OTHER.did), OTHER), body=BODY)
    assert receipts.problems(stolen) == ["signature"]
    odd = replace(BODY, fuel=LIMITS.fuel + BODY.slice_fuel + 1, ended_us=0)
    assert receipts.problems(receipts.sign(odd, ONE)) == ["times", "limits"]


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"fuel": -1}, {"fuel": 2**53}, {"fuel": True}, {"fuel": 1.0}, {"module": "x"},
     {"signature": "00"}, {"limits": {}}, {"version": 2}, {"proof": "p"}, {"status": "x" * 500}],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(change: dict[str, Any]) -> None:
    plain = receipts.sign(BODY, ONE).plain()
    with pytest.raises(InvalidError):
        receipts.parse({**plain, **change})
    with pytest.raises(InvalidError):
        receipts.parse([])


def test_health_is_the_weighted_sum_of_its_terms() -> None:
    seen = health.Telemetry(bandwidth=125e6, latency_s=0.05, joules_per_gfuel=10, energy="measured")
    found = health.health(seen, 1.0)
    assert [round(term.value, 3) for term in found.terms] == [1.0, 0.5, 0.5, 1.0]
    assert found.score == pytest.approx(0.4 + 0.15 + 0.1 + 0.1)
    assert found.terms[2].basis == "10 J per 10^9 fuel, measured by its own word"


@given(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(), st.floats(), st.floats(),
)  # fmt: skip
def test_health_lies_in_0_to_1_whatever_a_node_says(
    bandwidth: float, latency: float, joules: float, reputation: float
) -> None:
    seen = health.Telemetry(bandwidth=bandwidth, latency_s=latency, joules_per_gfuel=joules)
    assert 0 <= health.health(seen, reputation).score <= 1


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_more_bandwidth_and_less_latency_are_never_worse(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert health.bandwidth_term(low) <= health.bandwidth_term(high)
    assert health.latency_term(low) >= health.latency_term(high)
    assert math.isclose(health.latency_term(None), health.UNKNOWN)


CLAIMS = st.builds(
    health.Telemetry,
    joules_per_gfuel=st.none() | st.floats(), energy=st.sampled_from(get_args(health.Source)),
    watts=st.none() | st.floats(), celsius=st.none() | st.floats(),
    carbon=st.none() | st.floats(), cpu=st.none() | st.floats(),
    memory_free=st.none() | st.integers(),
)  # fmt: skip


@given(CLAIMS, st.none() | st.floats(), st.none() | st.floats(), st.floats(0, 1))
def test_no_claim_of_a_node_that_is_not_ours_lifts_its_score(
    claims: health.Telemetry, bandwidth: float | None, latency_s: float | None, reputation: float
) -> None:
    silent = health.Telemetry(bandwidth=bandwidth, latency_s=latency_s)
    claiming = replace(claims, bandwidth=bandwidth, latency_s=latency_s)
    score = health.health(silent, reputation).score
    assert health.health(claiming, reputation).score <= score


def test_a_claim_may_lower_a_score_and_our_own_node_is_taken_at_its_word() -> None:
    frugal = health.Telemetry(joules_per_gfuel=2.5, energy="measured")
    wasteful = health.Telemetry(joules_per_gfuel=90.0, energy="estimated")
    unknown = health.health(health.Telemetry(), 0.5).score
    assert health.health(frugal, 0.5).score == unknown
    assert (
        health.health(frugal, 0.5).terms[2].basis.endswith("by its own word, which lifts nothing")
    )
    assert health.health(wasteful, 0.5).score == pytest.approx(unknown - 0.2 * (0.5 - 0.1))
    ours = health.health(frugal, 0.5, is_ours=True)
    assert ours.score == pytest.approx(unknown + 0.2 * (0.8 - 0.5))
    assert ours.terms[2].basis == "2.5 J per 10^9 fuel, measured"


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -1.0, 0.0, 1e-9, 1e30])
def test_absurd_joules_count_as_unknown_of_our_own_node_too(absurd: float) -> None:
    seen = health.Telemetry(joules_per_gfuel=absurd, bandwidth=math.inf)
    [bandwidth, _, efficiency, _] = health.health(seen, 0.5, is_ours=True).terms
    assert (efficiency.value, bandwidth.value) == (health.UNKNOWN, health.UNKNOWN)
    assert efficiency.basis.startswith("unknown")


def test_an_absurd_bandwidth_is_unknown_and_an_absurd_latency_is_late() -> None:
    assert health.bandwidth_term(1e18) == health.UNKNOWN
    assert health.latency_term(1e9) < 1e-9


def chain(n: int) -> list[ledger.Entry]:
    entries: list[ledger.Entry] = []
    for i in range(n):
        entries.append(
            ledger.following(
                entries[-1] if entries else None, at_us=i, kind="reward", node=f"n{i % 3}",
                credits=i, task=f"t{i}", receipt="r",
            )
        )  # fmt: skip
    return entries


@given(st.integers(1, 12), st.data())
def test_a_ledger_in_which_anything_is_changed_is_found_out(n: int, data: st.DataObject) -> None:
    entries = chain(n)
    stored = [(entry, entry.hash) for entry in entries]
    assert ledger.fault(stored) is None
    place = data.draw(st.integers(0, n - 1))
    entry, hash = stored[place]
    kind = data.draw(st.sampled_from(["credits", "rehash", "drop", "swap"]))
    if kind == "credits":
        stored[place] = (replace(entry, credits=entry.credits + 1), hash)
    elif kind == "rehash":
        changed = replace(entry, node="thief")
        stored[place] = (changed, changed.hash)
    elif kind == "drop":
        del stored[place]
    elif n > 1:
        stored[0], stored[-1] = stored[-1], stored[0]
    if kind == "rehash" and place == n - 1:
        return  # the last one's hash is what the snapshot and the next entry hold
    if (kind == "drop" and place == n - 1) or (kind == "swap" and n == 1):
        return
    assert ledger.fault(stored) is not None


def test_balances_are_the_sums_of_the_entries() -> None:
    assert ledger.balances(chain(4)) == {"n0": 3, "n1": 1, "n2": 2}


HIDDEN = {
    "an escape sequence": "t\x1b[2J", "a newline": "t\nThe receipt holds.", "a return": "t\rok",
    "a right-to-left override": "t\u202e1", "an isolate": "t\u2066", "NUL": "t\0", "DEL": "t\x7f",
    "C1": "t\x9b2J", "a line separator": "t\u2028x", "half a character": "t\ud800",
    "a zero-width space": "t\u200b", "a tag": "t\U000e0041", "too long": "t" * 401,
    "10 MB": "t" * 10_000_000,
}  # fmt: skip


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize(
    "name", ["task", "node", "engine", "nonce", "function", "module", "status"]
)
def test_a_receipt_whose_texts_cannot_be_printed_is_refused_by_name(name: str, text: str) -> None:
    plain = receipts.sign(BODY, ONE).plain()
    with pytest.raises(InvalidError, match=f"{name} of the receipt") as refused:
        receipts.parse({**plain, name: text})
    assert str(refused.value).isprintable() and len(str(refused.value)) < 200


def test_a_receipt_with_a_status_that_no_guest_ends_with_is_refused() -> None:
    with pytest.raises(InvalidError, match="unknown status"):
        receipts.parse({**receipts.sign(BODY, ONE).plain(), "status": "ok, and verified"})
    for status in get_args(receipts.Status):
        assert receipts.parse(receipts.sign(replace(BODY, status=status), ONE).plain())


def test_fields_that_no_receipt_has_are_named_in_short() -> None:
    with pytest.raises(InvalidError, match="fields are wrong") as refused:
        receipts.parse({**receipts.sign(BODY, ONE).plain(), "x" * 10_000_000: 1})
    assert len(str(refused.value)) < 600
