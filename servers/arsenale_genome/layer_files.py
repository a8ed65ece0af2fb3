"""A layer's file, from wherever it comes, checked and staged. Imported when first needed: gguf."""

from dataclasses import dataclass
from pathlib import Path

from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.lora.adapters import Adapter, Base, check_fits
from arsenale_core.lora.gguf_files import (
    ADAPTER_MAX_BYTES,
    file_sha256,
    read_adapter,
    read_base,
)
from arsenale_core.lora.peft_files import convert_peft
from arsenale_genome.artifacts import copied
from arsenale_genome.record import File, KnownBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A layer's file in a folder of ours, checked.

    Attributes:
        name: What the file calls itself; may be empty.
    """

    path: Path
    file: File
    name: str


def staged(source: Path, folder: Path, base: Base | None) -> Staged:
    """Copy the GGUF file SOURCE, or convert the PEFT folder SOURCE, into FOLDER.

    Raises:
        InvalidError: It is no LoRA layer that can be served, it does not fit BASE, or it is a PEFT
            folder and there is no BASE.
        NotFoundError: There is no such file.
    """
    target = folder / "layer.gguf"
    if source.is_dir():
        if base is None:
            raise InvalidError(
                f"{source} is a PEFT folder, which is converted for its base",
                hint="give `base_path`, the GGUF file of the base it was trained on",
            )
        adapter = convert_peft(source, base, target)
        sha, size = file_sha256(target), target.stat().st_size
        return Staged(path=target, file=_file(adapter, sha, size, peft=True), name=adapter.name)
    if source.exists() and not source.is_file():
        raise InvalidError(f"{source} is no plain file", hint="give a GGUF file or a PEFT folder")
    try:
        with source.open("rb") as file:
            sha, size = copied(file, target, ADAPTER_MAX_BYTES, str(source))
    except FileNotFoundError as exc:
        raise NotFoundError(
            "layer file", str(source), hint="give a GGUF file or the folder that PEFT saved"
        ) from exc
    except OSError as exc:
        raise InvalidError(f"{source} cannot be read ({exc.strerror})", hint="check it") from exc
    return verified(target, sha, size, base, str(source))


def verified(path: Path, sha: str, size: int, base: Base | None, name: str) -> Staged:
    """Read the staged file PATH as a layer.

    Raises:
        InvalidError: It is none, or does not fit BASE; NAME is what people call it.
    """
    try:
        adapter = read_adapter(path)
        if base is not None:
            check_fits(adapter, base)
    except InvalidError as exc:  # our own copy's path says nothing to anyone
        raise InvalidError(exc.what.replace(str(path), name), hint=exc.hint) from None
    return Staged(path=path, file=_file(adapter, sha, size, peft=False), name=adapter.name)


def base_file(name: str, path: Path, known: KnownBase | None) -> tuple[KnownBase, Base]:
    """Read the base model's file PATH; its hash is taken anew unless KNOWN has it.

    Raises:
        InvalidError: It is no model.
        NotFoundError: There is no such file.
    """
    base = read_base(path)
    there = path.stat()
    if known and (known.path, known.size_bytes, known.mtime_ns) == (
        str(path), there.st_size, there.st_mtime_ns,
    ):  # fmt: skip
        return known, base
    seen = KnownBase(
        name=name,
        architecture=base.architecture,
        sha256=file_sha256(path),
        path=str(path),
        size_bytes=there.st_size,
        mtime_ns=there.st_mtime_ns,
    )
    return seen, base


def _file(adapter: Adapter, sha: str, size: int, *, peft: bool) -> File:
    return File(
        sha256=sha,
        size_bytes=size,
        rank=adapter.rank,
        alpha=adapter.alpha,
        tensors=len(adapter.factors),
        architecture=adapter.architecture,
        source="peft" if peft else "gguf",
    )
