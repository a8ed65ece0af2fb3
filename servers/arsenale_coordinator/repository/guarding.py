"""Says why an edit or a commit must wait: another agent holds the file (`arsenale guard`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from anyio import to_thread

from arsenale_coordinator import moments
from arsenale_coordinator.repository import edits, places
from arsenale_coordinator.repository.places import Place
from arsenale_coordinator.repository.rows import Reservation
from arsenale_coordinator.repository.sharing import Repository, Who

SHOWN = 20
"""Files that a refusal names."""

COMMIT = "GitPreCommit"


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses what would change a file that another holds."""

    repository: Repository

    async def refusal(self, event: Mapping[str, object]) -> str | None:
        """Return why EVENT must not happen, or nothing."""
        named = edits.files(event)
        if not named:
            return None
        named_at = await to_thread.run_sync(_places, named, event)
        who = _who(event)
        held: dict[tuple[str, str], tuple[str, Reservation]] = {}
        for project in dict.fromkeys(place.project for place in named_at):
            paths = [place.path for place in named_at if place.project == project]
            for path, one in await self.repository.in_the_way(paths, project, who):
                held.setdefault((named_at[Place(project, path)], one.agent), (path, one))
        found = list(held.values())
        return _told(found, commits=event.get("hook_event_name") == COMMIT) if found else None


def _places(named: Sequence[str], event: Mapping[str, object]) -> dict[Place, str]:
    """Return every place of the files that EVENT names, with the name as it stands there."""
    cwd = str(event.get("cwd") or event.get("project") or "")
    if event.get("hook_event_name") == COMMIT:  # git names paths by its checkout, links unfollowed
        found = places.of_commit(cwd, named)
        return {place: named[i % len(named)] for i, place in enumerate(found)}
    folder = str(event.get("project") or cwd)
    return {
        place: name
        for name in named
        for place in places.of_file(Path(normpath(Path(cwd) / name)), folder)
    }


def _who(event: Mapping[str, object]) -> Who:
    names = ("session_id", "sessionId", "conversation_id", "host_session")
    sessions = (str(event.get(name) or "") for name in names)
    return Who(
        sessions=frozenset(one for one in sessions if one), agent=str(event.get("agent") or "")
    )


def _told(held: Sequence[tuple[str, Reservation]], *, commits: bool) -> str:
    lines = list(dict.fromkeys(_line(path, one) for path, one in held))
    first = held[0][1]
    what = "This commit" if commits else "This edit"
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    advice = (
        f"{what} was not made. Ask {first.agent} with `exchange_messages`, wait until then, or work"
        " on other files; do not write the file by other means."
    )
    if any(not one.session for _, one in held):
        advice += f" Who is {first.agent} says so with ARSENALE_AGENT={first.agent}."
    return "\n".join([*lines[:SHOWN], *more, advice])


def _line(path: str, one: Reservation) -> str:
    pattern = f" ({one.pattern})" if one.pattern != path else ""
    reason = f": {one.reason}" if one.reason else ""
    return f"{path} is held by {one.agent}{pattern} until {moments.told(one.until_us)}{reason}"
