"""What to do about a module that is refused: for missing imports, features, and size; pure."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ABI_FILE: Final = Path(__file__).parents[1] / "ABI.md"
"""What a guest may be and import, for people to open."""

SEE_ABI: Final = f"{ABI_FILE} lists what may be run"

SHOWN: Final = 20
"""Imports that one error names; the others are counted."""

_HINTS: Final = (
    (r"env\.(?:abort|seed|trace|console\.\w+)", "compile AssemblyScript with `--use abort=` and"
     " without `trace`, `seed` and `console`"),
    (r"(?:gojs|go)\.", "compile Go with GOOS=wasip1 GOARCH=wasm, not GOOS=js"),
    (r"(?:wbg|__wbindgen|\./\w+_bg\.js)", "compile Rust for wasm32-wasip1 without wasm-bindgen"),
    (r"wasi_unstable\.", "compile with a current toolchain: it wants a draft of WASI"),
    (r"wasi:", "compile a core module for WASI preview 1 (wasm32-wasip1), not a component"),
    (r"wasi_snapshot_preview1\.sock_", "there is no network: leave the sockets out"),
    (r"wasi_snapshot_preview1\.thread|wasi\.thread", "compile without threads"),
    (r"extism:", "read the input as the ABI says, not with Extism's host functions"),
    (r"env\.(?:memory|__linear_memory)\b", "define and export the memory: link without"
     " --import-memory"),
    (r"env\.__indirect_function_table", "define the table: link without --import-table, not as a"
     " side module"),
    (r"\w{1,2}\.\w{1,2}$|env\.(?:_?emscripten|invoke_|__cxa_|_embind)", "compile with Emscripten's"
     " -sSTANDALONE_WASM"),
)  # fmt: skip
"""Whose compiler makes an import, and how it makes a module without it."""

FEATURES: Final = (
    (r"tail call", "tail calls"),
    (r"exceptions?\b|legacy_exceptions|exnref", "exceptions"),
    (r"\bgc\b|heap types|struct|array type", "garbage collection (GC)"),
    (r"function[- ]references?", "typed function references"),
    (r"threads?\b|atomic|shared memor", "threads"),
    (r"memory64|64-bit memor", "memory64 (64-bit memories)"),
    (r"multi[- ]?memory|multiple memories", "multiple memories"),
    (r"relaxed[- ]simd", "relaxed SIMD"),
    (r"wide[- ]arithmetic", "wide arithmetic"),
    (r"stack[- ]switching", "stack switching"),
    (r"custom[- ]page", "custom page sizes"),
)
"""Words of the compiler's errors, and the feature that is off."""


def of_imports(names: Sequence[str]) -> str:
    """Return what to do about NAMES, `module.name`, which a module may not import."""
    found = [hint for pattern, hint in _HINTS if any(re.match(pattern, name) for name in names)]
    return "; ".join([*dict.fromkeys(found), SEE_ABI])


def listed(names: Iterable[str]) -> str:
    """Return NAMES in a line, the first of them if there are many."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def feature_in(said: str) -> str | None:
    """Return the feature that a compiler's error SAID is off."""
    off = re.search(r"not (?:enabled|supported|allowed)|disabled|requires? (?:the )?\w+", said)
    if off is None:
        return None
    return next((name for pattern, name in FEATURES if re.search(pattern, said, re.I)), None)


def of_size(size_bytes: int, custom_bytes: int) -> str:
    """Return what to do about a module that is too large, CUSTOM_BYTES of which are not run."""
    if custom_bytes * 4 < size_bytes:
        return "compile for size (-Os), or split the task"
    return (
        f"strip it: {custom_bytes:,} bytes are debug information and names, which are not run, and"
        f" {size_bytes - custom_bytes:,} remain (`wasm-strip FILE`, `llvm-strip FILE`, rustc's"
        " `-C strip=symbols`, Go's `-ldflags='-s -w'`)"
    )
