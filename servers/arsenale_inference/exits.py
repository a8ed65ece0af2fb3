"""What the exit status of a child process means, in words for people."""

import signal

REMEDIES = {
    signal.SIGILL: "the engine uses processor instructions that this machine does not run; "
    "run `arsenale inference install`, which tests a safer build",
    signal.SIGKILL: "the system probably ran out of memory; use a smaller model, or lower "
    "`inference_context`, `inference_sequences` or `inference_workers`",
    signal.SIGSEGV: "run `arsenale doctor`, which tests the engine; if that passes, the model file "
    "may be damaged: compare its checksum",
    signal.SIGABRT: "llama.cpp found an inconsistency; the log of the worker has its last line",
    signal.SIGBUS: "the model file changed or its disk failed while it was read; "
    "compare its checksum",
    signal.SIGXCPU: "a CPU time limit of the system was reached; see `ulimit -t`",
}
"""Signal -> what to do about it."""


def describe(status: int) -> str:
    """Return what ended a process with exit STATUS; a negative one is the number of a signal."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        found = signal.Signals(-status)
    except ValueError:
        return f"was killed by signal {-status}"
    meaning = (signal.strsignal(found) or "").lower()
    return f"was killed by {found.name} ({meaning})"


def remedy(status: int) -> str | None:
    """Return what to do about a process that ended with STATUS; None when nothing is known."""
    return REMEDIES.get(signal.Signals(-status)) if -status in set(signal.Signals) else None
