"""`arsenale demo`: what each server is for, shown by the real thing in a temporary home.

The daemon, the relays and the hooks are processes, as they are for an assistant. `scenes` and
`session` show, `stage` has what they share.
"""

import tempfile
import time
from pathlib import Path

import anyio
from rich.console import Console

from arsenale_core.config import child_environment, forget_environment, temporary_files_in
from arsenale_core.peers import Peers
from arsenale_core.tasks import background
from arsenale_daemon import control, temporary_home
from arsenale_daemon.demo import scenes, session
from arsenale_daemon.demo.stage import WIDTH, Stage
from arsenale_daemon.install import interpreter, relay_path

SCENES = (
    ("Memory: what one session learns, the next one knows", scenes.memory),
    ("Coordinator: two agents do not overwrite each other", scenes.reservation),
    ("Recipes: a workflow goes on after kill -9", scenes.recipe),
    ("Mesh: code of strangers runs in a sandbox", scenes.sandbox),
    ("Genomes: two personas, one local model", scenes.personas),
    ("Telemetry: where did the time go?", session.where_time_went),
)

NEXT = (
    ("arsenale init", "connects your assistant (run it in a project)"),
    ("arsenale doctor", "checks the installation"),
    ("README.md", 'section "Install and connect" explains both'),
)


def run(console: Console, *, keep: bool) -> None:
    """Play all scenes; unless KEEP, end every process and delete every file of the demo.

    Raises:
        UnavailableError: The daemon does not start, or a server does not answer.
    """
    forget_environment()  # a database or a port of the user's is not for playing with
    console.width = min(console.width, WIDTH)
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="arsenale-demo-"))
        anyio.run(_play, console, folder)
        if not keep:
            with console.status("ending the daemon"):
                temporary_home.end(folder)
        _last_words(console, folder / "home", keep=keep)
    except BaseException:
        keep = False
        raise
    finally:
        if folder is not None and not keep:
            temporary_home.remove(folder)


async def _play(console: Console, folder: Path) -> None:
    home, project, temporary = folder / "home", folder / "shop", folder / "tmp"
    for made in (home, project / ".git", project / "src", temporary):
        made.mkdir(parents=True)
    (home / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    console.print(f"Everything happens in {folder}, which the demo deletes at its end.")
    with temporary_files_in(temporary):  # a worker that is killed leaves files there
        await _show(console, home, project)


async def _show(console: Console, home: Path, project: Path) -> None:
    begun = time.perf_counter()
    with console.status("starting the daemon"):
        await anyio.to_thread.run_sync(control.up, home)
    console.print(f"The daemon started in {time.perf_counter() - begun:.1f} s.")
    relay = [interpreter(), "-I", "-S", str(relay_path())]
    async with background() as tasks:
        peers = Peers(relay, child_environment(home), tasks)
        stage = Stage(console=console, home=home, project=project, peers=peers)
        for number, (title, scene) in enumerate(SCENES, 1):
            console.print(f"\n[bold]{number}  {title}[/]")
            with console.status("..."):
                await scene(stage)


def _last_words(console: Console, home: Path, *, keep: bool) -> None:
    if keep:
        console.print("\nThe demo's daemon still runs. To look around, and then to end it:")
        for command in ("memory list", "telemetry report", "inference down", "down"):
            console.print(f"  ARSENALE_HOME={home} arsenale {command}", soft_wrap=True)
        console.print(f"  rm -r {home.parent}", soft_wrap=True)
    console.print("\n[bold]Next[/]")
    for command, purpose in NEXT:
        console.print(f"  [bold]{command:16}[/] {purpose}")
