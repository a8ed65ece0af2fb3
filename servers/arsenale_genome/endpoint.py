"""Where the inference sidecar answers: what is configured, else what it wrote when it started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ValidationError

from arsenale_core.config import LOOPBACK, Settings
from arsenale_core.errors import InvalidError, UnavailableError

START = "start it with `arsenale inference up`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        url: Without `/v1` and without a slash at the end.
        token: Bearer token; empty for none.
        hint: What to do when it does not answer.
    """

    url: str
    token: str
    hint: str

    @property
    def is_local(self) -> bool:
        """Say whether it is on this machine, where no proxy is asked."""
        return urlsplit(self.url).hostname in LOOPBACK


class _Written(BaseModel):
    """What the sidecar writes to `run/inference.json`."""

    url: str
    token: str = ""


def resolved(settings: Settings) -> Endpoint:
    """Return the endpoint of `inference_url`, or that of the local sidecar.

    Raises:
        UnavailableError: Nothing is configured and no sidecar has been started.
        InvalidError: The address is none.
    """
    if settings.inference_url:
        key = settings.inference_key.get_secret_value() if settings.inference_key else ""
        return _checked(settings.inference_url, key, "check `inference_url`, and that it runs")
    written = _written(settings.home / "run" / "inference.json")
    return _checked(written.url, written.token, START)


def _written(path: Path) -> _Written:
    try:
        said: Any = orjson.loads(path.read_bytes())
        return _Written.model_validate(said)
    except FileNotFoundError as exc:
        raise UnavailableError("the inference sidecar is not running", hint=START) from exc
    except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
        raise UnavailableError(f"{path} cannot be read", hint=f"remove it, then {START}") from exc


def _checked(url: str, token: str, hint: str) -> Endpoint:
    url = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fits = False
    if not fits:
        raise InvalidError(f"{url!r} is no address of a server", hint="as http://127.0.0.1:8725")
    return Endpoint(url=url, token=token, hint=hint)
