"""Log a hook event, for hosts without a POSIX shell: `python -I -S log_event.py [SPOOL]`.

The same contract as `log_event.sh`: stdin goes to a file of our own in the spool; nothing is
printed; the exit status is 0 whatever happens. No module is imported that costs time.
"""

import os
import sys


def main() -> None:
    """Copy stdin to the spool."""
    os.umask(0o077)  # `makedirs` gives its mode to the last folder only
    spool = sys.argv[1] if len(sys.argv) > 1 else _default()
    event = sys.stdin.buffer.read()
    if os.path.exists(os.path.join(spool, "full")):
        return
    os.makedirs(spool, mode=0o700, exist_ok=True)
    path = os.path.join(spool, f"{os.getpid()}.{os.getppid()}.json")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    left = memoryview(event)
    while len(left):
        left = left[os.write(file, left) :]
    os.close(file)


def _default() -> str:
    home = os.environ.get("ARSENALE_HOME") or os.path.expanduser("~/.arsenale")
    return os.path.join(home, "spool")


if __name__ == "__main__":
    try:
        main()
    except Exception:  # the fail-open boundary of every hook
        pass
