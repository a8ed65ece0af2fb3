"""A gateway with real nodes and real guests over memory: who comes, goes, lags, boasts."""

from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.mesh.hive import HEARTBEAT_S, SHA, Gated, Hive, drained, heard, hive
from tests.mesh.village import Hand

from arsenale_core.errors import UnavailableError
from arsenale_core.tasks import background
from arsenale_mesh import changes, gateway, identity, reputation, rows
from arsenale_mesh.links import Link, Message
from arsenale_mesh.placement import Wanted
from arsenale_mesh.rates import Rate
from arsenale_mesh.roster import GRACE_US
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.store import MeshStore

pytestmark = pytest.mark.timeout(90)
BEYOND_GRACE_S = GRACE_US / 1e6 + 1
SILENT_S = gateway.SILENT_BEATS * HEARTBEAT_S + 1
ANY = Wanted(memory_bytes=1, excluded=frozenset(), engines=frozenset({engine_id("cranelift")}))


@pytest.fixture
def store(tmp_path: Path) -> Generator[MeshStore]:
    with MeshStore(tmp_path, Hand()) as opened:
        yield opened


@pytest.fixture
async def mesh(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Hive]:
    monkeypatch.setattr(gateway, "SWEEP_S", 0.02)
    async with hive(store, pool) as opened:
        yield opened


# Work.


async def test_tasks_run_and_their_module_is_fetched_once(mesh: Hive) -> None:
    _, line = mesh.node(house=True)
    tasks = [await mesh.task(b"data %d" % number) for number in range(30)]
    await mesh.over(*tasks)
    assert line.said.count("fetch") == 1
    assert {len(mesh.attempts(task)) for task in tasks} == {1}
    assert {mesh.now(task).how for task in tasks} == {"house"}
    mesh.check()


async def test_a_stranger_runs_and_the_house_checks(mesh: Hive) -> None:
    stranger, _ = mesh.node(name="far")
    task = await mesh.task()
    await mesh.until(lambda: mesh.now(task).asks == "house")
    assert mesh.now(task).output is None
    mesh.node(house=True)
    await mesh.over(task)
    assert [one.role for one in mesh.attempts(task)] == ["run", "check"]
    with mesh.store.reading() as db:
        node = rows.node_with(db, stranger.identity.did)
    assert node
    assert node.credits == mesh.now(task).reward > 0


async def test_the_urgent_is_given_first(mesh: Hive) -> None:
    low = [await mesh.task(b"low %d" % number, priority=1) for number in range(3)]
    high = [await mesh.task(b"high %d" % number, priority=9) for number in range(3)]
    async with mesh.by_hand(mesh.house) as link:
        given: list[str] = []
        while len(given) < 6:
            given += [one["task"] for one in (await heard(link, "work")).body["tasks"]]
    assert given == [task.name for task in (*high, *low)]


async def test_a_node_of_another_engine_is_there_and_gets_no_work(mesh: Hive) -> None:
    async with mesh.by_hand(identity.make(), engine="wasmtime 1") as link:
        task = await mesh.task()
        await mesh.until(lambda: mesh.gateway.waiting_because.get(task.id))
        mesh.node(house=True)
        await mesh.over(task)
        await link.send(Message(kind="leave"))
        kinds = list[str]()
        with anyio.fail_after(10), pytest.raises(Exception, match="gone"):
            while True:
                kinds.append((await link.receive()).kind)
        assert "work" not in kinds


async def test_a_cancelled_task_is_stopped_where_it_runs(mesh: Hive) -> None:
    node, _ = mesh.node(Gated, house=True)
    task = await mesh.task()
    with anyio.fail_after(20):
        await node.began.wait()
        _, going = await mesh.committer.do(lambda c: changes.cancel(c, task.id))
        mesh.gateway.drop(going)
        await node.stopped.wait()
    node.gate.set()
    other = await mesh.task(b"other")
    await mesh.over(other)
    assert mesh.now(task).state == "cancelled"


# Nodes that go.


async def test_what_a_node_that_vanished_had_goes_to_another_after_the_grace(mesh: Hive) -> None:
    node, line = mesh.node(Gated, name="gone", house=True)
    task = await mesh.task()
    with anyio.fail_after(20):
        await node.began.wait()
    await line.cut(for_good=True)
    await mesh.until(lambda: not mesh.gateway.sessions)
    mesh.node(name="there")
    await mesh.until(lambda: mesh.gateway.sessions)
    assert mesh.now(task).state == "running", "it may still come back"
    mesh.clock.passes(BEYOND_GRACE_S)
    await mesh.until(lambda: len(mesh.attempts(task)) == 2)
    assert mesh.attempts(task)[0].state == "lost"
    line.free.set()
    node.gate.set()
    await mesh.over(task)
    mesh.check()


@pytest.mark.parametrize("when", ["still running", "done meanwhile"])
async def test_a_node_that_comes_back_within_the_grace_has_its_results_taken_once(
    mesh: Hive, when: str
) -> None:
    node, line = mesh.node(Gated, house=True)
    task = await mesh.task()
    with anyio.fail_after(20):
        await node.began.wait()
    await line.cut(for_good=True)
    await mesh.until(lambda: not mesh.gateway.sessions)
    if when == "done meanwhile":
        node.gate.set()
    line.free.set()
    await mesh.until(lambda: mesh.gateway.sessions)
    node.gate.set()
    await mesh.over(task)
    [attempt] = mesh.attempts(task)
    assert attempt.state == "right"
    mesh.check()


async def test_a_node_that_leaves_gives_back_what_it_has_at_once(mesh: Hive) -> None:
    node, _ = mesh.node(Gated, name="leaves")
    task = await mesh.task()
    with anyio.fail_after(20):
        await node.began.wait()
    await node.leave()
    await mesh.until(lambda: mesh.now(task).state == "queued")
    assert mesh.attempts(task)[0].state == "returned"
    assert mesh.now(task).failures == 0
    mesh.node(house=True)
    await mesh.over(task)


async def test_the_same_key_twice_is_one_node_and_the_older_connection_ends(mesh: Hive) -> None:
    key = mesh.house
    async with mesh.by_hand(key) as first:
        task = await mesh.task()
        [lease] = [one["lease"] for one in (await heard(first, "work")).body["tasks"]]
        async with mesh.by_hand(key, holds=[lease]) as second:
            await drained(first)
            await mesh.until(lambda: len(mesh.gateway.sessions) == 1)
            [session] = mesh.gateway.sessions.values()
            assert set(session.leases) == {lease}, "what it had, it has still"
            with mesh.store.reading() as db:
                node = rows.node_with(db, key.did)
            assert node
            assert node.state == "online"
            await second.send(Message(kind="leave"))
            await mesh.until(lambda: mesh.now(task).state == "queued")


async def test_many_that_come_with_one_key_at_once_leave_one(mesh: Hive) -> None:
    key, came = identity.make(), list[str]()

    async def come() -> None:
        with suppress(UnavailableError):  # another came before it was told that it joined
            came.append("one")
            async with mesh.by_hand(key) as link:
                await drained(link)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(come)
        await mesh.until(lambda: len(came) == 8 and len(mesh.gateway.sessions) == 1)
        tasks.cancel_scope.cancel()
    await mesh.until(lambda: not mesh.gateway.sessions)


async def test_a_silent_node_is_let_go(mesh: Hive) -> None:
    key = identity.make()
    async with mesh.by_hand(key) as link:
        task = await mesh.task()
        await heard(link, "work")
        mesh.clock.passes(SILENT_S)
        await drained(link)
        await mesh.until(lambda: not mesh.gateway.sessions)
        with mesh.store.reading() as db:
            node = rows.node_with(db, key.did)
        assert node
        assert node.state == "offline"
    mesh.clock.passes(BEYOND_GRACE_S)
    mesh.node(house=True)
    await mesh.over(task)


async def test_a_node_that_beats_but_forgot_a_task_loses_it(mesh: Hive) -> None:
    async with mesh.by_hand(identity.make()) as link:
        task = await mesh.task()
        await heard(link, "work")
        await link.send(Message(kind="beat", body={"holds": [], "fuel": {}}))
        mesh.clock.passes(BEYOND_GRACE_S)
        await link.send(Message(kind="beat", body={"holds": [], "fuel": {}}))
        await mesh.until(lambda: mesh.attempts(task)[0].state == "lost")
        await link.send(Message(kind="leave"))
    mesh.node(house=True)
    await mesh.over(task)


async def test_a_gateway_that_begins_again_knows_who_has_what(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SWEEP_S", 0.02)
    house, key = identity.make(), identity.make()
    async with background() as lives_on:
        async with hive(store, pool, house=house, key=key) as before:
            node, line = before.node(Gated, house=True, within=lives_on)
            task = await before.task()
            with anyio.fail_after(20):
                await node.began.wait()
        async with hive(store, pool, house=house, key=key) as after:
            line.hive = after
            line.free.set()
            await after.until(lambda: after.gateway.is_busy)
            [session] = after.gateway.sessions.values()
            assert set(session.leases) == {one.id for one in after.attempts(task)}
            node.gate.set()
            await after.over(task)
            assert [one.state for one in after.attempts(task)] == ["right"]
            after.check()
            await line.cut(for_good=True)


async def test_a_gateway_that_begins_again_waits_for_who_had_something_and_not_for_ever(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SWEEP_S", 0.02)
    async with hive(store, pool) as before:
        node, _ = before.node(Gated)
        task = await before.task()
        with anyio.fail_after(20):
            await node.began.wait()
    async with hive(store, pool) as after:
        after.node(house=True)
        await after.until(lambda: after.gateway.sessions)
        assert after.attempts(task)[0].state == "leased"
        after.clock.passes(BEYOND_GRACE_S + HEARTBEAT_S)
        await after.over(task)
        assert [one.state for one in after.attempts(task)] == ["lost", "right"]


async def test_who_comes_before_it_is_known_who_had_what_keeps_what_it_has(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SWEEP_S", 0.02)
    house, begin = identity.make(), anyio.Event()
    async with hive(store, pool, house=house) as before, before.by_hand(house) as link:
        task = await before.task()
        [given] = (await heard(link, "work")).body["tasks"]
    async with hive(store, pool, house=house, begin=begin) as after, background() as tasks:

        async def come_back() -> None:
            async with after.by_hand(house, holds=[given["lease"]]) as link:
                await drained(link)

        tasks.start_soon(come_back)
        with anyio.move_on_after(0.1):
            await after.until(lambda: after.gateway.sessions)
        begin.set()
        await after.until(lambda: after.gateway.is_busy)
        after.clock.passes(BEYOND_GRACE_S)
        await after.committer.do(lambda c: None)
        assert after.attempts(task)[0].state == "leased"


# Nodes that misbehave.


async def test_who_floods_is_slowed_and_nobody_else(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MESSAGES", Rate(a_second=20, burst=40))
    async with hive(store, pool) as mesh, mesh.by_hand(identity.make(), slots=1) as link:

        async def flood() -> None:
            while mesh.gateway.sessions:
                await link.send(Message(kind="echo", body={"nonce": "x", "sha": "y"}))

        async with background() as flooding:
            flooding.start_soon(flood)
            await mesh.until(lambda: mesh.gateway.counts.slowed)
            mesh.node(house=True)
            await mesh.over(*[await mesh.task(b"%d" % n, house_only=True) for n in range(5)])


async def test_who_never_reads_holds_up_nobody(
    store: MeshStore, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SWEEP_S", 0.02)
    async with hive(store, pool) as mesh:
        deaf = identity.make()
        async with mesh.by_hand(deaf, waiting=1, slots=64):
            await mesh.until(lambda: mesh.gateway.sessions)
            stuck = [await mesh.task(b"stuck %d" % number) for number in range(3)]
            await mesh.until(lambda: any(mesh.attempts(task) for task in stuck))
            mesh.node(house=True)
            others = [await mesh.task(b"%d" % number, house_only=True) for number in range(5)]
            with anyio.fail_after(5):
                await mesh.over(*others)
            quiet = identity.make()
            async with mesh.by_hand(quiet) as other:
                mesh.clock.passes(SILENT_S)
                await drained(other)
        await mesh.until(lambda: not mesh.online(deaf.did))
        mesh.clock.passes(BEYOND_GRACE_S)
        await mesh.over(*stuck)


GARBAGE: dict[str, Message] = {
    "results without blobs": Message(kind="done", body={"results": [{}]}),
    "results that are none": Message(kind="done", body={"results": 7}),
    "a lease that is none": Message(
        kind="done", body={"results": [{"lease": "1", "receipt": {}}]}, blobs=(b"", b"", b"")
    ),
    "half a leaf": Message(
        kind="done", body={"results": [{"lease": 1, "receipt": {}}]}, blobs=(b"", b"x", b"")
    ),
    "leases that are none": Message(kind="beat", body={"holds": ["a"]}),
    "no leases": Message(kind="returned", body={}),
    "huge leases": Message(kind="beat", body={"holds": [2**70]}),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_who_talks_nonsense_is_cut_off_and_the_others_are_not(mesh: Hive, what: str) -> None:
    async with mesh.by_hand(identity.make()) as link:
        await link.send(GARBAGE[what])
        await drained(link)
    mesh.node(house=True)
    await mesh.over(await mesh.task())


async def test_what_nobody_asked_for_is_not_heard(mesh: Hive) -> None:
    """Kinds that are unknown, leases of others, modules that are not its own, echoes of nothing."""
    mesh.node(house=True)
    done = await mesh.task()
    await mesh.over(done)
    async with mesh.by_hand(identity.make()) as link:
        for message in (
            Message(kind="toast"), Message(kind="returned", body={"leases": [1, 2, 3]}),
            Message(kind="echo", body={"nonce": [], "sha": {}}),
            Message(kind="beat", body={"holds": [], "fuel": {"1": -5, "x": 1, "2": "y"}}),
            Message(kind="fetch", body={"sha": SHA}),
            Message(kind="fetch", body={"sha": done.input}),
        ):  # fmt: skip
            await link.send(message)
        assert (await heard(link, "blob")).blobs == ()
        assert (await heard(link, "blob")).blobs == ()
    assert mesh.now(done).state == "done"


async def test_a_forger_learns_that_its_result_came_and_is_punished(mesh: Hive) -> None:
    key = identity.make()
    async with mesh.by_hand(key) as link:
        task = await mesh.task()
        [given] = (await heard(link, "work")).body["tasks"]
        said = {"lease": given["lease"], "receipt": {"\0": "x"}, "detail": "\0"}
        done = Message(kind="done", body={"results": [said]}, blobs=(b"", b"", b""))
        await link.send(done)
        assert (await heard(link, "kept")).body["leases"] == [given["lease"]]
        await link.send(done)
        await heard(link, "kept")
    mesh.node(house=True)
    await mesh.over(task)
    with mesh.store.reading() as db:
        node = rows.node_with(db, key.did)
    assert node
    assert node.standing.wrong == 1
    mesh.check()


async def test_who_is_banned_is_cut_off_and_does_not_come_back(mesh: Hive) -> None:
    key = identity.make()
    async with mesh.by_hand(key) as link:
        for number in range(reputation.FAULTS):
            await mesh.task(b"%d" % number)
            [given] = (await heard(link, "work")).body["tasks"]
            said: dict[str, Any] = {"lease": given["lease"], "receipt": {}}
            done = Message(kind="done", body={"results": [said]}, blobs=(b"", b"", b""))
            await link.send(done)
        await drained(link)
    await mesh.until(lambda: not mesh.gateway.sessions)
    with pytest.raises(Exception, match="banned"):
        async with mesh.by_hand(key):
            pass


# What nodes say of themselves.

WILD: list[dict[str, Any]] = [
    {"joules_per_gfuel": value, "cpu": value, "watts": value, "celsius": value, "carbon": value}
    for value in (float("nan"), float("inf"), -1.0, 1e308, -0.0, True, "7", None, 2**62)
]


async def test_what_a_node_says_of_itself_never_lifts_its_score(mesh: Hive) -> None:
    async with mesh.by_hand(identity.make(), name="boasts") as link:
        await mesh.until(lambda: mesh.gateway.sessions)
        [session] = mesh.gateway.sessions.values()
        neutral = session.health.score
        claims = [
            *WILD,
            {"joules_per_gfuel": 0.001, "energy": "measured", "carbon": 0, "cpu": 0},
            {"latency_s": 0, "bandwidth": 1e12, "score": 1, "reputation": 1},
        ]
        for claim in claims:
            await link.send(Message(kind="beat", body={"holds": [], "measured": claim}))
            await link.send(Message(kind="fetch", body={"sha": SHA}))
            await heard(link, "blob")
            assert 0 <= session.health.score <= neutral, claim
            [choice] = mesh.gateway.ranked(ANY)
            assert 0 <= choice.score <= 1


async def test_an_echo_that_was_guessed_measures_nothing(mesh: Hive) -> None:
    async with mesh.by_hand(identity.make()) as link:
        probe = await heard(link, "probe")
        [session] = mesh.gateway.sessions.values()
        big = await heard(link, "probe")
        for nonce, said in ((big.body["nonce"], "0" * 64), (probe.body["nonce"] + "0", "")):
            await link.send(Message(kind="echo", body={"nonce": nonce, "sha": said}))
        await link.send(Message(kind="fetch", body={"sha": SHA}))
        await heard(link, "blob")
        assert session.bandwidth is None
        assert session.latency_s is None


async def test_the_best_node_changes_when_one_becomes_slow(mesh: Hive) -> None:
    async def answer(link: Link, slow_s: float) -> None:
        """Answer the next probe after so long."""
        probe = await heard(link, "probe")
        mesh.clock.passes(slow_s)
        digest = sha256(probe.blobs[0]).hexdigest() if probe.blobs else ""
        said = {"nonce": probe.body["nonce"], "sha": digest}
        await link.send(Message(kind="echo", body=said))

    async def says_it_lives(link: Link) -> None:
        await link.send(Message(kind="beat", body={"holds": []}))
        await link.send(Message(kind="fetch", body={"sha": "x"}))
        await heard(link, "blob")

    def best() -> int:
        return mesh.gateway.ranked(ANY)[0].node

    async with mesh.by_hand(identity.make()) as one:
        await answer(one, 0.0)
        await answer(one, 0.0)
        await says_it_lives(one)
        [first] = mesh.gateway.sessions
        async with mesh.by_hand(identity.make()) as two:
            await answer(two, 0.0)
            await answer(two, 0.3)
            await says_it_lives(two)
            [second] = mesh.gateway.sessions.keys() - {first}
            assert best() == first, "its line is wider"
            for _ in range(11):
                mesh.clock.passes(5)
                await says_it_lives(one)
                await says_it_lives(two)
            mesh.clock.passes(6)  # a minute since they were probed
            await answer(two, 0.0)
            await answer(one, 5.0)
            await says_it_lives(one)
            await says_it_lives(two)
            assert best() == second, "the other answers"
            task = await mesh.task()
            await heard(two, "work")
            assert mesh.attempts(task)[0].node_id == second
