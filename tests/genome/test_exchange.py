"""Genomes as files: the same bytes anywhere, nothing kept that was not verified."""

import struct
import zipfile
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp import Client

from arsenale_genome.opening import Services

Call = Callable[..., Awaitable[Any]]
Refusal = Callable[..., Awaitable[str]]
Elsewhere = Callable[[], Awaitable[tuple[Call, Refusal]]]


@pytest.fixture
async def exported(two_layers: Call, own_home: Path) -> Path:
    """A file with the genome `ahab` of both layers."""
    await two_layers("create_genome", name="first", layers=[{"layer": "facts"}])
    await two_layers("create_genome", name="second", layers=[{"layer": "tone", "weight": 0.5}])
    await two_layers("create_genome", name="ahab", parents=["first", "second"],
                     instructions="Be brief.", description="a captain")  # fmt: skip
    done = await two_layers("exchange_genome", action="export", genome="ahab")
    assert done["path"] == str(own_home / "exports" / "ahab.genome")
    return Path(done["path"])


@pytest.fixture
async def stranger(tmp_path: Path, exported: Path, open_server: Any, call_of: Any) -> Any:
    """Another user's server, with the exported file in its folder of exports."""
    home = tmp_path / "stranger"
    (home / "exports").mkdir(parents=True)
    (home / "exports" / "ahab.genome").write_bytes(exported.read_bytes())
    environment = {"ARSENALE_HOME": str(home), "ARSENALE_EMBEDDER": "static"}
    async with open_server(environment) as (_, client):
        yield home, call_of(client), client


async def refused(client: Client, path: Path) -> str:
    """Import PATH, which is to be refused, and return what is said; nothing may be kept."""
    done = await client.call_tool("exchange_genome", {"action": "import", "path": str(path)})
    assert done.is_error, done.structured_content
    seen = await client.call_tool("find_layers", {})
    assert seen.structured_content and seen.structured_content["total"] == 0
    assert [each for each in (path.parents[1] / "artifacts").rglob("*") if each.is_file()] == []
    return str(getattr(done.content[0], "text", ""))


async def test_what_is_exported_comes_in_elsewhere_as_it_was(stranger: Any) -> None:
    home, call, _ = stranger
    done = await call(
        "exchange_genome", action="import", path=str(home / "exports" / "ahab.genome")
    )
    assert (done["genome"], done["layers"]) == ("ahab", ["facts", "tone"])
    seen = await call("inspect", name="ahab", detail="full", check=True)
    assert "problems" not in seen
    genome = seen["genome"]
    assert [(row["layer"], row["weight"]) for row in genome["layers"]] == [
        ("facts", 1.0), ("tone", 0.5),
    ]  # fmt: skip
    assert (genome["instructions"], genome["generation"]) == ("Be brief.", 1)
    assert genome["lineage"][1:] == [
        "├── first (not here) (generation 0)", "└── second (not here) (generation 0)",
    ]  # fmt: skip
    facts = (await call("inspect", name="facts", detail="full"))["layer"]
    assert (facts["licence"], facts["permission"], len(facts["rehearsal"])) == ("MIT", "public", 12)


async def test_the_same_genome_makes_the_same_bytes(stranger: Any, exported: Path) -> None:
    home, call, _ = stranger
    await call("exchange_genome", action="import", path=str(home / "exports" / "ahab.genome"))
    again = home / "exports" / "again.genome"
    done = await call("exchange_genome", action="export", genome="ahab", path=str(again))
    assert again.read_bytes() == exported.read_bytes()
    assert done["size_bytes"] == exported.stat().st_size


async def test_importing_twice_changes_nothing(stranger: Any) -> None:
    home, call, _ = stranger
    arguments = {"action": "import", "path": str(home / "exports" / "ahab.genome")}
    await call("exchange_genome", **arguments)
    done = await call("exchange_genome", **arguments)
    assert "here already, as 'ahab'" in done["hint"]
    assert (await call("find_layers", kind="genome"))["total"] == 1


async def test_an_import_mends_a_layer_that_is_damaged_here(
    two_layers: Call, exported: Path
) -> None:
    path = Path((await two_layers("inspect", name="tone", detail="full"))["layer"]["path"])
    path.unlink()
    done = await two_layers("exchange_genome", action="import", path=str(exported))
    assert (done["mended"], "here already" in done["hint"]) == (["tone"], True)
    assert "problems" not in await two_layers("inspect", check=True)


async def test_a_name_that_is_taken_gets_a_number_or_is_refused(stranger: Any) -> None:
    home, call, client = stranger
    path = str(home / "exports" / "ahab.genome")
    await call("create_genome", name="ahab", base="tiny")
    said = await client.call_tool(
        "exchange_genome", {"action": "import", "path": path, "on_conflict": "refuse"}
    )
    assert "ahab is here already" in said.content[0].text
    done = await call("exchange_genome", action="import", path=path)
    assert (done["genome"], done["renamed"]) == ("ahab-2", {"ahab": "ahab-2"})


async def test_a_layer_that_is_here_is_used_as_it_is_here(two_layers: Call, exported: Path) -> None:
    await two_layers("revise", kind="layer", name="facts", new_name="ports")
    await two_layers("revise", kind="genome", name="ahab", action="delete")
    done = await two_layers("exchange_genome", action="import", path=str(exported))
    assert done["layers"] == ["ports", "tone"]
    assert done["reused"] == ["ports", "tone"]
    full = (await two_layers("inspect", name=done["genome"], detail="full"))["genome"]
    assert "├── first (generation 0)" in full["lineage"]


async def test_a_private_layer_leaves_only_when_that_is_asked_for(
    two_layers: Call, refusal: Refusal, exported: Path
) -> None:
    await two_layers("revise", kind="layer", name="facts", permission="private")
    arguments = {"action": "export", "genome": "ahab", "path": str(exported.with_name("b.genome"))}
    assert "layer 'facts' is private" in await refusal("exchange_genome", **arguments)
    assert not exported.with_name("b.genome").exists()
    await two_layers("exchange_genome", **arguments, include_private=True)


async def test_an_export_replaces_nothing_and_stays_inside(
    two_layers: Call, refusal: Refusal, exported: Path, tmp_path: Path
) -> None:
    what = {"action": "export", "genome": "ahab"}
    assert "name another path" in await refusal("exchange_genome", **what)
    said = await refusal("exchange_genome", **what, path=str(tmp_path / "x.genome"))
    assert "lies outside of" in said
    assert "needs a `genome`" in await refusal("exchange_genome", action="export")
    assert "needs a `path`" in await refusal("exchange_genome", action="import")
    said = await refusal("exchange_genome", action="import", path=str(exported.with_name("no")))
    assert "no file" in said


async def test_a_damaged_layer_is_not_exported(
    two_layers: Call, refusal: Refusal, exported: Path, services: Services
) -> None:
    full = (await two_layers("inspect", name="facts", detail="full"))["layer"]
    Path(full["path"]).write_bytes(b"nothing")
    said = await refusal(
        "exchange_genome", action="export", genome="ahab", path=str(exported) + "2"
    )
    assert "layer 'facts': its file" in said


def repacked(path: Path, **changes: Any) -> None:
    """Write the archive PATH anew: MANIFEST edited, members added, renamed, packed, doubled."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    manifest = orjson.loads(members["manifest.json"])
    if "edit" in changes:
        changes["edit"](manifest, members)
    members["manifest.json"] = changes.get("raw") or orjson.dumps(manifest)
    kind = zipfile.ZIP_DEFLATED if changes.get("packed") else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as new:
        for name, data in members.items():
            new.writestr(name, data)
        for name, data in changes.get("more", {}).items():
            new.writestr(name, data)


def another_hash(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    name = next(each for each in members if each.endswith(".gguf"))
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def no_layer(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    """Put a file in that is what the manifest says, but no layer."""
    data = b"GGUF" + b"\0" * 100
    sha = sha256(data).hexdigest()
    old = manifest["layers"][0]["sha256"]
    manifest["layers"][0] |= {"sha256": sha, "size_bytes": len(data)}
    del members[f"layers/{old}.gguf"], manifest["members"][f"layers/{old}.gguf"]
    members[f"layers/{sha}.gguf"] = data
    manifest["members"][f"layers/{sha}.gguf"] = sha


def path_out(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    [old, *_] = manifest["members"]
    members["../../evil.gguf"] = members.pop(old)
    manifest["members"]["../../evil.gguf"] = manifest["members"].pop(old)


def missing(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    del members[next(iter(manifest["members"]))]


def newer(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["arsenale_genome"] = 2


def heavier(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["genome"]["layers"][0]["weight"] = 7


def stranger_word(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["genome"]["run"] = "rm -rf"


def bad_name(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["genome"]["name"] = "../../etc"


def unplaced(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest["genome"]["layers"].pop()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edit": another_hash}, "is damaged: SHA-256"),
        ({"edit": no_layer}, "facts"),
        ({"edit": path_out}, "members and layers differ"),
        ({"edit": missing}, "is missing or not meant"),
        ({"edit": newer}, "schema 2, this version knows 1"),
        ({"edit": heavier}, "genome.layers.0.weight"),
        ({"edit": stranger_word}, "genome.run"),
        ({"edit": bad_name}, "genome.name"),
        ({"edit": unplaced}, "the genome and its layers differ"),
        ({"packed": True}, "is packed"),
        ({"more": {"../../evil": b"x"}}, "'../../evil' is missing or not meant"),
        ({"more": {f"{n}": b"" for n in range(30)}}, "33 members, too many"),
        ({"more": {"folder/": b""}}, "is no plain file"),
        ({"raw": b"[" * 100_000}, "damaged"),
        ({"raw": b"[]"}, "schema"),
        ({"raw": b"{}" + b" " * 5 * 2**20}, "no manifest.json that could be read"),
    ],
)
@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_a_hostile_file_is_refused_and_leaves_nothing(
    changes: dict[str, Any], said: str, stranger: Any
) -> None:
    home, _, client = stranger
    path = home / "exports" / "ahab.genome"
    repacked(path, **changes)
    assert said in await refused(client, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_members_that_are_there_twice_or_overlap_are_refused(stranger: Any) -> None:
    home, _, client = stranger
    path = home / "exports" / "ahab.genome"
    whole = path.read_bytes()
    repacked(path, more={"manifest.json": b"{}"})
    assert "is there twice" in await refused(client, path)
    with zipfile.ZipFile(path, "w") as bomb:  # two names of one member's bytes
        bomb.writestr("manifest.json", b"x" * 1000)
        twin = zipfile.ZipInfo("layers/twin")
        twin.file_size = twin.compress_size = 1000
        twin.header_offset, twin.CRC = 0, bomb.infolist()[0].CRC
        bomb.filelist.append(twin)
        bomb.NameToInfo["layers/twin"] = twin
    assert "overlap" in await refused(client, path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "is no genome file" in await refused(client, path)


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_no_byte_of_the_directory_can_be_changed_into_a_crash(stranger: Any) -> None:
    home, _, client = stranger
    path = home / "exports" / "ahab.genome"
    whole = path.read_bytes()
    [start] = struct.unpack("<I", whole[-6:-2])  # where the central directory begins
    for place in (*range(start, len(whole), 3), *range(40)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        done = await client.call_tool("exchange_genome", {"action": "import", "path": str(path)})
        if not done.is_error:  # a byte that says nothing, as a moment
            found = done.structured_content
            assert found and found["layers"] == ["facts", "tone"]


@pytest.mark.parametrize("damage", ["outside", "nameless"])
async def test_an_archive_whose_directory_lies_is_refused(stranger: Any, damage: str) -> None:
    home, _, client = stranger
    path = home / "exports" / "ahab.genome"
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    if damage == "outside":  # the end record says that the directory begins earlier than it does
        end = raw.rindex(b"PK\x05\x06")
        raw[end + 16 : end + 20] = struct.pack("<I", 0xFFFFFFF0)
    else:
        [length] = struct.unpack_from("<H", raw, at + 28)
        raw[at + 28 : at + 34] = struct.pack("<HHH", 0, length, 0)
    path.write_bytes(raw)
    assert "ahab.genome" in await refused(client, path)
