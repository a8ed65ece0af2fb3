"""Settings: environment `ARSENALE_*` over `ARSENALE_HOME/config.toml` over defaults, read once.

This is the only module of the suite that reads the environment (the relay and the hooks, which may
import nothing of ours, read `ARSENALE_HOME` by themselves).
"""

import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from arsenale_core.errors import InvalidError
from arsenale_core.redaction import redact

PREFIX = "ARSENALE_"
DEFAULT_HOME = Path("~/.arsenale")

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""The hosts that `http_host` may name: beyond loopback needs TLS and OAuth, which are not built."""


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """A setting that is not at its default.

    Attributes:
        value: Its value as text; a secret is masked.
        source: Where it comes from.
    """

    name: str
    value: str
    source: Literal["config.toml", "environment"]


class Settings(BaseSettings):
    """What a process may be told from outside: field `x_y` is the variable `ARSENALE_X_Y`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    home: Path = Field(DEFAULT_HOME, description="Directory of every database, key and socket.")
    database_url: str | None = Field(
        None, description="PostgreSQL for all servers; without it one SQLite file each."
    )
    timezone: str | None = Field(
        None, description="IANA name that bounds a day; else the system's."
    )

    http: bool = Field(True, description="Serve MCP, /healthz and /metrics over HTTP as well.")
    http_host: str = Field("127.0.0.1", description="Loopback address to bind.")
    http_port: int = Field(8724, ge=0, le=65535, description="Port; 0 lets the system choose.")
    http_max_body_bytes: int = Field(4 * 2**20, gt=0, description="Largest request body.")
    http_rate_per_minute: int = Field(1200, gt=0, description="Requests a minute, by client.")

    idle_exit_s: float = Field(
        900, ge=0, description="Exit after so long without client or call; 0 = never."
    )
    line_max_bytes: int = Field(16 * 2**20, gt=0, description="Longest JSON-RPC line.")
    result_max_chars: int = Field(
        90_000, gt=0, description="Longest tool result, characters (a host cuts at 25,000 tokens)."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_max_bytes: int = Field(5 * 2**20, gt=0, description="Log file size at which it rotates.")
    log_backups: int = Field(3, ge=0, description="Rotated log files kept.")

    capture: Literal["minimal", "summary", "bodies"] = Field(
        "summary",
        description="minimal: sizes and hashes; summary: also short redacted arguments; "
        "bodies: also redacted bodies.",
    )
    capture_max_bytes: int = Field(32 * 1024, gt=0, description="Longest body kept, by bytes.")
    hook_timeout_s: int = Field(
        2, ge=1, le=60, description="How long a host lets a hook run; `init` writes it."
    )
    spool_max_bytes: int = Field(
        256 * 2**20, gt=0, description="Spool size past which bodies, then new events, are dropped."
    )
    drain_step_ms: Annotated[int, Field(ge=1, le=1000)] = 5
    """How long the drain gathers file notices before it looks, milliseconds."""
    retention_days: int = Field(90, ge=1, description="Age at which raw events go; sums stay.")

    embedder: Literal["auto", "static", "minilm", "http"] = Field(
        "auto", description="auto: MiniLM where it is installed, else static."
    )
    embedder_url: str | None = Field(None, description="OpenAI-compatible base URL, up to /v1.")
    embedder_model: str = Field("default", description="The model's name at that URL.")
    embedder_key: SecretStr | None = Field(None, description="Bearer token for that URL.")
    embedder_idle_s: float = Field(
        120, gt=0, description="The embedding process ends after so long without a text."
    )

    chat_url: str | None = Field(
        None, description="Chat endpoint up to /v1; by default the sidecar, started when needed."
    )
    chat_api: Literal["openai", "anthropic"] = Field(
        "openai", description="What `chat_url` speaks."
    )
    chat_model: str = Field("", description="The model there; by default `inference_model`.")
    chat_key: SecretStr | None = Field(None, description="Its key.")
    chat_timeout_s: float = Field(300, gt=0, description="How long an answer may take.")

    inference_model: str = Field(
        "", description="The model, or genome, that is asked when none is named."
    )
    inference_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Loopback port of the inference sidecar; 0 takes a free one.",
    )
    inference_workers: int = Field(1, ge=1, le=4, description="Worker processes for each model.")
    inference_context: int = Field(
        8_192, ge=64, description="Tokens that the answers of one worker share."
    )
    inference_sequences: int = Field(
        8, ge=1, le=64, description="Answers that one worker makes at once."
    )
    inference_threads: int = Field(
        0, ge=0, description="Threads of a worker; 0 takes half of the machine's."
    )
    inference_gpu_layers: int = Field(0, ge=-1, description="Layers on the GPU; -1 is all.")
    inference_queue: int = Field(256, ge=1, description="Requests that wait at most.")
    inference_wait_s: float = Field(30, gt=0, description="How long a request waits for a worker.")
    inference_hang_s: float = Field(
        60, gt=0, description="A worker that is silent for so long is replaced."
    )
    inference_idle_s: float = Field(
        900, gt=0, description="A model that nobody asks for so long is unloaded."
    )
    inference_memory_mb: int = Field(
        0, ge=0, description="What all workers may take; 0 is three quarters of the machine's."
    )
    inference_layers: int = Field(20, ge=1, description="LoRA layers that a worker keeps loaded.")
    inference_layers_mb: int = Field(500, ge=1, description="What these may take.")
    inference_answers: int = Field(
        256, ge=0, description="Answers to deterministic requests that are kept, for an hour."
    )
    inference_url: str = Field(
        "", description="A sidecar elsewhere that serves genomes; empty = the local one."
    )
    inference_key: SecretStr | None = Field(
        None,
        description="Bearer token of `inference_url` and of engines elsewhere (`arsenale models "
        "add URL --engine`).",
    )
    inference_exact: bool = Field(
        False, description="Keys and values in 32 bits: slower, for exact comparisons."
    )

    recipes_idle_s: float = Field(
        20, gt=0, description="What runs recipes ends after so long with nothing but waits."
    )

    mesh_house: bool = Field(True, description="Run a node of our own when there is a task.")
    mesh_workers: int = Field(
        0, ge=0, le=64, description="Guests that our own node runs at once; 0 is one a processor."
    )
    mesh_idle_s: float = Field(
        120, gt=0, description="Our own node ends after so long without a task."
    )
    mesh_heartbeat_s: float = Field(
        5,
        ge=0.2,
        le=300,
        description="How often a node says that it lives; three missed, it is gone.",
    )
    mesh_listen: str = Field(
        "", description="HOST:PORT where nodes elsewhere join over TLS; empty = this home's only."
    )
    mesh_require: str = Field(
        "", description="Layers of the jail without which no guest runs, as `landlock,seccomp`."
    )
    mesh_max_fuel: int = Field(
        10_000_000_000, ge=1, lt=2**53, description="Most fuel that a task may be given."
    )
    mesh_max_wall_s: float = Field(30, gt=0, le=3_600, description="Most seconds; so with it.")
    mesh_max_memory_mb: int = Field(512, ge=1, le=512, description="Most memory of a guest.")
    mesh_carbon: str = Field(
        "",
        description="Grams of CO2e a kWh here: a number, a file (CSV, JSON) or a service's URL.",
    )
    mesh_store_mb: int = Field(
        4_096,
        ge=1,
        description="Inputs and outputs kept; beyond it older tasks go, then none is taken.",
    )
    mesh_retention_days: int = Field(
        30, ge=1, description="Age at which tasks that are over go; ledger and audit stay."
    )

    memory_namespace: str = Field(
        "default", description="Where memories go and are looked for when none is named."
    )
    memory_owner: str = Field("me", description="Whose memories these are.")
    memory_undo_days: int = Field(7, ge=0, description="How long a forgotten memory can come back.")
    cache_ttl_s: float = Field(
        3600, ge=0, description="How long derived values, as vectors of questions, are kept."
    )
    memory_exact_max: int = Field(
        50_000, ge=0, description="Vectors in a namespace from which on chromadb indexes them."
    )
    persona: str = Field("default", description="Who the assistant is when none is named.")
    inject_identity: bool = Field(True, description="Tell a session who it is and what holds.")
    inject_memories: bool = Field(True, description="Tell a prompt the memories that fit it.")
    inject_checkpoints: bool = Field(True, description="Checkpoint before compaction and at end.")
    inject_max_tokens: int = Field(600, gt=0, description="Most tokens of memories for a prompt.")
    inject_min_relevance: float = Field(
        0.5, ge=0, le=1, description="Least relevance of a memory that is told unasked."
    )
    inject_thinking: bool = Field(
        False, description="Tell a prompt in a line how hard to think, where that is worth it."
    )
    research: bool = Field(
        False, description="Let experimental features run that the user has consented to."
    )
    chroma_url: str | None = Field(
        None, description="A Chroma server; without it chromadb keeps a private folder."
    )

    _from_environment: frozenset[str] = PrivateAttr(default=frozenset())

    def changed(self) -> "list[ChangedSetting]":
        """Return the settings that are not at their default; a secret's value is not shown."""
        return [
            ChangedSetting(
                name=name,
                value=redact(str(value)),
                source="environment" if name in self._from_environment else "config.toml",
            )
            for name in sorted(self.model_fields_set - {"home"})
            if (value := getattr(self, name)) != type(self).model_fields[name].default
        ]

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("http_host", mode="after")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if host not in LOOPBACK:
            raise ValueError(f"only loopback is served: one of {', '.join(sorted(LOOPBACK))}")
        return host

    @field_validator("timezone", mode="after")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        try:
            _ = ZoneInfo(name) if name else None
        except (ZoneInfoNotFoundError, ValueError) as exc:
            raise ValueError("not an IANA time zone; an example is Europe/Vienna") from exc
        return name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the sources: what `read` passes (the environment), then the file."""
        assert isinstance(init_settings, InitSettingsSource)
        given = cast("dict[str, object]", init_settings.init_kwargs)  # pyright: ignore[reportUnknownMemberType]
        home = Path(str(given.get("home", DEFAULT_HOME))).expanduser()
        return (init_settings, TomlConfigSettingsSource(settings_cls, home / "config.toml"))

    @classmethod
    def read(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read `ARSENALE_*` from ENV (default: the process's) and the config file beside it.

        Raises:
            InvalidError: A value or the file does not parse; it names which and where.
        """
        env = os.environ if env is None else env
        given = {
            name: env[key] for name in cls.model_fields if (key := f"{PREFIX}{name.upper()}") in env
        }
        file = Path(given.get("home", DEFAULT_HOME)).expanduser() / "config.toml"
        try:
            settings = cls(**given)  # pyright: ignore[reportArgumentType]
            settings._from_environment = frozenset(given)
            return settings
        except ValidationError as exc:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False)
            )
            raise InvalidError(
                f"settings: {wrong}", hint=f"correct {file} or the variable {PREFIX}..."
            ) from None
        except RecursionError as exc:
            what = f"{file}: it is nested too deeply"
            raise InvalidError(what, hint="correct the file, or move it away") from exc
        except ValueError as exc:  # tomllib.TOMLDecodeError
            raise InvalidError(f"{file}: {exc}", hint="correct the file, or move it away") from exc
        except OSError as exc:
            raise InvalidError(f"{file}: {exc.strerror}", hint="make it readable") from exc


def forget_environment() -> None:
    """Take every `ARSENALE_*` out of our environment: for what must touch no real data."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


@contextmanager
def temporary_files_in(folder: Path) -> Generator[None]:
    """Let this process and those that it starts make their temporary files in FOLDER."""
    before, folder_before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = folder_before
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def one_thread_for_math() -> None:
    """Let numpy, when it is loaded after this, compute in one thread.

    A product of a few milliseconds gains nothing from a second one, which then spins: twice the
    CPU time for the same answer.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def child_environment(home: Path) -> dict[str, str]:
    """Return the environment for a process of ours: this one's, with HOME as `ARSENALE_HOME`."""
    return {**os.environ, f"{PREFIX}HOME": str(home)}


KEPT = ("HOME", "PATH", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV")
KEPT_PREFIXES = ("ARSENALE_", "LC_", "XDG_", "CUDA_", "GGML_", "OMP_")
"""What a process that serves everybody inherits of who started it: no keys of a session."""


def plain_environment(home: Path) -> dict[str, str]:
    """Return the environment for a process that outlives this one: no more than it needs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(KEPT_PREFIXES)
    }
    return {**kept, f"{PREFIX}HOME": str(home)}


CHOSEN_PREFIXES = ("PG", "SSL_CERT_")
"""What a daemon that a person starts inherits besides: how databases and services are reached."""


def chosen_environment(home: Path) -> dict[str, str]:
    """Return the environment for a daemon that a person starts, with the settings in it."""
    chosen = {k: value for k, value in os.environ.items() if k.startswith(CHOSEN_PREFIXES)}
    return {**plain_environment(home), **chosen}


def cache_folder() -> Path:
    """Return where that lies which can be made again: `$XDG_CACHE_HOME/arsenale`."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given or Path.home() / ".cache") / "arsenale"


def build_flags() -> dict[str, str]:
    """Return the variables by which people choose how a native library is built."""
    return {name: os.environ.get(name, "") for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS")}


def process_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a tool that is run once: this one's, with MORE on top."""
    return {**os.environ, **more}
