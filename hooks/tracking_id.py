"""Optional PreToolUse hook: tell the model the tracking id of its call.

The id is the host's own `tool_use_id` where it gives one, under which the telemetry server stores
the call, else a fresh one. Permissions are not touched. `arsenale init --tracking` installs it.
"""

import json
import os
import sys
import uuid


def main() -> None:
    """Answer the event on stdin."""
    text = sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    event = json.loads(text, strict=False)
    tracking_id = event.get("tool_use_id") or event.get("toolUseId") or f"arsenale-{uuid.uuid4()}"
    answer = {
        "hookEventName": "PreToolUse",
        "additionalContext": f"Arsenale tracking id of this call: {tracking_id}",
    }
    # Not sys.stdout: what it cannot flush at exit it complains about, with status 120.
    os.write(1, json.dumps({"hookSpecificOutput": answer}).encode() + b"\n")


if __name__ == "__main__":
    try:
        main()
    except Exception:  # the fail-open boundary of every hook
        pass
