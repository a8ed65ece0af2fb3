"""What one can ask of the mesh: run a task, look at it, at nodes, modules, receipts, credits."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Literal, TypeAlias, TypeVar

import anyio
from anyio import to_thread

from arsenale_core import boot
from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.store import Connection
from arsenale_mesh import asking, books, changes, guests, proving, reading, rows, telemetry, views
from arsenale_mesh.alerts import alerts
from arsenale_mesh.asking import Order, task_id
from arsenale_mesh.committing import Committer
from arsenale_mesh.gateway import Changed, Gateway
from arsenale_mesh.house import House
from arsenale_mesh.models import (
    Balance,
    Detail,
    LedgerReport,
    MeshReport,
    Method,
    ModuleReport,
    TaskReport,
    TasksReport,
    VerifyReport,
    View,
)
from arsenale_mesh.record import ENDED, STATES, Module, NewTask, Task
from arsenale_mesh.room import Room
from arsenale_mesh.rows import Change
from arsenale_mesh.running import layers
from arsenale_mesh.sandbox.assembling import Assembler
from arsenale_mesh.store import MeshStore

Told: TypeAlias = Callable[[float, float, str], Awaitable[None]]
TaskAction: TypeAlias = Literal["status", "cancel"]
T = TypeVar("T")

LOOK_S = 0.5
"""How often a task that another process dispatches is looked at, and progress is told."""

CHECKED = 20_000
"""Entries of the ledger that are checked when it is read: a fifth of a second."""

HISTORY = 60
"""Samples of a node's telemetry that are shown."""


class Mesh:
    """The mesh as its users have it.

    Args:
        store: Its database.
        committer: Writes to it.
        gateway: What dispatches; in another process where this one does not.
        house: Keeps our own node up; `None` where another process dispatches.
        settings: What a task may use at most.
        changed: Is told of tasks that are made or given up here.
    """

    def __init__(
        self,
        store: MeshStore,
        committer: Committer,
        gateway: Gateway,
        house: House | None,
        settings: Settings,
        changed: Changed,
    ) -> None:
        self.store = store
        self._changed = changed
        self.gateway = gateway
        self.house = house
        self._commit = committer
        self._settings = settings
        self._require = layers(settings.mesh_require)
        self._assembler = Assembler()
        self._room = Room(store, settings.mesh_store_mb << 20, boot.ticks)
        self._waiting: dict[int, set[anyio.Event]] = {}

    # Tasks.

    async def run(self, order: Order, told: Told) -> TaskReport:
        """Make a task, and wait for it as long as is asked.

        Raises:
            InvalidError: What is asked makes no sense, or its module may not be run.
            NotFoundError: There is no such module or input.
        """
        task = await self.start(order)
        await self._wait(task.id, order.wait_s, told)
        return await self._report(task.id, "concise", 0)

    async def start(self, order: Order) -> Task:
        """Make a task and return at once; see `run`."""
        limits = asking.limits_of(order, self._settings)
        await to_thread.run_sync(self._room.make)
        input = await to_thread.run_sync(asking.input_of, order)
        module, function = await self._module(order)
        new = NewTask(
            module=module.sha, function=function,
            input=order.input_sha256 or sha256(input).hexdigest(), limits=limits, seed=order.seed,
            slice_fuel=asking.slice_fuel_of(limits.fuel),
            assurance=order.assurance, carbon=order.carbon, house_only=order.here,
            label=order.label, project=order.project, key=order.key or None,
        )  # fmt: skip
        if order.input_sha256:
            await to_thread.run_sync(self._must_have, order.input_sha256)
        blobs = () if order.input_sha256 else (input,)
        task = await self._commit.do(lambda c: changes.enqueue(c, new, blobs))
        self.gateway.nudge()
        if self.house:
            self.house.nudge()
        await self._changed([task])
        return task

    async def look(
        self,
        task: str,
        action: TaskAction,
        *,
        wait_s: float,
        state: str,
        detail: Detail,
        project: str,
        limit: int,
        offset: int,
        told: Told,
    ) -> TasksReport:
        """Report on a task, or list them; cancel it.

        Raises:
            NotFoundError: There is no such task.
            ConflictError: It is over and cannot be cancelled.
        """
        if not task:
            if action == "cancel":
                raise InvalidError("cancel needs `task`", hint="as task=m12")
            return await to_thread.run_sync(self._tasks, project, state, limit, offset)
        id = task_id(task)
        if action == "cancel":
            cancelled, going = await self._commit.do(lambda c: changes.cancel(c, id))
            self.gateway.drop(going)
            await self._changed([cancelled])
        elif wait_s:
            await self._wait(id, wait_s, told)
        return TasksReport(about=await self._report(id, detail, offset))

    async def report(self, task: str) -> TaskReport:
        """Return what `mesh://tasks/TASK` shows.

        Raises:
            NotFoundError: There is no such task.
        """
        return await self._report(task_id(task), "concise", 0)

    def wake(self, tasks: Sequence[Task]) -> None:
        """Let those go on who wait for tasks that are over."""
        for task in tasks:
            if task.state in ENDED:
                for event in self._waiting.get(task.id, ()):
                    event.set()

    async def _wait(self, id: int, wait_s: float, told: Told) -> None:
        """Wait until a task is over, or for WAIT_S."""
        event = anyio.Event()
        self._waiting.setdefault(id, set()).add(event)
        try:
            with anyio.move_on_after(wait_s):
                while not event.is_set():
                    task = await to_thread.run_sync(self._task, id)
                    if task.state in ENDED:
                        return
                    with anyio.move_on_after(LOOK_S):
                        await event.wait()
                        return
                    fuel = self.gateway.fuel_so_far(id)
                    await told(fuel, task.limits.fuel, f"{task.state}: {fuel:,} fuel")
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]

    # Modules.

    async def submit(self, name: str, wasm_base64: str, wat: str, description: str) -> ModuleReport:
        """Keep a module under a name.

        Raises:
            InvalidError: It may not be run; why.
            ConflictError: The name is of another module.
        """
        data = await self._bytes(wasm_base64, wat)
        return await self.submit_bytes(name, data, description)

    async def submit_bytes(self, name: str, data: bytes, description: str) -> ModuleReport:
        """Keep the module DATA under a name; see `submit`."""
        shape = await to_thread.run_sync(asking.shape_of, data)
        module = asking.described(data, shape, name, description)
        kept = await self._commit.do(lambda c: changes.submit(c, module, data))
        notes = ["it has float opcodes: bits of NaN are made canonical"] if shape.floats else []
        return ModuleReport(module=views.module_line(kept), notes=notes)

    async def _module(self, order: Order) -> tuple[Module, str]:
        """Return which module is run, and which function of it."""
        given = sum(bool(one) for one in (order.module, order.wasm_base64, order.wat))
        if given != 1:
            raise InvalidError(
                "give one of module, wasm_base64 and wat",
                hint="`check_mesh` with view=modules lists what is ready to run",
            )
        if order.module:
            known = await to_thread.run_sync(self._known, order.module)
            if order.function in known.functions:
                return known, order.function
            data = await to_thread.run_sync(self._must_have, known.sha)
            shape = await to_thread.run_sync(asking.shape_of, data)
            return known, asking.function_of(shape, order.function)
        data = await self._bytes(order.wasm_base64, order.wat)
        shape = await to_thread.run_sync(asking.shape_of, data)
        function = asking.function_of(shape, order.function)
        sha = sha256(data).hexdigest()
        found = await to_thread.run_sync(self._module_with, sha)
        if found is None:
            new = asking.unnamed(data, shape)
            found = await self._commit.do(lambda c: changes.submit(c, new, data))
        return found, function

    async def _bytes(self, wasm_base64: str, wat: str) -> bytes:
        if bool(wasm_base64) == bool(wat):
            raise InvalidError("give one of wasm_base64 and wat", hint="a core module")
        if wat:
            return await self._assembler.assemble(wat)
        return asking.decoded(wasm_base64, "wasm_base64")

    # The mesh.

    async def show(
        self, view: View, *, node: str, text: str, detail: Detail, limit: int, offset: int
    ) -> MeshReport:
        """Report on nodes, one node, modules, or what happened.

        Raises:
            NotFoundError: There is no such node.
        """
        if view == "node" or node:
            return await to_thread.run_sync(self._node, node)
        read = {"nodes": self._nodes, "modules": self._modules, "audit": self._audit}[view]
        return await to_thread.run_sync(partial(read, text, detail, limit, offset))

    async def status(self) -> MeshReport:
        """Return what `mesh://status` shows."""
        return await to_thread.run_sync(partial(self._nodes, "", "concise", 50, 0))

    async def verify(
        self, receipt: str | dict[str, Any], method: Method, detail: Detail
    ) -> VerifyReport:
        """Say whether a receipt holds; see `proving.verify`."""
        report = await proving.verify(self.store, receipt, method, detail, self._require)
        names = await to_thread.run_sync(self._names)
        return report.model_copy(update={"node": names.get(report.node, report.node)})

    async def ledger(
        self, node: str, task: str, limit: int, offset: int, *, whole: bool = False
    ) -> LedgerReport:
        """Report on credits. The newest entries of the chain are checked, or the WHOLE of it.

        Raises:
            NotFoundError: There is no such node.
        """
        newest = None if whole else CHECKED
        return await to_thread.run_sync(self._ledger, node, task, limit, offset, newest)

    async def do(self, work: Callable[[Change], T]) -> T:
        """Change something by hand (invitations, bans); see `Committer.do`."""
        return await self._commit.do(work)

    # In a worker thread.

    def _known(self, name: str) -> Module:
        with self.store.reading() as db:
            return asking.known_module(db, name)

    def _module_with(self, sha: str) -> Module | None:
        with self.store.reading() as db:
            return reading.module_of(db, sha)

    def _must_have(self, sha: str) -> bytes:
        with self.store.reading() as db:
            found = rows.blob(db, sha)
        if found is None:
            raise NotFoundError("blob", sha[:80], hint="give the input itself")
        return found

    def _task(self, id: int) -> Task:
        with self.store.reading() as db:
            return _must(db, id)

    async def _report(self, id: int, detail: Detail, offset: int) -> TaskReport:
        fuel, waits = self.gateway.fuel_so_far(id), self._waits(id)
        return await to_thread.run_sync(self._reported, id, detail, offset, fuel, waits)

    def _waits(self, id: int) -> str:
        if self.house and self.house.fault:
            return self.house.fault
        return self.gateway.waiting_because.get(id, "")

    def _reported(self, id: int, detail: Detail, offset: int, fuel: int, waits: str) -> TaskReport:
        with self.store.reading() as db:
            return views.task_report(db, _must(db, id), detail, offset, fuel, waits)

    def _tasks(self, project: str, state: str, limit: int, offset: int) -> TasksReport:
        if state and state not in STATES:
            raise InvalidError(f"no task is {state[:40]!r}", hint=f"one of {', '.join(STATES)}")
        with self.store.reading() as db:
            found = reading.tasks(db, project, state, limit + 1, offset)
            lines = [views.task_line(db, task) for task in found[:limit]]
            counts = rows.task_counts(db)
        summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        hint = "" if lines else "no tasks; `run_task` makes one"
        more = offset + limit if len(found) > limit else None
        return TasksReport(summary=summary, tasks=lines, next_offset=more, hint=hint)

    def _nodes(self, text: str, detail: Detail, limit: int, offset: int) -> MeshReport:
        del text
        with self.store.reading() as db:
            found = rows.nodes(db, limit + 1, offset)
        lines = [
            views.node_line(one, self.gateway.sessions.get(one.id), detail) for one in found[:limit]
        ]
        hint = "" if lines else "no node yet: our own starts with the first task"
        more = offset + limit if len(found) > limit else None
        return self._mesh(nodes=lines, next_offset=more, hint=hint)

    def _node(self, name: str) -> MeshReport:
        with self.store.reading() as db:
            found = rows.node_named(db, name) or rows.node_with(db, name)
            if found is None:
                raise NotFoundError("node", name[:80], hint="`check_mesh` lists them")
            past = telemetry.samples(db, found.id, HISTORY)
        line = views.node_line(found, self.gateway.sessions.get(found.id), "full")
        history = [
            {"at": views.moment(at_us), "health": round(health, 3), **seen}
            for at_us, health, seen in past
        ]
        return self._mesh(nodes=[line.model_copy(update={"history": history})])

    def _modules(self, text: str, detail: Detail, limit: int, offset: int) -> MeshReport:
        del detail
        with self.store.reading() as db:
            found = rows.modules(db, text, limit + 1, offset)
        lines = [views.module_line(one) for one in found[:limit]]
        more = offset + limit if len(found) > limit else None
        hint = "" if lines else "none fits; `submit_module` adds one"
        return self._mesh(modules=lines, next_offset=more, hint=hint)

    def _audit(self, text: str, detail: Detail, limit: int, offset: int) -> MeshReport:
        del text, detail
        with self.store.reading() as db:
            found = books.notes(db, offset + limit)[offset:]
            lines = views.audit_lines(found, reading.names(db))
        return self._mesh(audit=lines)

    def _mesh(self, **what: Any) -> MeshReport:
        with self.store.reading() as db:
            nodes, tasks = rows.node_counts(db), rows.task_counts(db)
            said = alerts(db, self.gateway, self.house, self.store.now())
        here = nodes.get("online", 0)
        waits = tasks.get("queued", 0)
        going = tasks.get("running", 0) + tasks.get("checking", 0)
        summary = (
            f"{here} of {sum(nodes.values())} nodes here; {going} tasks run, {waits} wait, "
            f"{tasks.get('done', 0)} done"
        )
        return MeshReport(summary=summary, alerts=said, **what)

    def _names(self) -> dict[str, str]:
        with self.store.reading() as db:
            return reading.names(db)

    def _ledger(
        self, node: str, task: str, limit: int, offset: int, newest: int | None
    ) -> LedgerReport:
        with self.store.reading() as db:
            names, did = reading.names(db), None
            if node:
                known = rows.node_named(db, node) or rows.node_with(db, node)
                if known is None:
                    raise NotFoundError("node", node[:80], hint="`check_mesh` lists them")
                did = known.did
            found = books.entries(db, did, task or None, limit + 1, offset)
            count, total = books.totals(db)
            fault = books.ledger_fault(db, newest) or books.audit_fault(db)
            rich = reading.balances(db, 20)
        said = "" if fault is None else f"entry {fault.number}: {fault.reason}"
        checked = f"; the newest {newest:,} were checked" if newest and count > newest else ""
        return LedgerReport(
            summary=f"{count} entries, {total} credits in all{checked}", whole=fault is None,
            fault=said,
            balances=[
                Balance(
                    node=name, credits=credits, reputation=round(score, 3), right=right,
                    wrong=wrong or None,
                )
                for name, credits, score, right, wrong in rich
            ],
            entries=[views.entry_line(entry, names) for entry, _ in found[:limit]],
            next_offset=offset + limit if len(found) > limit else None,
        )  # fmt: skip


def add_ready_made(c: Change) -> None:
    """Name the guests that are there from the start."""
    for one in guests.READY_MADE:
        data = guests.module(one.name)
        shape = asking.shape_of(data)
        known = rows.module_named(c.db, one.name)
        if known is not None and known.sha != guests.sha_of(one.name):
            continue  # its name is a user's, or an older version's
        module = asking.described(data, shape, one.name, one.description, ready_made=True)
        changes.submit(c, module, data)


def _must(db: Connection, id: int) -> Task:
    found = rows.task(db, id)
    if found is None:
        raise NotFoundError("task", f"m{id}", hint="`check_task` without a task lists them")
    return found
