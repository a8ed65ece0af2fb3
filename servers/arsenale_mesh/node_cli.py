"""`arsenale mesh node`, and what is done by hand to nodes and to the database."""

import platform
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.markup import escape
from rich.progress import Progress

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.errors import ConflictError, InvalidError, NotFoundError
from arsenale_mesh import books, changes, identity, listening, rows, running, snapshots
from arsenale_mesh.calling import Json, err, out, print_json, told
from arsenale_mesh.dispatching import lock_file
from arsenale_mesh.node.joining import Gateway, address
from arsenale_mesh.record import KINDS, NodeKind
from arsenale_mesh.running import Options


def add_to(app: typer.Typer) -> None:
    """Add these commands to `arsenale mesh`."""
    for command in (node, invite, ban, pardon, snapshot, restore):
        app.command()(command)


def node(
    join: Annotated[
        str,
        typer.Argument(
            help="- reads the invitation from stdin; mesh://… without its secret for a node that "
            "has joined before; nothing for this home's gateway."
        ),
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.")] = "pc",
    name: Annotated[str, typer.Option("--name", help="Else the machine's.")] = "",
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=0, help="Guests at once; 0 is one a processor.")
    ] = 0,
    carbon: Annotated[
        str, typer.Option("--carbon", help="Grams of CO2e a kWh here: number, file or URL.")
    ] = "",
) -> None:
    """Be a node, in the foreground, until Ctrl-C: run guests for a mesh and sign the results."""
    with told(interrupted=0):
        settings = Settings.read()
        logs.configure(settings.log_level, file=settings.home / "logs" / "mesh-nodes.log")
        if kind not in KINDS:
            raise InvalidError(f"a node is no {kind!r}", hint=f"--kind {' | '.join(KINDS)}")
        named = name or platform.node() or "node"
        invitation = _invitation(join)
        gateway = (
            address(invitation)
            if invitation
            else Gateway(path=listening.socket_path(settings.home))
        )
        options = _options(settings, gateway, kind, named, workers, carbon)
        err.print(f"[dim]{options.identity.did}[/]")
        err.print(f"{escape(named)} joins; Ctrl-C leaves.")
        anyio.run(running.serve, options, settings.home)


def _invitation(join: str) -> str:
    """Return the address to join; one with a secret is never an argument, which others can read.

    Raises:
        InvalidError: JOIN holds the secret.
    """
    if "#" in join:
        raise InvalidError(
            "everybody on this machine can read the arguments of a command",
            hint="ask for a new invitation, run `arsenale mesh node -` and paste it there",
        )
    if join != "-":
        return join
    if sys.stdin.isatty():
        return typer.prompt("Invitation (mesh://…)", hide_input=True, err=True).strip()
    return sys.stdin.readline().strip()


def _options(
    settings: Settings, gateway: Gateway, kind: NodeKind, name: str, workers: int, carbon: str
) -> Options:
    key = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60]
    return Options(
        gateway=gateway,
        identity=identity.load_or_make(settings.home / "keys" / f"mesh-node-{key}.key"),
        name=name, kind=kind, workers=workers or settings.mesh_workers or running.processors(),
        carbon=carbon or settings.mesh_carbon, require=running.layers(settings.mesh_require),
    )  # fmt: skip


def invite(
    host: Annotated[str, typer.Option("--host", help="What the node calls this machine.")] = "",
    note: Annotated[str, typer.Option("--note", "-m")] = "",
    as_json: Json = False,
) -> None:
    """Print what admits one node elsewhere, within a day."""
    with told():
        settings = Settings.read()
        if not settings.mesh_listen:
            raise InvalidError(
                "no node elsewhere can come in",
                hint='set mesh_listen = "0.0.0.0:8725" in config.toml, then `arsenale down`',
            )
        bound, port = listening.host_and_port(settings.mesh_listen)
        gateway = identity.load_or_make(settings.home / "keys" / "mesh-gateway.key")
        with running.store_of(settings) as store, store.changing() as c:
            secret = changes.invite(c, note)
    there = host or (platform.node() if bound in ("0.0.0.0", "::") else bound)
    where = f"mesh://{there}:{port}/{gateway.did}#{secret}"
    if as_json:
        print_json({"join": where, "valid_s": changes.INVITED_S})
        return
    err.print("[dim]On the other machine run `arsenale mesh node -` and paste this line. It admits "
              "one node within a day, and is shown only now.[/]")  # fmt: skip
    out.print(where, soft_wrap=True)


def ban(name: str, reason: Annotated[str, typer.Option("--reason", "-m")] = "by hand") -> None:
    """Give a node nothing any more; it cannot come back."""
    with told(), running.store_of(Settings.read()) as store, store.changing() as c:
        found = rows.node_named(c.db, name)
        if found is None:
            raise NotFoundError("node", name, hint="`arsenale mesh nodes` lists them")
        changes.ban(c, found, reason)
    out.print(f"{escape(name)} is banned; what it had is given to others")


def pardon(name: str) -> None:
    """Let a node that was banned join again, as one that nobody knows."""
    with told(), running.store_of(Settings.read()) as store, store.changing() as c:
        found = rows.node_named(c.db, name)
        if found is None:
            raise NotFoundError("node", name, hint="`arsenale mesh nodes` lists them")
        if found.state != "banned":
            raise ConflictError(f"{name} is not banned", hint="nothing has changed")
        rows.set_node_state(c, found.id, "offline")
        rows.set_standing(c, found.id, type(found.standing)())
        books.note(c, "node.pardoned", found.did, found.reason)
    out.print(f"{escape(name)} may join again")


def snapshot(
    file: Path,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the whole mesh, as it is at this moment, into a file."""
    with told(), running.store_of(Settings.read()) as store, _bar() as progress:
        snapshots.snapshot(store, file, overwrite=force, progress=progress)
    out.print(f"{escape(str(file))}, {file.stat().st_size:,} bytes", soft_wrap=True)


def restore(
    file: Path,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a snapshot in the place of the mesh as it is now."""
    settings = Settings.read()
    with told():
        if not yes:
            typer.confirm("Everything in the mesh now is replaced. Go on?", abort=True)
        with running.store_of(settings) as store, _bar() as progress:
            made = snapshots.restore(store, file, lock_file(settings.home), progress=progress)
    out.print(f"The mesh is as {escape(str(file))} has it: {made.total:,} rows.", soft_wrap=True)


@contextmanager
def _bar() -> Generator[Callable[[int, int], None]]:
    """Show how many rows are done, where there is a terminal."""
    with Progress(console=err, transient=True) as bar:
        job = bar.add_task("rows", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(job, completed=done, total=total)

        yield progress
