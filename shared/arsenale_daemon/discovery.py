"""Which servers there are: whatever is installed under the entry-point group `arsenale.servers`."""

from importlib.metadata import entry_points

from arsenale_core.errors import NotFoundError
from arsenale_core.surface import ServerSpec

GROUP = "arsenale.servers"
GUARDS = "arsenale.guards"
"""Names those that guard, so that they can be opened before the others."""


def names(group: str = GROUP) -> list[str]:
    """Return the names of the installed servers, sorted; imports none of them."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(name: str) -> ServerSpec:
    """Import the server called NAME.

    Raises:
        NotFoundError: No server of this name is installed.
    """
    for entry in entry_points(group=GROUP, name=name):
        spec = entry.load()
        assert isinstance(spec, ServerSpec), entry
        return spec
    raise NotFoundError("server", name, hint=f"there are {', '.join(names())}")
