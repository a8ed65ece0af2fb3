"""The logging hook where its surroundings are hostile; `test_hooks.py` has its promises."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "hooks"
PATH = os.environ["PATH"]
PYTHON = [sys.executable, "-I", "-S", str(HOOKS / "log_event.py")]
SHELLS = {
    name: [found, *options, str(HOOKS / "log_event.sh")]
    for name, options in {"sh": [], "dash": [], "bash": ["--posix"], "busybox": ["sh"]}.items()
    if (found := shutil.which(name))
}
EVENT = b'{"hook_event_name":"PreToolUse","session_id":"s"}\n'
MORE_THAN_A_PIPE_HOLDS = EVENT * 20_000

hook = pytest.mark.parametrize(
    "command", [pytest.param(c, id=n) for n, c in {**SHELLS, "python": PYTHON}.items()]
)
shell = pytest.mark.parametrize("command", [pytest.param(c, id=n) for n, c in SHELLS.items()])


def feed(command: list[str], event: bytes, env: dict[str, str]) -> None:
    """Run COMMAND as a host does; a host that cannot write everything gets BrokenPipeError."""
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(event)
        process.stdin.close()
        said = process.stdout.read(), process.stderr.read()
    assert (process.returncode, *said) == (0, b"", b"")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nobody, root included, can make a file."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.getuid() != 0:
        folder.chmod(0o500)
        yield folder
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@hook
@pytest.mark.parametrize("inside", ["", "spool"])
def test_a_read_only_spool_or_parent_is_no_error_and_stdin_is_read(
    command: list[str], inside: str, read_only: Path
) -> None:
    feed([*command, str(read_only / inside)], MORE_THAN_A_PIPE_HOLDS, {"PATH": PATH})


@hook
def test_a_full_spool_reads_everything(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    feed([*command, str(tmp_path)], MORE_THAN_A_PIPE_HOLDS, {"PATH": PATH})


@shell
def test_without_any_home_nothing_is_made_anywhere(command: list[str]) -> None:
    before = sorted(os.listdir("/"))
    feed(command, MORE_THAN_A_PIPE_HOLDS, {"PATH": PATH})
    assert sorted(os.listdir("/")) == before


@shell
@pytest.mark.parametrize("env", [{"PATH": "/nowhere"}, {"PATH": ""}, {}])
def test_a_path_without_cat_loses_nothing(
    command: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    feed([*command, str(spool)], MORE_THAN_A_PIPE_HOLDS, env)
    [file] = spool.iterdir()
    assert file.read_bytes() == MORE_THAN_A_PIPE_HOLDS


@shell
def test_a_function_the_user_exported_does_not_take_the_place_of_cat(
    command: list[str], tmp_path: Path
) -> None:
    env = {"PATH": PATH, "BASH_FUNC_cat%%": "() { echo mine; }"}
    feed([*command, str(tmp_path / "spool")], EVENT, env)
    [file] = (tmp_path / "spool").iterdir()
    assert file.read_bytes() == EVENT


@hook
def test_parents_that_the_hook_makes_are_private_too(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    feed(command, EVENT, {"PATH": PATH, "ARSENALE_HOME": str(home)})
    assert [stat.S_IMODE(p.stat().st_mode) for p in (home, home / "spool")] == [0o700, 0o700]


@hook
def test_closed_streams_are_no_error(command: list[str], tmp_path: Path) -> None:
    closing = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command, str(tmp_path / "spool")]
    assert subprocess.run(closing, env={"PATH": PATH}, check=False).returncode == 0


@hook
def test_the_name_of_the_file_tells_the_process_and_its_host(
    command: list[str], tmp_path: Path
) -> None:
    with subprocess.Popen([*command, str(tmp_path)], stdin=subprocess.PIPE) as process:
        process.communicate(EVENT)
    [file] = tmp_path.iterdir()
    assert file.name == f"{process.pid}.{os.getpid()}.json"


@pytest.mark.parametrize("stdout", ["/dev/full", "a pipe whose reader has gone"])
def test_a_tracking_id_that_nobody_takes_is_no_error(stdout: str) -> None:
    if stdout == "/dev/full":
        out = os.open(stdout, os.O_WRONLY)
    else:
        read, out = os.pipe()
        os.close(read)
    try:
        command = [sys.executable, "-I", "-S", str(HOOKS / "tracking_id.py")]
        done = subprocess.run(
            command, input=b'{"tool_use_id":"t"}', stdout=out, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(out)
    assert (done.returncode, done.stderr) == (0, b"")
