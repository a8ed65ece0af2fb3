"""Loads llama-cpp-python over whichever llama.cpp is installed: built here, or prebuilt.

A prebuilt llama.cpp differs from one that llama-cpp-python builds in two ways. Its CPU backend
consists of variants, one of which ggml loads when asked to; and it is of another commit, so that
some functions that the bindings name at import are missing.
"""

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arsenale_core.errors import UnavailableError
from arsenale_core.sidecar import NOT_INSTALLED

VARIANTS = "libggml-cpu-*.so"
PRELOADED = ("libggml-base.so", "libggml.so")
"""In the order in which the others link to them."""


@cache
def load() -> Any:
    """Return the module `llama_cpp` with its backends loaded; llama.cpp logs nothing yet.

    It is typed as Any, so that type checking does not depend on an installed engine.

    Raises:
        UnavailableError: The engine is not installed.
        OSError: The dynamic linker refuses it (glibc or libstdc++ is too old).
    """
    folder = libraries()
    variants = any(folder.glob(VARIANTS))
    if variants:
        for name in PRELOADED:
            ctypes.CDLL(str(folder / name))
    with _tolerant():
        llama_cpp = import_module("llama_cpp")
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    if variants:
        ggml = ctypes.CDLL(str(folder / "libggml.so"))
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
    llama_cpp.llama_backend_init()
    return llama_cpp


def libraries() -> Path:
    """Return the folder of the installed shared libraries.

    Raises:
        UnavailableError: The engine is not installed.
    """
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise UnavailableError("the inference engine is not installed", hint=NOT_INSTALLED)
    return Path(found.origin).parent / "lib"


class _Tolerant(ctypes.CDLL):
    """A library in which a missing function raises when called, not when named."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return _missing(name)


def _missing(name: str) -> Callable[..., Any]:
    def call(*_: object) -> Any:
        raise NotImplementedError(f"the installed llama.cpp has no function {name}")

    return call


@contextmanager
def _tolerant() -> Generator[None]:
    """Let llama-cpp-python open its libraries by `_Tolerant` while it is imported."""
    plain = ctypes.CDLL
    ctypes.CDLL = _Tolerant
    try:
        yield
    finally:
        ctypes.CDLL = plain


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(_level: int, _text: bytes, _data: object) -> None:
    """Drop a line of llama.cpp's log, which goes to stderr otherwise."""
