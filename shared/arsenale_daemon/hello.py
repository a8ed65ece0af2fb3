"""The first line on the socket: what a client wants, in types and sizes that are checked."""

from typing import Annotated, Any, Literal, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arsenale_core.errors import InvalidError

Version: TypeAlias = Annotated[str, Field(pattern=r"\A[0-9A-Za-z.+!_-]{1,64}\z")]
Word: TypeAlias = Annotated[str, Field(max_length=100)]
Text: TypeAlias = Annotated[str, Field(max_length=16_384)]
"""Four times the longest path of Linux (`PATH_MAX`), in characters."""

HINT = "use arsenale-stdio or the hooks of this version (`arsenale init` writes them)"


class Hello(BaseModel):
    """Who connects, and what for: a hook, a guard, a control command, or a relay for a server.

    Fields that are not listed are ignored: a newer relay may send more.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    arsenale: Literal[1]
    hook: dict[str, Any] | None = None
    starts: bool = False
    guard: dict[str, Any] | None = None
    control: Literal["status", "stop"] | None = None
    server: Word | None = None
    version: Version | None = None
    session: Text | None = None
    project: Text | None = None


def parse(line: bytes) -> Hello:
    """Return what LINE says.

    Raises:
        InvalidError: It is not a hello; the message names the field, and quotes nothing of it.
    """
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise InvalidError("the first line must be a relay's hello, a JSON object", hint=HINT)
    try:
        return Hello.model_validate(said)
    except ValidationError as exc:
        wrong = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:50] for part in wrong["loc"][:1])
        raise InvalidError(f"invalid hello: {where}: {wrong['msg'][:200]}", hint=HINT) from None


def is_newer(one: str | None, other: str) -> bool:
    """Whether version ONE is newer than OTHER; what is not a number in them does not count."""
    return _numbers(one or "") > _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit())
