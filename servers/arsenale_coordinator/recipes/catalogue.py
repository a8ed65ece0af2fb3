"""Where recipes lie: a folder of JSON files, and those that come with Arsenale."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from arsenale_coordinator.recipes import planning, schema
from arsenale_coordinator.recipes.schema import Recipe
from arsenale_core.errors import ArsenaleError, InvalidError, NotFoundError, UnavailableError
from arsenale_core.files import make_private

MOST = 1_000
"""Files that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A recipe that can be run by its name, or a file that is none, and why."""

    name: str
    description: str
    inputs: tuple[str, ...]
    file: str
    fault: str = ""


class Catalogue:
    """The recipes of a home. A file is read when it is asked for, so what is edited counts at once.

    Args:
        folder: `ARSENALE_HOME/recipes`; a file is called `NAME.json`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[Entry]:
        """Return all recipes by name, the user's own before those that come along."""
        found: dict[str, Entry] = {}
        for path in [*self._own(), *_shipped()]:
            found.setdefault(path.stem, _entry(path))
        return sorted(found.values(), key=lambda entry: entry.name)

    def get(self, name: str) -> Recipe:
        """Return the recipe called NAME.

        Raises:
            NotFoundError: There is none.
            InvalidError: Its file is wrong; what and where.
        """
        for path in [*self._own(), *_shipped()]:
            if path.stem == name:
                return _read(path)
        near = ", ".join(entry.name for entry in self.entries()[:20]) or "none yet"
        raise NotFoundError("recipe", name, hint=f"there are: {near}")

    def save(self, recipe: Recipe) -> Path:
        """Write RECIPE into the folder, in place of one of its name; return the file.

        Raises:
            UnavailableError: It cannot be written.
        """
        file = self.folder / f"{recipe.name}.json"
        fresh = file.with_suffix(".new")
        try:
            make_private(self.folder)
            fresh.touch(mode=0o600)
            fresh.write_text(schema.dumped(recipe, indent=2) + "\n", encoding="utf-8")
            fresh.replace(file)
        except OSError as exc:
            raise UnavailableError(f"{file}: {exc.strerror}", hint="make it writable") from exc
        return file

    def _own(self) -> list[Path]:
        try:
            return sorted(self.folder.glob("*.json"))[:MOST]
        except OSError:
            return []


def _shipped() -> list[Path]:
    folder = Path(str(resources.files("arsenale_coordinator"))) / "recipes" / "library"
    return sorted(folder.glob("*.json"))


def _read(path: Path) -> Recipe:
    try:
        recipe = schema.parse(path.read_bytes())
    except OSError as exc:
        raise UnavailableError(f"{path}: {exc.strerror}", hint="make it readable") from exc
    except InvalidError as exc:
        raise InvalidError(f"{path.name}: {exc.what}", hint=exc.hint) from exc
    if recipe.name != path.stem:
        raise InvalidError(
            f"{path.name} holds a recipe called {recipe.name!r}", hint="let both be the same"
        )
    planning.check(recipe)
    return recipe


def _entry(path: Path) -> Entry:
    try:
        recipe = _read(path)
    except ArsenaleError as exc:
        return Entry(name=path.stem, description="", inputs=(), file=str(path), fault=str(exc))
    return Entry(
        name=recipe.name, description=recipe.description, inputs=tuple(recipe.inputs),
        file=str(path),
    )  # fmt: skip
