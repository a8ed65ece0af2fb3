"""`arsenale doctor`: everything that can be wrong, looked at for real, with what to do about it."""

import itertools
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from arsenale_core.checks import Check, State
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.files import make_private
from arsenale_daemon import (
    checkout,
    connections,
    control,
    discovery,
    guards,
    host_config,
    init_summary,
    install,
    paths,
)
from arsenale_daemon.host_config import Host, Scope
from arsenale_relay import __version__, endpoint

CHECKS = "arsenale.checks"
"""Entry points of servers: a function of the settings that yields checks."""

LOW_DISK_BYTES = 512 * 2**20
HOOK_ROUNDS = 20
HOOK_PAYLOAD = b'{"hook_event_name":"PreToolUse","session_id":"doctor"}' + b" " * 2_000 + b"\n"


def examine(settings: Settings, project: Path, user_home: Path) -> list[Check]:
    """Look at everything; a check that itself breaks is reported as failed."""
    checks: list[Check] = []
    for look in (
        lambda: _python(),
        lambda: _dependencies(),
        lambda: _home(settings),
        lambda: _disk(settings),
        lambda: _token(settings),
        lambda: _daemon(settings),
        lambda: _port(settings),
        lambda: _spool(settings),
        lambda: _hosts(settings, project, user_home),
        lambda: _guards(settings, project, user_home),
        lambda: _servers(settings),
        lambda: _hook_cost(),
    ):
        checks.extend(_looked(look))
    return checks


def show(console: Console, checks: list[Check]) -> None:
    """Print CHECKS as a table, and how to mend what is not well."""
    table = Table("check", "", "found")
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    for check in checks:
        table.add_row(check.name, marks[check.state], check.found)
    console.print(table)
    for check in checks:
        if check.mend:
            console.print(f"{marks[check.state]} {check.name}: {check.mend}", soft_wrap=True)
    if all(check.state == "ok" for check in checks):
        console.print("All is well.")


def _looked(look: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(look())
    except (ArsenaleError, OSError, subprocess.SubprocessError) as exc:
        return [Check("check", "fail", str(exc), "mend this first, then run doctor again")]


def _python() -> Iterator[Check]:
    found = f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version} ({sys.executable})"
    if sqlite3.sqlite_version_info < (3, 35):
        yield Check("python", "fail", found, "SQLite 3.35 or newer is needed: update Python")
    else:
        yield Check("python", "ok", found)


def _dependencies() -> Iterator[Check]:
    missing: list[str] = []
    wanted = [line for line in requires("arsenale") or [] if "extra ==" not in line]
    for line in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        mend = f"{sys.executable} -m pip install {' '.join(missing)}"
        yield Check("dependencies", "fail", f"missing: {', '.join(missing)}", mend)
    else:
        servers = ", ".join(discovery.names())
        yield Check("dependencies", "ok", f"all {len(wanted)} are installed; servers: {servers}")


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    try:
        make_private(home)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as exc:
        mend = f"make {home} writable, or set ARSENALE_HOME to a folder that is"
        yield Check("home", "fail", f"{home}: {exc.strerror}", mend)
        return
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        yield Check("home", "warn", f"{home} is open to others ({mode:o})", f"chmod 700 {home}")
    else:
        yield Check("home", "ok", f"{home} is writable and private")
    yield Check("socket", "ok", endpoint.socket_path(str(home)))


def _disk(settings: Settings) -> Iterator[Check]:
    free = shutil.disk_usage(settings.home).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < LOW_DISK_BYTES:
        yield Check("disk", "warn", found, "make room: events wait in the spool when it is full")
    else:
        yield Check("disk", "ok", found)


def _token(settings: Settings) -> Iterator[Check]:
    path = settings.home / "token"
    if not path.exists():
        yield Check("token", "ok", "not made yet: the daemon makes it")
        return
    paths.token(settings.home)
    yield Check("token", "ok", f"{path} is private")


def _daemon(settings: Settings) -> Iterator[Check]:
    answer = control.ask(settings.home, "status")
    if answer is None:
        yield Check("daemon", "ok", "down; the first call of an assistant starts it")
        return
    if answer["version"] != __version__:
        mend = "arsenale down; the next call starts this version"
        found = f"version {answer['version']} runs, {__version__} is installed"
        yield Check("daemon", "warn", found, mend)
    else:
        yield Check("daemon", "ok", f"version {__version__}, pid {answer['pid']}")
    for name, server in answer["servers"].items():
        if server["state"] != "up":
            mend = "mend the reason, then `arsenale down`; the next call starts it again"
            yield Check(name, "fail", str(server["reason"]), mend)


def _servers(settings: Settings) -> Iterator[Check]:
    """Yield what servers have to say of themselves."""
    for entry in sorted(entry_points(group=CHECKS), key=lambda one: one.name):
        yield from entry.load()(settings)


def _port(settings: Settings) -> Iterator[Check]:
    if not settings.http or settings.http_port == 0:
        yield Check("port", "ok", "HTTP is off" if not settings.http else "any free port")
        return
    answer = control.ask(settings.home, "status")
    address = f"{settings.http_host}:{settings.http_port}"
    if answer is not None and answer["http"]:
        yield Check("port", "ok", f"ours: {answer['http']}")
        return
    with socket.socket() as probe:
        taken = probe.connect_ex((settings.http_host, settings.http_port)) == 0
    if taken:
        mend = "set http_port in config.toml (or ARSENALE_HTTP_PORT), then `arsenale down`"
        yield Check("port", "warn", f"{address} is taken by another program", mend)
    else:
        yield Check("port", "ok", f"{address} is free")


def _spool(settings: Settings) -> Iterator[Check]:
    spool = settings.home / "spool"
    sizes = [path.stat().st_size for path in spool.glob("*.json")] if spool.is_dir() else []
    found = f"{len(sizes)} events wait ({sum(sizes) / 2**20:.1f} MiB)"
    damaged = len(list((spool / "quarantine").glob("*"))) if spool.is_dir() else 0
    if (spool / "full").exists():
        mend = "make room on the disk; `arsenale logs` names the reason"
        yield Check("spool", "fail", f"{found}; full: new events are dropped", mend)
    elif damaged:
        mend = f"look at {spool / 'quarantine'}: a hook was cut off, or something else wrote there"
        yield Check("spool", "warn", f"{found}; {damaged} damaged files were set aside", mend)
    else:
        yield Check("spool", "ok", found)


def _hosts(settings: Settings, project: Path, user_home: Path) -> Iterator[Check]:
    connected: list[str] = []
    project = checkout.root(project)
    for host, scope in itertools.product(host_config.HOSTS, host_config.SCOPES):
        try:
            check = _host(settings, host, scope, project, user_home)
        except ArsenaleError as exc:
            if not _is_recorded(settings, host, scope, user_home if scope == "user" else project):
                continue
            check = Check(f"{host} ({scope})", "fail", exc.what, exc.hint)
        if check is not None and check.state == "ok":
            connected.append(check.name)
        elif check is not None:
            yield check
    if any(one.startswith("claude") for one in connected) and host_config.plugin_is_enabled(
        project, user_home
    ):
        fix = "claude plugin uninstall arsenale@arsenale, or arsenale init --undo"
        yield Check("plugin", "warn", "the plugin and init are both active; init's hooks run", fix)
    if connected:
        yield Check("hosts", "ok", f"connected: {', '.join(connected)}")
    elif host_config.plugin_is_enabled(project, user_home):
        yield Check("hosts", "ok", "connected: claude (plugin)")
    else:
        yield Check("hosts", "warn", "no assistant is connected here", "arsenale init")


def _host(
    settings: Settings, host: Host, scope: Scope, project: Path, user_home: Path
) -> Check | None:
    """Return how HOST is connected; `None` where it is not."""
    name = f"{host} ({scope})"
    where: Any = {"project": project, "home": user_home, "scope": scope}
    mine = install.current(settings)
    if not host_config.plan(host, **where, install=mine, undo=True):
        return None
    names = host_config.connected_servers(host, **where)
    if known := [one for one in names if one in mine.servers]:
        mine = install.current(settings, servers=known)
    if host_config.plan(host, **where, install=mine, undo=False):
        fix = init_summary.command(host, scope, mine)
        return Check(name, "warn", "partly connected or outdated", fix)
    return Check(name, "ok", "connected")


def _is_recorded(settings: Settings, host: str, scope: str, folder: Path) -> bool:
    """Say whether init has connected HOST there: a user's own broken file is not our business."""
    wanted = connections.Connection(host=host, scope=scope, folder=str(folder))
    return wanted in connections.read(settings.home)


def _guards(settings: Settings, project: Path, user_home: Path) -> Iterator[Check]:
    """Say where reservations bind, and whether what makes them bind can run."""
    found = guards.look(settings, project, user_home)
    broken = [one for one in found if not one.sound]
    on = [one.text for one in found if one.state != "gone"]
    said = ", ".join(on) or "off: reservations bind nobody"
    for one in broken:
        said += f"; {one.where} is gone: {one.why}" if one.why else f"; outdated: {one.where}"
    mend = "; ".join(one.mend for one in broken)
    yield Check("guards", "warn" if broken else "ok", said, mend)


def _hook_cost() -> Iterator[Check]:
    hook = install.hook_path()
    if not os.access(hook, os.R_OK):
        yield Check("hook", "fail", f"{hook} is missing", "install arsenale again")
        return
    with tempfile.TemporaryDirectory() as spool:
        cost_ms = _cpu_ms(["/bin/sh", str(hook), spool])
        arrived = len(list(Path(spool).glob("*.json")))
    floor_ms = _cpu_ms([sys.executable, "-I", "-S", "-c", "pass"])
    found = (
        f"{cost_ms:.2f} ms of CPU a call, {cost_ms / floor_ms:.2f} x starting Python; "
        f"{arrived} of {HOOK_ROUNDS} test events arrived"
    )
    state: State = "ok" if arrived == HOOK_ROUNDS else "fail"
    yield Check("hook", state, found, "" if state == "ok" else f"run sh {hook} by hand")


def _cpu_ms(command: list[str]) -> float:
    before = _children_cpu_s()
    for _ in range(HOOK_ROUNDS):
        subprocess.run(command, input=HOOK_PAYLOAD, check=False, capture_output=True, timeout=10)
    return (_children_cpu_s() - before) / HOOK_ROUNDS * 1e3


def _children_cpu_s() -> float:
    used: Any = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
