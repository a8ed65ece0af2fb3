"""Fields of `struct ggml_tensor` read by address, for callbacks in Python.

The offsets are those of ggml.h on 64-bit machines. `verify` makes two tensors in the loaded library
and looks whether they say the same; a library that lays them out in another way is not used.
"""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from arsenale_core.errors import UnavailableError
from arsenale_inference.engine.llama import GGML, Floats

NE, NB, OP, SRC, VIEW_SRC, DATA, NAME = 16, 48, 80, 152, 232, 248, 256
ARENA_BYTES = 1 << 20
F32_TYPE = 0
MAX_OPS = 256


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)
    )  # fmt: skip


def integer(tensor: int, offset: int) -> int:
    """Return an int64 field."""
    return ctypes.c_int64.from_address(tensor + offset).value


def operation(tensor: int) -> int:
    """Return the number of the tensor's operation (`enum ggml_op`)."""
    return ctypes.c_int32.from_address(tensor + OP).value


def source(tensor: int, index: int) -> int:
    """Return the address of an operand, 0 where there is none."""
    return ctypes.c_uint64.from_address(tensor + SRC + 8 * index).value


def name(tensor: int) -> str:
    """Return the tensor's name."""
    return ctypes.string_at(tensor + NAME).decode("utf-8", "replace")


def kind(tensor: int) -> int:
    """Return the number of the element type; 0 is float32."""
    return ctypes.c_int32.from_address(tensor).value


def matrix(tensor: int) -> Floats:
    """Return the data of a float32 matrix in host memory, shape `(ne[1], ne[0])`: a view."""
    columns, rows = integer(tensor, NE), integer(tensor, NE + 8)
    stride = integer(tensor, NB + 8) // 4
    place: Any = (ctypes.c_float * (stride * rows)).from_address(integer(tensor, DATA))
    return np.frombuffer(place, np.float32).reshape(rows, stride)[:, :columns]


def operation_number(wanted: bytes) -> int:
    """Return the number of an operation of the loaded library.

    Raises:
        UnavailableError: It has none of that name.
    """
    named = _call("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    for number in range(MAX_OPS):
        found: bytes = named(number)
        if found == wanted:
            return number
        if not found:
            break
    raise UnavailableError(f"ggml has no {wanted.decode()}", hint="install a C compiler")


def verify() -> None:
    """Compare the offsets with the loaded library.

    Raises:
        UnavailableError: They differ.
    """
    with _arena() as arena:
        new = _call("ggml_new_tensor_2d", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
                    ctypes.c_int64, ctypes.c_int64)  # fmt: skip
        product = _call("ggml_mul_mat", *[ctypes.c_void_p] * 4)
        a, x = new(arena, F32_TYPE, 8, 3), new(arena, F32_TYPE, 8, 5)
        _call("ggml_set_name", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(a, b"a.weight")
        y = product(arena, a, x)
        data = _call("ggml_get_data", ctypes.c_void_p, ctypes.c_void_p)(x)
        view = _call("ggml_view_tensor", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        said = (
            integer(y, NE), integer(y, NE + 8), integer(y, NB), integer(y, NB + 8),
            operation(y), source(y, 0), source(y, 1), integer(x, DATA), name(a), kind(x),
            integer(view(arena, x), VIEW_SRC),
        )  # fmt: skip
    if said != (3, 5, 4, 12, operation_number(b"MUL_MAT"), a, x, data, "a.weight", F32_TYPE, x):
        raise UnavailableError(
            "this llama.cpp lays out its tensors in another way",
            hint="install a C compiler, or the version of llama-cpp-python that we name",
        )


@contextmanager
def _arena() -> Generator[int]:
    init = _call("ggml_init", ctypes.c_void_p, _InitParams)
    arena: int = init(_InitParams(ARENA_BYTES, None, False))
    try:
        yield arena
    finally:
        _call("ggml_free", None, ctypes.c_void_p)(arena)


def _call(function: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((function, GGML))
