"""What runs on this machine, by /proc."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that PID has started and that run."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(one) for one in text.split()]
