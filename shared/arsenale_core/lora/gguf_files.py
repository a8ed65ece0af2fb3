"""Adapters and bases as GGUF files: read, write, hash.

An adapter's file has `general.type` "adapter", `adapter.type` "lora", `adapter.lora.alpha`, and for
each adapted tensor `NAME.lora_a` `(rank, in)` and `NAME.lora_b` `(out, rank)`; this is what
`llama_adapter_lora_init` of llama.cpp takes (src/llama-adapter.cpp).
"""

import hashlib
import io
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np

from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.lora.adapters import Adapter, Base, Factors, Matrix, check_factors
from arsenale_core.lora.gguf_header import FETCH, Header, TensorPlace, read_header

ADAPTER_MAX_BYTES = 2 * 2**30
"""The largest adapter file: rank 64 on all matrices of a 70 B model is 1.7 GB in half precision."""

A, B = ".lora_a", ".lora_b"


def read_adapter(path: Path) -> Adapter:
    """Read the LoRA adapter in the GGUF file PATH, its numbers as float32.

    Raises:
        InvalidError: It is no such file, is damaged or too large, holds something that llama.cpp
            would leave out (norms, embeddings), or is an aLoRA.
        NotFoundError: There is no such file.
    """
    try:
        with _opened(path) as file:
            _check_size(path)
            header = read_header(file, path)
            _check_kind(header, path)
            factors = {name: _factors(file, header, name, path) for name in _adapted(header, path)}
    except FileNotFoundError as exc:
        raise NotFoundError("adapter file", str(path), hint="check the path") from exc
    except OSError as exc:
        raise InvalidError(f"{path} cannot be read ({exc.strerror})", hint="check it") from exc
    return Adapter(
        architecture=header.text("general.architecture"),
        alpha=_alpha(header, path),
        factors=factors,
        name=header.text("general.name"),
    )


def write_adapter(adapter: Adapter, path: Path, *, half: bool = False) -> None:
    """Write ADAPTER to PATH as GGUF, by rename: the file is whole or not there.

    Args:
        adapter: What to write; its rows are in llama.cpp's order already.
        path: Where; what lies there is replaced.
        half: Write float16: half the bytes, 11 bits of each number.

    Raises:
        InvalidError: A matrix is none, or a number is not finite or too large for float16.
    """
    dtype = np.float16 if half else np.float32
    writer = gguf.GGUFWriter(None, adapter.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(adapter.name or path.stem)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    for tensor, pair in adapter.factors.items():
        check_factors(tensor, pair)
        for suffix, matrix in ((A, pair.a), (B, pair.b)):
            if np.abs(matrix).max() > np.finfo(dtype).max:
                raise InvalidError(
                    f"{tensor}: too large for float16", hint="write it as float32 (half=False)"
                )
            writer.add_tensor(f"{tensor}{suffix}", np.ascontiguousarray(matrix, dtype=dtype))
    write_whole(writer, path)


def write_whole(writer: gguf.GGUFWriter, path: Path) -> None:
    """Write what WRITER was given to PATH, by rename."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        part = Path(folder) / path.name
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, path)


def read_base(path: Path) -> Base:
    """Read from the base model's GGUF file PATH what an adapter has to fit; no weights.

    Raises:
        InvalidError: It is no GGUF file, is damaged, or is no model with attention.
        NotFoundError: There is no such file.
    """
    header = header_of(path)
    if header.text("general.type") not in ("", "model"):
        raise InvalidError(f"{path} is no base model", hint="give the GGUF file of the model")
    architecture = header.text("general.architecture")
    heads = _integer(header, f"{architecture}.attention.head_count", path)
    kv_key = f"{architecture}.attention.head_count_kv"
    return Base(
        architecture=architecture,
        layers=_integer(header, f"{architecture}.block_count", path),
        heads=heads,
        kv_heads=_integer(header, kv_key, path) if kv_key in header.fields else heads,
        tensors={name: place.shape for name, place in header.tensors.items()},
        name=header.text("general.name"),
    )


def has_magic(path: Path) -> bool:
    """Return whether the regular file PATH begins as a GGUF file does (docs/gguf.md of ggml).

    Raises:
        OSError: It cannot be read.
        InvalidError: It is not a regular file.
    """
    with _opened(path) as file:
        return file.read(4) == b"GGUF"


def header_of(path: Path) -> Header:
    """Read the head of the GGUF file PATH.

    Raises:
        InvalidError: It is no GGUF file, or damaged.
        NotFoundError: There is no such file.
    """
    try:
        with _opened(path) as file:
            return read_header(file, path)
    except FileNotFoundError as exc:
        raise NotFoundError("model file", str(path), hint="check the path") from exc
    except OSError as exc:
        raise InvalidError(f"{path} cannot be read ({exc.strerror})", hint="check it") from exc


def read_tensors(path: Path) -> dict[str, Matrix]:
    """Read every tensor of the GGUF file PATH as float32, unpacked: for models that fit in memory.

    Raises:
        InvalidError: It is no GGUF file, is damaged, or packed in a way that is not known.
        NotFoundError: There is no such file.
    """
    header = header_of(path)
    with _opened(path) as file:
        return {name: _numbers(file, name, at, path) for name, at in header.tensors.items()}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file PATH, in hex.

    Raises:
        NotFoundError: There is no such file.
        InvalidError: It is no plain file.
    """
    try:
        with _opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        raise NotFoundError("file", str(path), hint="check the path") from exc


def _opened(path: Path) -> io.BufferedReader:
    """Open PATH for reading; a pipe or a device is refused before it is waited for.

    Raises:
        InvalidError: It is no plain file.
        OSError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as exc:
        raise InvalidError(f"{str(path)!r} is no path", hint="give one without NUL") from exc
    file = os.fdopen(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise InvalidError(f"{path} is no plain file", hint="give the file itself")
    return file


def _check_size(path: Path) -> None:
    size_bytes = path.stat().st_size
    if size_bytes > ADAPTER_MAX_BYTES:
        raise InvalidError(
            f"{path} has {size_bytes:,} bytes, {ADAPTER_MAX_BYTES:,} is the most for an adapter",
            hint="train it with a lower rank, or export it in half precision",
        )


def _check_kind(header: Header, path: Path) -> None:
    if header.text("general.type") != "adapter":
        raise InvalidError(
            f"{path} is no adapter but a {header.text('general.type') or 'model'}",
            hint="give a LoRA file; a base model is named elsewhere",
        )
    kind = header.text("adapter.type")
    if kind != "lora" or "adapter.alora.invocation_tokens" in header.fields:
        raise InvalidError(
            f"{path}: adapters of type {kind if kind != 'lora' else 'alora'!r} are not served",
            hint="train a plain LoRA",
        )


def _alpha(header: Header, path: Path) -> float:
    alpha = header.number("adapter.lora.alpha")
    if alpha is None or not math.isfinite(alpha):
        raise InvalidError(f"{path}: adapter.lora.alpha is missing or no number", hint=FETCH)
    return float(alpha)


def _adapted(header: Header, path: Path) -> list[str]:
    names = sorted({name.removesuffix(A).removesuffix(B) for name in header.tensors})
    if not names:
        raise InvalidError(f"{path} holds no tensors", hint=FETCH)
    for name in names:
        refuse_unserved(name)
        if not {name + A, name + B} <= set(header.tensors):
            raise InvalidError(f"{path}: {name!r} lacks its A or its B", hint=FETCH)
    return names


def refuse_unserved(tensor: str) -> None:
    """Refuse a TENSOR that llama.cpp takes no layer for, or silently leaves out.

    Raises:
        InvalidError: It is a norm or the embedding.
    """
    if tensor.endswith("_norm.weight") or tensor.startswith("token_embd"):
        raise InvalidError(
            f"{tensor}: layers on norms and embeddings are not served",
            hint="train on the linear maps only (q, k, v, o, gate, up, down)",
        )


def _factors(file: BinaryIO, header: Header, name: str, path: Path) -> Factors:
    a, b = (_numbers(file, name + end, header.tensors[name + end], path) for end in (A, B))
    pair = Factors(a=a, b=b)
    check_factors(name, pair)
    return pair


def _numbers(file: BinaryIO, name: str, place: TensorPlace, path: Path) -> Matrix:
    file.seek(place.offset)
    raw = file.read(place.size_bytes)
    if len(raw) != place.size_bytes:
        raise InvalidError(f"{path} was cut while it was read, in {name!r}", hint=FETCH)
    if place.kind == gguf.GGMLQuantizationType.F32:
        return np.frombuffer(raw, "<f4").reshape(place.shape).astype(np.float32)
    if place.kind == gguf.GGMLQuantizationType.F16:
        return np.frombuffer(raw, "<f2").reshape(place.shape).astype(np.float32)
    try:
        rows = np.frombuffer(raw, np.uint8).reshape(*place.shape[:-1], -1)
        with np.errstate(all="ignore"):  # what is not finite is refused by who reads it
            return gguf.dequantize(rows, place.kind).reshape(place.shape)
    except NotImplementedError:
        raise InvalidError(
            f"{path}: {name!r} is packed as {place.kind.name}, which is not read here",
            hint="export it as F32, F16 or Q8_0",
        ) from None


def _integer(header: Header, key: str, path: Path) -> int:
    value = header.fields.get(key)
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]  # one number a layer, all equal
    if not isinstance(value, int) or value < 1:
        raise InvalidError(
            f"{path}: {key} is {value!r}",
            hint="give a model whose layers all have the same number of heads",
        )
    return value
