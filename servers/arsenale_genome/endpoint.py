"""Where the inference sidecar answers: what is configured, else the local one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arsenale_core import endpoints, sidecar
from arsenale_core.config import Settings
from arsenale_core.errors import UnavailableError
from arsenale_core.sidecar import Address

START = "start it with `arsenale inference up`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        url: Without `/v1` and without a slash at the end.
        headers: With the bearer token, where there is one.
        hint: What to do when it does not answer.
    """

    url: str
    headers: dict[str, str]
    hint: str

    @property
    def is_local(self) -> bool:
        """Say whether it is on this machine, where no proxy is asked."""
        return endpoints.is_loopback(self.url)


def resolved(settings: Settings, start: Callable[[Path], Address] = sidecar.ensure) -> Endpoint:
    """Return the endpoint of `inference_url`, else the local sidecar; blocks while that starts.

    Raises:
        UnavailableError: The sidecar cannot be started.
        InvalidError: The address is none.
    """
    if settings.inference_url:
        key = settings.inference_key.get_secret_value() if settings.inference_key else None
        url = _base(settings.inference_url)
        return Endpoint(
            url=url,
            headers=endpoints.bearer(url, key),
            hint="check `inference_url` and `inference_key`, and that it runs",
        )
    found = sidecar.address(settings.home) or start(settings.home)
    return Endpoint(url=_base(found.url), headers=found.headers, hint=START)


def none_runs(home: Path) -> Address:
    """Stand in for what starts a sidecar, where none is to be started.

    Raises:
        UnavailableError: Always.
    """
    raise UnavailableError(f"no sidecar of {home} runs", hint=START)


def _base(url: str) -> str:
    return endpoints.checked(url).removesuffix("/v1")
