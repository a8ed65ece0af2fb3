#!/usr/bin/env python3
"""Refuse an edit, or a commit, of files that another agent has reserved: `arsenale guard`.

    python3 -I -S guard.py [--closed] [FOLDER_OF_ARSENALE_RELAY [HOME]]    PreToolUse, on stdin
    python3 -I -S guard.py --git [--closed] [FOLDER_OF_ARSENALE_RELAY [HOME]]    git's pre-commit

The daemon is asked and never started. When it cannot tell, the edit or the commit goes on with a
warning; with `--closed` it is refused.
"""

import json
import os
import socket
import sys
import time

EDIT_S, COMMIT_S = 0.3, 2.0
"""How long an edit, and a commit, may wait for us, seconds."""

REFUSED = 100
"""Exit status that refuses a commit; the lines in git's hook let any other status pass."""

MOST_BYTES = 1 << 20

TOOLS = frozenset(
    "edit write multiedit notebookedit apply_patch create_file edit_file search_replace"
    " replace_string_in_file multi_replace_string_in_file insert_edit_into_file"
    " edit_notebook_file delete_file".split()
)
"""Tools that write files; hosts that ignore matchers send us the others too."""

BULKY = frozenset(
    "content contents new_string old_string newString oldString new_source edits code".split()
)
"""Arguments that name no file."""


def main(words: list[str]) -> int:
    """Guard an edit or a commit; return the exit status."""
    begun = time.monotonic()
    flags = {word for word in words if word.startswith("--")}
    places = [word for word in words if not word.startswith("--")]
    closed = "--closed" in flags
    if "--git" in flags:
        return commit(places, begun + COMMIT_S, closed)
    return edit(places, begun + EDIT_S, closed)


def edit(places: list[str], deadline: float, closed: bool) -> int:
    """Answer the host's event on stdin."""
    event: dict[str, object] = {}
    deny, error = None, None
    try:
        said = sys.stdin.buffer.read().decode("utf-8-sig", "replace")
        event = json.loads(said, object_hook=slim, strict=False, parse_constant=lambda _: None)
        tool = str(event.get("tool_name") or event.get("toolName") or "")
        if tool.lower() not in TOOLS:
            return 0
        deny, error = ask(event, places, deadline)
    except Exception as exc:
        error = told(exc)
    if error and not deny:
        warning = f"Arsenale's guard is on, but {error}: nobody checked who holds this file."
        if not closed:
            say({"systemMessage": f"{warning} The edit goes on unguarded."})
            return 0
        deny = f"{warning} This guard is closed: start the daemon with `arsenale up`."
    if deny:
        refuse(event, deny)
    return 0


def refuse(event: dict[str, object], reason: str) -> None:
    """Print that the call must not happen, as the host wants to read it."""
    name = event.get("hook_event_name") or event.get("hookEventName") or "PreToolUse"
    if name == "preToolUse":  # Cursor
        say({"permission": "deny", "user_message": reason, "agent_message": reason})
        return
    told = {
        "hookEventName": name,
        "permissionDecision": "deny",
        "permissionDecisionReason": reason[:9_000],
    }
    say({"hookSpecificOutput": told})


def commit(places: list[str], deadline: float, closed: bool) -> int:
    """Check what is staged; return REFUSED to refuse the commit."""
    try:
        paths = staged()
        if not paths:
            return 0
        event: dict[str, object] = {"hook_event_name": "GitPreCommit", "cwd": os.getcwd()}
        deny, error = ask({**event, "paths": paths}, places, deadline)
    except Exception as exc:
        deny, error = None, told(exc)
    if deny:
        complain(f"{deny}\n`git commit --no-verify` passes by, for people.")
        return REFUSED
    if error:
        warning = f"Arsenale's guard is on, but {error}: nobody checked who holds these files."
        if closed:
            complain(f"{warning} Start the daemon with `arsenale up`, or commit with --no-verify.")
            return REFUSED
        complain(f"{warning} The commit goes on unguarded.")
    return 0


def staged() -> list[str]:
    """Return the paths that the commit changes, old names of renamed files too."""
    import subprocess

    command = "git diff --cached --name-only --no-renames --no-relative -z".split()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30)
    return [path for path in done.stdout.decode("utf-8", "replace").split("\0") if path]


def slim(said: dict[str, object]) -> dict[str, object]:
    """Return an object of the event without text that is to be written: only its place matters."""
    return {name: value for name, value in said.items() if name not in BULKY}


def ask(
    event: dict[str, object], places: list[str], deadline: float
) -> tuple[str | None, str | None]:
    """Ask the daemon about EVENT; return why not, and why that is not known."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, places[0] if places else os.path.join(here, "..", "shared"))
    from arsenale_relay import endpoint

    home = places[1] if len(places) > 1 else endpoint.home_dir()
    who = {
        "host_session": os.environ.get("CLAUDE_CODE_SESSION_ID", ""),
        "project": os.environ.get("CLAUDE_PROJECT_DIR", ""),
        "agent": os.environ.get("ARSENALE_AGENT", ""),
    }
    text = json.dumps({"arsenale": 1, "guard": {**event, **who}}, ensure_ascii=False)
    with endpoint.connect(home) as connection:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.sendall(text.encode("utf-8", "replace") + b"\n")
        answer = json.loads(received(connection, deadline))
    if "deny" not in answer:
        return None, "the daemon that runs is older: `arsenale down` lets a new one start"
    return answer["deny"], answer.get("error")


def received(connection: socket.socket, deadline: float) -> bytes:
    """Return the line that the daemon sends, or raise when the time is over."""
    parts: list[bytes] = []
    while sum(map(len, parts)) < MOST_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(65536)
        parts.append(part)
        if not part or part.endswith(b"\n"):
            break
    return b"".join(parts)


def told(exc: Exception) -> str:
    """Return what went wrong, for people."""
    if isinstance(exc, (FileNotFoundError, ConnectionRefusedError)):
        return "the daemon is down"
    if isinstance(exc, TimeoutError):
        return "the daemon did not answer in time"
    return f"it could not ask ({type(exc).__name__}: {exc})"


def say(answer: dict[str, object]) -> None:
    """Print ANSWER for the host."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def complain(text: str) -> None:
    """Print TEXT for who commits."""
    os.write(2, f"arsenale guard: {text}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    status = 0
    try:
        status = main(sys.argv[1:])
    except BaseException as exc:  # the boundary of every hook: a broken one is no reason to stop
        complain(f"it broke ({type(exc).__name__}: {exc})")
        status = REFUSED if "--closed" in sys.argv and "--git" in sys.argv else 0
    os._exit(status)
