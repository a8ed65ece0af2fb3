"""`@path` imports of Markdown that a host loads, such as CLAUDE.md, resolved as the host does.

A token `@path` at the start of a line or after white space stands for the text of a file, relative
to the importing one, `~/...` or absolute; `\\ ` is a space in it. There are no imports in fenced or
indented code blocks, code spans and HTML comments. What is refused stays as it was written, with
a warning.

Files are opened from an allowed root downwards, each step without following links, so that nobody
can swap in a link between the check and the reading.
"""

import bisect
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from arsenale_core.errors import InvalidError, NotFoundError

MAX_HOPS = 5
"""How far from the root file an import may be, as our contract says."""

HOST_HOPS = 4
"""How far Claude Code really follows (measured with 2.1.329)."""

MAX_FILE_BYTES = 4 * 2**20
"""Largest file: Claude Code skips larger ones."""

MAX_TOTAL_BYTES = 16 * 2**20
"""Most text in all, each file counted as often as it is imported: fan-out grows exponentially."""

MAX_LOOKUPS = 10_000
"""Most tokens that are looked up, so that a file full of them costs a second at most."""

MAX_WARNINGS = 100
"""Most warnings that are kept; the rest is counted."""

_AFTER = ".,;:!?)]}>\"'*_"
"""Punctuation that may follow a path; it belongs to the path when such a file exists."""


_MAX_AFTER, _MAX_PATH_CHARS = 8, 1024
"""Most punctuation that is tried without, and the longest token that is looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that the text is made of."""

    path: Path
    """Without links."""
    hops: int
    """Imports between the root file (0) and this one; the fewest when there are several ways."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The text of a file with its imports in place."""

    text: str
    sources: tuple[Source, ...]
    """Each file once, in the order of their first import."""
    warnings: tuple[str, ...]


def resolve(
    file: Path,
    roots: Sequence[Path],
    *,
    max_hops: int = MAX_HOPS,
    host_hops: int = HOST_HOPS,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> Resolved:
    """Return the text of FILE with every import replaced by the text it names.

    Args:
        file: The root file.
        roots: Folders that FILE and all it imports must be in, links resolved.
        max_hops: Imports further away than this are refused.
        host_hops: Imports further away than this are resolved, with a warning.
        max_file_bytes: Largest file that is read.
        max_total_bytes: Most bytes in all; imports beyond are refused.

    Raises:
        NotFoundError: FILE does not exist.
        InvalidError: FILE is outside the roots, too large, no regular file or no UTF-8.
    """
    reader = _Reader(roots=tuple(map(_real, roots)), max_bytes=max_file_bytes)
    run = _Run(reader=reader, max_hops=max_hops, host_hops=host_hops, left_bytes=max_total_bytes)
    path = _real(file)
    if not os.path.exists(path):
        raise NotFoundError("file", str(file), hint="name the Markdown file to start from")
    try:
        document = reader.read(path)
    except _RefusedError as exc:
        hint = "name a UTF-8 text file inside an allowed folder"
        raise InvalidError(f"{file} {exc}", hint=hint) from exc
    run.left_bytes -= document.size_bytes
    text = run.expand(document, (path,))
    sources = tuple(
        Source(path=path, hops=hops, sha256=reader.documents[path].sha256)
        for path, hops in run.hops.items()
    )
    more = len(run.said) - MAX_WARNINGS
    unsaid = (f"and {more} more warnings",) if more > 0 else ()
    return Resolved(text=text, sources=sources, warnings=(*run.warnings, *unsaid))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """A possible import: `text[start:end]` is `@raw`."""

    start: int
    end: int
    in_code: bool = False
    """It stands in an indented code block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    path: Path
    text: str
    size_bytes: int
    sha256: str
    tokens: tuple[_Token, ...]


class _RefusedError(Exception):
    """Why a file is not read; the text goes on from its name."""


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads each file once, and only what is inside the roots."""

    roots: tuple[Path, ...]
    max_bytes: int
    documents: dict[Path, _Document] = field(default_factory=dict[Path, _Document])

    def read(self, path: Path) -> _Document:
        """Return the file at PATH, which has no links in it."""
        if path not in self.documents:
            self.documents[path] = self._read(path)
        return self.documents[path]

    def _read(self, path: Path) -> _Document:
        root = next((root for root in self.roots if path.is_relative_to(root)), None)
        if root is None:
            raise _RefusedError("is outside the allowed folders")
        try:
            data = _content(root, path, self.max_bytes)
        except OSError as exc:
            raise _RefusedError(f"cannot be read: {exc.strerror}") from exc
        try:
            text = data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as exc:
            raise _RefusedError("is not UTF-8 text") from exc
        sha256 = hashlib.sha256(data).hexdigest()
        tokens = tuple(islice(_tokens(text), MAX_LOOKUPS + 1))
        return _Document(path=path, text=text, size_bytes=len(data), sha256=sha256, tokens=tokens)


@dataclass(slots=True, kw_only=True)
class _Run:
    """One resolution: what is left of its bounds and what there is to report."""

    reader: _Reader
    max_hops: int
    host_hops: int
    left_bytes: int
    left_lookups: int = MAX_LOOKUPS
    hops: dict[Path, int] = field(default_factory=dict[Path, int])
    warnings: list[str] = field(default_factory=list[str])
    said: set[tuple[Path, int, str]] = field(default_factory=set[tuple[Path, int, str]])
    full: bool = False

    def expand(self, document: _Document, chain: tuple[Path, ...]) -> str:
        """Return the text of DOCUMENT, the last of CHAIN, with its imports in place."""
        hops = len(chain) - 1
        self.hops[document.path] = min(hops, self.hops.get(document.path, hops))
        pieces: list[str] = []
        done = 0
        for token in document.tokens:
            if self.left_lookups == 0:
                self._stop(f"more than {MAX_LOOKUPS} imports: the rest is left as it is")
            if self.full:
                break
            self.left_lookups -= 1
            found = self._import(document, token, chain)
            if found is not None:
                end, text = found
                pieces += document.text[done : token.start], text
                done = end
        return "".join([*pieces, document.text[done:]])

    def _import(
        self, document: _Document, token: _Token, chain: tuple[Path, ...]
    ) -> tuple[int, str] | None:
        """Return where the import ends and the text to put there; None when it stays."""
        raw = document.text[token.start + 1 : token.end]
        named = _named(raw, document.path.parent)
        if named is None:
            if not token.in_code and _path_like(raw):
                self._warn(document, token, "names no file")
            return None
        written, path = named
        try:
            imported = self._allowed(path, token, chain)
        except _RefusedError as exc:
            self._warn(document, token, str(exc))
            return None
        if imported.size_bytes > self.left_bytes:
            self._stop(f"@{raw} and all imports after it are left out: too much text in all")
            return None
        self.left_bytes -= imported.size_bytes
        if len(chain) > self.host_hops:
            self._warn(
                document,
                token,
                f"is {len(chain)} imports deep and Claude Code loads {self.host_hops} at most:"
                " import it from a file nearer to the first",
            )
        text = self.expand(imported, (*chain, path))
        return token.start + 1 + len(written), re.sub(r"(?:\r\n|\n|\r)\Z", "", text)

    def _allowed(self, path: Path, token: _Token, chain: tuple[Path, ...]) -> _Document:
        if token.in_code:
            raise _RefusedError("stands in an indented code block: indent it less to import it")
        if len(chain) > self.max_hops:
            raise _RefusedError(f"is more than {self.max_hops} imports deep")
        if path in chain:
            circle = [*chain[chain.index(path) :], path]
            raise _RefusedError(f"imports itself: {' -> '.join(map(self._shown, circle))}")
        return self.reader.read(path)

    def _warn(self, document: _Document, token: _Token, what: str) -> None:
        key = (document.path, token.start, what)
        if key in self.said:
            return
        self.said.add(key)
        if len(self.said) > MAX_WARNINGS:
            return
        line = document.text.count("\n", 0, token.start) + 1
        said = document.text[token.start : token.end][:200]
        self.warnings.append(f"{self._shown(document.path)}:{line}: {said} {what}")

    def _stop(self, warning: str) -> None:
        if not self.full:
            self.full = True
            self.warnings.append(warning)

    def _shown(self, path: Path) -> str:
        for root in self.reader.roots:
            if path != root and path.is_relative_to(root):
                return str(path.relative_to(root))
        return str(path)


def _named(raw: str, folder: Path) -> tuple[str, Path] | None:
    """Return how much of RAW is a path, and the file it names without links; None if none."""
    for written in _readings(raw):
        name = written.replace("\\ ", " ")
        with suppress(OSError, ValueError, RuntimeError):  # too long, a NUL in it, no home
            path = Path(name).expanduser() if name.startswith("~/") else folder / name
            if os.path.exists(path):
                return written, _real(path)
    return None


def _readings(raw: str) -> Iterator[str]:
    """Yield RAW, then RAW with less and less of the punctuation after it."""
    shortest = max(len(raw.rstrip(_AFTER)), len(raw) - _MAX_AFTER)
    if len(raw) <= _MAX_PATH_CHARS:
        yield from (raw[:n] for n in range(len(raw), max(shortest, 1) - 1, -1))


def _path_like(raw: str) -> bool:
    return "/" in raw or re.search(r"\w\.\w+", raw) is not None


def _content(root: Path, path: Path, max_bytes: int) -> bytes:
    """Return the bytes of PATH, opened from ROOT downwards without following any link."""
    base = root.parent if path == root else root
    *folders, name = path.relative_to(base).parts
    step = os.O_DIRECTORY | os.O_NOFOLLOW | int(getattr(os, "O_PATH", os.O_RDONLY))
    held = os.open(base, step)
    try:
        for folder in folders:
            inner = os.open(folder, step, dir_fd=held)
            os.close(held)
            held = inner
        _check_regular(os.stat(name, dir_fd=held, follow_symlinks=False))
        # O_NONBLOCK: should it be a FIFO by now, opening it would wait for its writer.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held)
    finally:
        os.close(held)
    try:
        _check_regular(os.fstat(file))
        return _data(file, max_bytes)
    finally:
        os.close(file)


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _RefusedError("is not a regular file")


def _data(file: int, max_bytes: int) -> bytes:
    data = bytearray()
    while chunk := os.read(file, 2**20):
        data += chunk
        if len(data) > max_bytes:
            raise _RefusedError(f"is larger than {max_bytes} bytes")
    return bytes(data)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


# Where Markdown has imports.

_MAX_NESTING = 16
"""Quotes and list items that one line may open; what is deeper is taken as text."""

_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])(?: {1,4}(?! )| |$)")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_COMMENT = re.compile(r" {0,3}<!--")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,}|=+[ \t]*)$")
_RUN = re.compile("`+")
_INLINE = re.compile(r"\\[!-/:-@\[-`{-~]|`+|<!--|(?<!\S)@(?P<path>(?:\\ |(?!`|<!--)\S)+)")


def _tokens(text: str) -> Iterator[_Token]:
    """Yield all of TEXT that may be an import, in order."""
    if "@" in text:
        for part in _Blocks(text).parts():
            for start, end in _inline(text, part):
                yield _Token(start=start, end=end, in_code=part.is_code)


@dataclass(slots=True, kw_only=True)
class _Part:
    """Lines of text that belong together: a code span may go from one to the next."""

    start: int
    end: int
    is_code: bool = False
    """They are an indented code block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    mark: str
    quotes: int
    indent: int
    """Column at which the content of the list item begins that the fence is in."""

    def is_closed_by(self, line: str) -> bool:
        mark = line[self.indent :].rstrip(" ").lstrip(" ")
        indent = len(line[self.indent :]) - len(line[self.indent :].lstrip(" "))
        return indent <= 3 and len(mark) >= len(self.mark) and set(mark) == {self.mark[0]}


class _Blocks:
    """Walks over a Markdown text line by line and keeps what is neither fence nor comment.

    It knows what of CommonMark tells text from code: quotes, list items, fences, indented code,
    headings, comments.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._quotes = 0
        self._items: list[int] = []  # the columns at which their content begins
        self._fence: _Fence | None = None
        self._open: _Part | None = None  # the paragraph that the next line may go on with

    def parts(self) -> Iterator[_Part]:
        """Yield the parts in order."""
        at = 0
        while at < len(self._text):
            last, end = self._open, self._line_end(at)
            found, at = self._line(at, end)
            if last is not None and self._open is not last:
                yield last
            if found is not None and found is not self._open:
                yield found
        if self._open is not None:
            yield self._open

    def _line_end(self, at: int) -> int:
        newline = self._text.find("\n", at)
        return len(self._text) if newline < 0 else newline + 1

    def _line(self, start: int, end: int) -> tuple[_Part | None, int]:
        """Take a line; return its part, if it has one, and where the next line begins."""
        content = self._enter(self._text[start:end].rstrip("\r\n").expandtabs(4))
        if content is None or not content.strip():
            self._open = None
            return None, end
        if _COMMENT.match(content):
            self._open = None
            return self._comment(start)
        if _HEADING.match(content) or _RULE.match(content):
            self._open = None
            return _Part(start=start, end=end), end
        if self._open is not None:
            self._open.end = end
        elif content.startswith("    "):
            return _Part(start=start, end=end, is_code=True), end
        else:
            self._open = _Part(start=start, end=end)
        return self._open, end

    def _comment(self, start: int) -> tuple[_Part | None, int]:
        begin = self._text.find("<!--", start)
        close = self._text.find("-->", begin + 2)
        if close < 0:
            return None, len(self._text)
        end = self._line_end(close)
        return _Part(start=close + 3, end=end), end

    def _enter(self, line: str) -> str | None:
        """Return what LINE says inside its quotes and list items; None when it is of a fence."""
        line = self._unquoted(line)
        indent = len(line) - len(line.lstrip(" "))
        blank = indent == len(line)
        if self._fence is not None:
            if blank or indent >= self._fence.indent:
                if self._fence.is_closed_by(line):
                    self._fence = None
                return None
            self._fence = None  # the list item ended, and so did the fence in it
        if blank:
            return ""
        while self._items and indent < self._items[-1]:
            self._items.pop()
        return self._unfenced(self._unlisted(line))

    def _unquoted(self, line: str) -> str:
        quotes = at = 0
        most = _MAX_NESTING if self._fence is None else self._fence.quotes
        while quotes < most and (quote := _QUOTE.match(line, at)):
            quotes, at = quotes + 1, quote.end()
        if quotes != self._quotes:
            self._quotes, self._items, self._fence, self._open = quotes, [], None, None
        return line[at:]

    def _unlisted(self, line: str) -> str:
        at = self._items[-1] if self._items else 0
        for _ in range(_MAX_NESTING):
            item = _ITEM.match(line, at)
            if item is None or _RULE.match(line, at):
                break
            at = item.end()
            self._items.append(at)
            self._open = None
        return line[at:]

    def _unfenced(self, line: str) -> str | None:
        fence = _FENCE.match(line)
        if fence is None:
            return line
        indent = self._items[-1] if self._items else 0
        self._fence = _Fence(mark=fence[1], quotes=self._quotes, indent=indent)
        return None


def _inline(text: str, part: _Part) -> Iterator[tuple[int, int]]:
    """Yield where the tokens of PART are that stand in no code span and no comment."""
    runs: dict[int, list[int]] = {}
    for run in _RUN.finditer(text, part.start, part.end):
        runs.setdefault(len(run[0]), []).append(run.start())
    at = part.start
    unclosed = False
    while found := _INLINE.search(text, at, part.end):
        at = found.end()
        if found["path"]:
            yield found.span()
        elif found[0] == "<!--" and not unclosed:
            close = text.find("-->", found.start() + 2, part.end)
            unclosed = close < 0
            at = at if unclosed else close + 3
        elif found[0][0] == "`":
            closing = runs.get(len(found[0]), [])
            next = bisect.bisect_left(closing, at)
            if next < len(closing):
                at = closing[next] + len(found[0])
