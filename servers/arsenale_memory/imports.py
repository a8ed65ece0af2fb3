"""`@path` imports of memory files, resolved as the host resolves them.

Measured on Claude Code 2.1.329: relative to the importing file, `~/` and absolute paths; not within
code or comments; four hops. Our contract allows five and warns from the fifth on, which the host
would leave out. Whatever cannot be imported stays in the text as it was, with a warning.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from arsenale_core.errors import InvalidError

MAX_HOPS = 5
HOST_HOPS = 4
"""How far imports are followed, and how far Claude Code follows them."""

MAX_FILE_BYTES = 4 * 2**20
"""Larger files are skipped, as the host skips them."""

MAX_TOTAL_BYTES = 8 * 2**20
"""All imported text together: files that import one another many times over must not explode."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_IMPORT = re.compile(r"(?:(?<=\s)|^)@((?:\\ |\S)+)", re.MULTILINE)
_TRAILING = ".,;:!?)]}\"'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A file that is part of the result; HOPS is 0 for the first."""

    path: Path
    hops: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A memory file with its imports in place."""

    text: str
    files: tuple[Imported, ...]
    warnings: tuple[str, ...]


def resolve(file: Path, roots: Sequence[Path], *, home: Path | None = None) -> Resolved:
    """Return the text of FILE with its imports in place.

    Args:
        file: The file to begin with.
        roots: Every imported file must lie within one of these folders, links followed.
        home: What `~/` stands for; without it such imports are refused.

    Raises:
        InvalidError: FILE itself cannot be read.
    """
    run = _Run(tuple(root.resolve() for root in roots), home)
    path = file.resolve()
    text = run.read(path)
    if text is None:
        raise InvalidError(run.warnings[-1], hint="mend the file, or name another")
    run.files.append(Imported(path=path, hops=0, sha256=_hash(text)))
    return Resolved(
        text=run.expand(text, path, (path,)),
        files=tuple(run.files),
        warnings=tuple(dict.fromkeys(run.warnings)),
    )


def references(text: str) -> list[tuple[int, int, str]]:
    """Return where TEXT imports something: start, end, and the path as written."""
    masked = list(_masked(text))
    found: list[tuple[int, int, str]] = []
    for match in _IMPORT.finditer(text):
        if not any(start <= match.start() < end for start, end in masked):
            found.append((match.start(), match.end(), match.group(1)))
    return found


@dataclass(slots=True)
class _Run:
    """One resolution: what it may read, and what it has met so far."""

    roots: tuple[Path, ...]
    home: Path | None
    files: list[Imported] = field(default_factory=lambda: list[Imported]())
    warnings: list[str] = field(default_factory=lambda: list[str]())
    total: int = 0

    def expand(self, text: str, path: Path, chain: tuple[Path, ...]) -> str:
        out: list[str] = []
        at = 0
        for start, end, written in references(text):
            found = self._load(written, path, chain)
            if found is not None:
                imported, used = found
                out += [text[at:start], imported]
                at = start + 1 + used
            del end
        return "".join([*out, text[at:]])

    def _load(self, written: str, path: Path, chain: tuple[Path, ...]) -> tuple[str, int] | None:
        """Return the text that `@WRITTEN` stands for, and how much of WRITTEN named it."""
        target, used = self._target(written, path)
        if target is None:
            return None
        reason = self._refusal(target, chain)
        if reason is not None:
            self.warnings.append(f"{path.name}: @{written[:used]} {reason}")
            return None
        text = self.read(target)
        if text is None:
            return None
        hops = len(chain)
        if hops > HOST_HOPS:
            self.warnings.append(
                f"{path.name}: @{written[:used]} is {hops} hops deep: the host loads {HOST_HOPS}"
            )
        self.files.append(Imported(path=target, hops=hops, sha256=_hash(text)))
        return self.expand(text.removesuffix("\n"), target, (*chain, target)), used

    def _target(self, written: str, path: Path) -> tuple[Path | None, int]:
        """Return the file that WRITTEN names, perhaps without the punctuation after it."""
        used = len(written)
        while True:
            name = written[:used].replace("\\ ", " ")
            candidate = self._absolute(name, path)
            if candidate is not None and _exists(candidate):
                return candidate.resolve(), used
            if used and written[used - 1] in _TRAILING:
                used -= 1
                continue
            name = written.rstrip(_TRAILING)
            if "/" in name or re.search(r"\.\w{1,5}$", name):
                self.warnings.append(f"{path.name}: @{name} names no file")
            return None, 0

    def _absolute(self, name: str, path: Path) -> Path | None:
        if not name or "\0" in name:
            return None
        if name.startswith("~/"):
            return self.home / name[2:] if self.home else None
        return path.parent / name  # an absolute name stands for itself

    def _refusal(self, target: Path, chain: tuple[Path, ...]) -> str | None:
        if target in chain:
            names = " -> ".join(each.name for each in (*chain[chain.index(target) :], target))
            return f"is a cycle ({names})"
        if len(chain) > MAX_HOPS:
            return f"is more than {MAX_HOPS} hops deep"
        if not any(target.is_relative_to(root) for root in self.roots):
            return "lies outside of the folders that may be imported from"
        return None

    def read(self, path: Path) -> str | None:
        """Return the text of PATH, or warn and return `None`."""
        try:
            # Not blocking: a pipe that nobody writes to must not stop us.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            return self._warn(path, f"cannot be read ({exc.strerror})")
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return self._warn(path, "is no regular file")
            if status.st_size > MAX_FILE_BYTES:
                return self._warn(path, f"has more than {MAX_FILE_BYTES // 2**20} MiB")
            self.total += status.st_size
            if self.total > MAX_TOTAL_BYTES:
                return self._warn(path, f"passes {MAX_TOTAL_BYTES // 2**20} MiB in all")
            try:
                return file.read(MAX_FILE_BYTES).decode("utf-8")
            except UnicodeDecodeError:
                return self._warn(path, "is not UTF-8")

    def _warn(self, path: Path, reason: str) -> None:
        self.warnings.append(f"{path.name} {reason}")


def _exists(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a name too long, a loop of links
        return False


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _masked(text: str) -> Iterator[tuple[int, int]]:
    """Give the stretches of TEXT in which nothing is imported: fences, code spans, comments."""
    plain = text
    for start, end in _fences(text):
        yield start, end
        plain = plain[:start] + re.sub(r"[^\n]", " ", plain[start:end]) + plain[end:]
    for match in _COMMENT.finditer(plain):
        yield match.span()
        blank = re.sub(r"[^\n]", " ", match.group())
        plain = plain[: match.start()] + blank + plain[match.end() :]
    for match in _SPAN.finditer(plain):
        yield match.span()


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Give the fenced code blocks of TEXT (CommonMark 0.31 §4.5)."""
    at = begun = 0
    fence: str | None = None
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line.rstrip("\r\n"))
        if match and fence is None:
            if not (match[1][0] == "`" and "`" in match[2]):
                fence, begun = match[1], at
        elif match and fence is not None:
            closes = match[1][0] == fence[0] and len(match[1]) >= len(fence)
            if closes and not match[2].strip():
                yield begun, at + len(line)
                fence = None
        at += len(line)
    if fence is not None:
        yield begun, len(text)
