"""Engines over a random model of two blocks in 32 bits (`arsenale_inference.engine.testing`), and
sidecars: processes of their own in homes of their own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from arsenale_core import sidecar
from arsenale_core.config import plain_environment

if TYPE_CHECKING:
    from arsenale_inference.engine.llama import Floats
    from arsenale_inference.engine.testing import Lab

if find_spec("llama_cpp") is None:  # the engine is not installed: `make inference`
    collect_ignore = ["test_compose.py", "test_costs.py", "test_engine.py"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, "Floats"]]:
    if find_spec("llama_cpp") is None:
        pytest.skip("the engine is not installed: `make inference`")
    from arsenale_inference.engine.testing import (  # noqa: PLC0415  # llama_cpp may be absent
        TINY,
        random_weights,
        write_model,
    )

    weights = random_weights(TINY)
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", TINY, weights), weights


@pytest.fixture
def lab(
    tmp_path: Path, built: Path, tiny_model: tuple[Path, dict[str, "Floats"]]
) -> Iterator["Lab"]:
    from arsenale_inference.engine.testing import Lab  # noqa: PLC0415

    model, weights = tiny_model
    lab = Lab(model=model, weights=weights, folder=tmp_path, build_folder=built)
    yield lab
    lab.close()


WITHIN_S = 30.0
"""The machine may be busy."""


class Sidecar:
    """A sidecar process; whoever made it ends it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = self._started()
        self.address = self._address()
        self.url = self.address.url
        self.http = httpx2.Client(base_url=self.url, headers=self.address.headers, timeout=60)

    def _started(self) -> "subprocess.Popen[bytes]":
        with (self.home / "sidecar.err").open("ab") as err:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "arsenale_inference"], stderr=err, stdout=err,
                env=plain_environment(self.home), stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _address(self) -> sidecar.Address:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            found = sidecar.address(self.home)
            if found is not None and found.pid == self.process.pid:
                return found
            time.sleep(0.02)
        self.process.kill()
        raise TimeoutError((self.home / "sidecar.err").read_text(encoding="utf-8"))

    @property
    def token(self) -> str:
        return self.address.headers["Authorization"].removeprefix("Bearer ")

    def status(self) -> dict[str, Any]:
        answer = self.http.get("/admin/status")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def worker(self, model: str = "tiny") -> dict[str, Any]:
        """The first worker of MODEL, as the status has it."""
        [found] = [each for each in self.status()["models"] if each["model"] == model]
        return found["workers"][0]

    def until(self, says: Callable[[dict[str, Any]], bool], within_s: float = WITHIN_S) -> Any:
        """Wait until the status SAYS so; return it."""
        deadline = time.monotonic() + within_s
        while not says(found := self.status()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def until_idle(self) -> Any:
        return self.until(is_idle)

    def chat(self, content: str = "Hello!", model: str = "tiny", **more: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "max_tokens": 16, "temperature": 0, **more}
        return self.http.post("/v1/chat/completions", json=body)

    def end(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.http.close()


def is_idle(status: dict[str, Any]) -> bool:
    """No call is live and nobody waits."""
    live = [worker["live"] for model in status["models"] for worker in model["workers"]]
    return status["queue_depth"] == 0 and not any(live)


def is_alive(pid: int) -> bool:
    """Whether PID is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def sidecar_home(built: Path, **settings: Any) -> Generator[Path]:
    """A home whose compiled helper is built once for all."""
    with tempfile.TemporaryDirectory(prefix="arsenale-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        (home / "build").symlink_to(built)
        lines = [f"inference_{name} = {json.dumps(value)}" for name, value in settings.items()]
        (home / "config.toml").write_text("\n".join(lines), encoding="utf-8")
        yield home


StartSidecar = Callable[..., Sidecar]


def _starter(built: Path) -> Iterator[StartSidecar]:
    if find_spec("llama_cpp") is None:  # only `engine.bindings` can import a prebuilt one
        pytest.skip("the engine is not installed: `make inference`")
    with ExitStack() as homes:
        started: list[Sidecar] = []

        def start(home: Path | None = None, **settings: Any) -> Sidecar:
            if home is None:
                home = homes.enter_context(sidecar_home(built, **settings))
            started.append(Sidecar(home))
            return started[-1]

        try:
            yield start
            for each in started:
                each.end()
        finally:
            for each in started:
                each.kill()


@pytest.fixture
def start_sidecar(built: Path) -> Iterator[StartSidecar]:
    """Starts sidecars with settings (`queue=2`) in a fresh home, or in HOME; ends them after."""
    yield from _starter(built)


@pytest.fixture(scope="module")
def start_for_module(built: Path) -> Iterator[StartSidecar]:
    """Starts sidecars that end with the module."""
    yield from _starter(built)


@pytest.fixture(scope="module")
def running(start_for_module: StartSidecar) -> Sidecar:
    """One sidecar for a whole module."""
    return start_for_module()


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture
def kill_worker() -> Callable[[Sidecar, int], int]:
    """Send a signal to the worker of the tiny model; return its pid."""

    def kill(made: Sidecar, how: int = signal.SIGKILL) -> int:
        pid = made.worker()["pid"]
        os.kill(pid, how)
        return pid

    return kill


GgufCopy = Callable[..., Path]


@pytest.fixture
def gguf_copy() -> GgufCopy:
    """Copies the tiny model to a path: entries CHANGEd, ADDed or DROPped, tensors SKIPped."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: `make inference`")
    from arsenale_inference.tiny.card import BASE, FOLDER  # noqa: PLC0415

    def copied(
        path: Path,
        *,
        change: Mapping[str, Any] | None = None,
        drop: str | None = None,
        skip: str | None = None,
    ) -> Path:
        reader, changed = gguf.GGUFReader(FOLDER / BASE), dict(change or {})
        writer = gguf.GGUFWriter(path, changed.pop("general.architecture", "llama"))
        for field in reader.fields.values():
            if field.name == "general.architecture" or field.name.startswith("GGUF."):
                continue
            if drop is not None and field.name.startswith(drop):
                continue
            kind, inner = field.types[0], field.types[-1]
            value = changed.pop(field.name, field.contents())
            array = kind == gguf.GGUFValueType.ARRAY
            writer.add_key_value(field.name, value, kind, sub_type=inner if array else None)
        for name, value in changed.items():
            kinds = gguf.GGUFValueType
            short = name in ("split.no", "split.count")
            writer.add_key_value(name, value, kinds.UINT16 if short else kinds.get_type(value))
        for tensor in reader.tensors:
            if tensor.name != skip:
                writer.add_tensor(
                    tensor.name, tensor.data, raw_shape=tensor.data.shape,
                    raw_dtype=tensor.tensor_type,
                )  # fmt: skip
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return copied
