"""`arsenale-stdio SERVER`, also by path: `python -I -S …/arsenale_relay/__main__.py SERVER`."""

import os
import sys

if __name__ == "__main__":  # by path and isolated: our own folder is not on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from arsenale_relay.endpoint import home_dir
from arsenale_relay.relay import BUDGET_S, Refused, Relay

USAGE = """usage: arsenale-stdio SERVER

Connects an MCP host's stdin and stdout to the server SERVER of the Arsenale daemon, which is
started if it does not run. `arsenale status` lists the servers.
"""


def main() -> int:
    """Relay until the host goes; return the exit status."""
    arguments = sys.argv[1:]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.stderr.write(USAGE)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        budget_s = float(os.environ.get("ARSENALE_RELAY_BUDGET_S") or BUDGET_S)
        Relay(home_dir(), arguments[0], budget_s).run()
    except Refused as exc:
        sys.stderr.write(f"arsenale-stdio: {exc}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"arsenale-stdio: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
