#!/usr/bin/env python3
"""Ask the daemon what the assistant should know at this moment, and tell it: memories, identity.

    python3 -I -S inject.py [FOLDER_OF_ARSENALE_RELAY [HOME]]

Reads the host's event on stdin. Fails open: whatever breaks, however long it takes, the session
goes on, with exit status 0 and nothing printed. At the start of a session the daemon is started
when it does not run; a prompt never waits for that.
"""

import json
import os
import socket
import sys
import time

PROMPT_S, START_S = 0.3, 4.0
"""How long a prompt, and the start of a session, may wait for us, seconds."""

MOST_BYTES = 1 << 20


def main() -> None:
    """Answer the event on stdin."""
    begun = time.monotonic()
    event = json.loads(sys.stdin.buffer.read())
    name = str(event.get("hook_event_name") or event.get("hookEventName") or "")
    starts = name.lower() == "sessionstart"
    budget_s = START_S if starts else PROMPT_S
    answer = ask(event, begun + budget_s, starts)
    context = answer.get("context")
    if context:
        told = {"hookEventName": name, "additionalContext": context}
        os.write(1, json.dumps({"hookSpecificOutput": told}).encode() + b"\n")


def ask(event: dict[str, object], deadline: float, may_start: bool) -> dict[str, object]:
    """Send EVENT to the daemon and return its answer."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "shared"))
    from arsenale_relay import endpoint, start

    home = sys.argv[2] if len(sys.argv) > 2 else endpoint.home_dir()
    left_s = deadline - time.monotonic()
    if may_start:
        connection = start.connect_or_start(home, left_s, time.sleep)
    else:
        connection = endpoint.connect(home)
    with connection:
        line = json.dumps({"arsenale": 1, "hook": event, "starts": may_start}).encode() + b"\n"
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.sendall(line)
        return json.loads(received(connection, deadline))


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
