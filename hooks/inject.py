#!/usr/bin/env python3
"""Print what the assistant should know at this moment: memories, identity.

    python3 -I -S inject.py [FOLDER_OF_ARSENALE_RELAY [HOME]]

Reads the host's event on stdin. Fails open: whatever breaks, however long it takes, the session
goes on, with exit status 0 and nothing printed.

A session starts with the text that the daemon keeps in a file; a child process then starts the
daemon, if need be, and reports the start. Without a usable file, and for a prompt, a daemon that
runs is asked; neither waits for one to start.
"""

import json
import os
import socket
import sys
import time

PROMPT_S, START_S = 0.3, 1.0
"""How long a prompt, and a session without a kept text, may wait for a running daemon, seconds."""

REPORT_S = 20.0
"""How long the child process tries to reach a daemon that it has started."""

MOST_BYTES = 1 << 20


def main() -> None:
    """Answer the event on stdin."""
    begun = time.monotonic()
    text = sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    event = json.loads(text, strict=False, parse_constant=lambda _: None)
    name = str(event.get("hook_event_name") or event.get("hookEventName") or "")
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "shared"))
    from arsenale_relay import endpoint

    home = sys.argv[2] if len(sys.argv) > 2 else endpoint.home_dir()
    if name.lower() == "sessionstart":
        start(event, name, home, begun + START_S)
    else:
        tell(name, ask(event, home, begun + PROMPT_S, starts=False))


def start(event: dict[str, object], name: str, home: str, deadline: float) -> None:
    """Answer the start of a session, and let the daemon know of it."""
    text, usable = kept(event, home)
    if usable:
        tell(name, text)
        report(event, home)
        return
    try:
        answer = ask(event, home, deadline, starts=True)
    except (OSError, ValueError):
        tell(name, text)
        report(event, home)
    else:
        tell(name, answer)


def tell(name: str, context: object) -> None:
    """Print CONTEXT for the host; nothing when there is none."""
    if context:
        output = {"hookEventName": name, "additionalContext": context}
        os.write(1, json.dumps({"hookSpecificOutput": output}).encode() + b"\n")


def kept(event: dict[str, object], home: str) -> tuple[str, bool]:
    """Return the kept text of the session's project, and whether it is up to date.

    After a compaction another, shorter text is due, which is not kept. A text of another day, or
    older than an identity file, is out of date: the daemon has not seen the change yet. A project
    without a text gets the text of any folder.
    """
    from arsenale_relay import session_start

    project = event.get("cwd")
    if not isinstance(project, str) or not project or event.get("source") == "compact":
        return "", False
    text = session_start.read(home, project)
    if text is None:
        return session_start.read(home, session_start.ANYWHERE) or "", False
    written = os.stat(session_start.file_of(home, project)).st_mtime
    today = time.localtime(written)[:3] == time.localtime()[:3]
    changed = max(of_project(project), newest([os.path.join(home, "identities")], 2))
    return text, today and max(changed, session_start.changed_at(home)) <= written


def of_project(project: str) -> float:
    """Return when the files that speak for PROJECT were changed last; links are not followed."""
    last = 0.0
    for name in ("", "identity.toml", "identity.local.toml"):
        try:
            last = max(last, os.lstat(os.path.join(project, ".arsenale", name)).st_mtime)
        except OSError:
            continue
    return last


def newest(folders: list[str], depth: int) -> float:
    """Return when FOLDERS and their TOML files, DEPTH - 1 levels deep, were changed last."""
    last = 0.0
    for folder in folders:
        try:
            last = max(last, os.stat(folder).st_mtime)  # files that were deleted or renamed
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.name.endswith(".toml"):
                        last = max(last, entry.stat().st_mtime)
                    elif depth > 1 and entry.is_dir():
                        last = max(last, newest([entry.path], depth - 1))
        except OSError:
            continue
    return last


def ask(event: dict[str, object], home: str, deadline: float, *, starts: bool) -> object:
    """Send EVENT to the daemon that runs and return the text it answers with."""
    from arsenale_relay import endpoint

    with endpoint.connect(home) as connection:
        send(connection, event, deadline, starts)
        return json.loads(received(connection, deadline)).get("context")


def report(event: dict[str, object], home: str) -> None:
    """Let a child process start the daemon and send it EVENT; return at once."""
    from arsenale_relay import start as starting

    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    deadline = time.monotonic() + REPORT_S
    with starting.connect_or_start(home, REPORT_S, time.sleep) as connection:
        send(connection, event, deadline, True)
        received(connection, deadline)


def send(
    connection: socket.socket, event: dict[str, object], deadline: float, starts: bool
) -> None:
    """Send EVENT to the daemon."""
    text = json.dumps({"arsenale": 1, "hook": event, "starts": starts}, ensure_ascii=False)
    line = text.encode("utf-8", "replace") + b"\n"  # half a surrogate pair becomes "?"
    connection.settimeout(max(deadline - time.monotonic(), 0.001))
    connection.sendall(line)


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


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        pass
    os._exit(0)
