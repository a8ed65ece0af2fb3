"""A job for each parser of foreign bytes: honest seeds, and what must hold for every input.

Every job promises what `running` checks: errors of ours only, at most 2 s, bounded memory. What it
promises beyond that stands in its docstring.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mcp.server import MCPServer
from safetensors.numpy import save  # pyright: ignore[reportUnknownVariableType]
from tests.fuzz.streams import Bytes

from arsenale_coordinator.recipes import schema
from arsenale_core import wire
from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError
from arsenale_core.lora.adapters import Adapter, Factors
from arsenale_core.lora.gguf_files import header_of, read_adapter, read_base, write_adapter
from arsenale_core.lora.peft_files import read_peft
from arsenale_core.trust import FILE, Trust
from arsenale_genome import bundle
from arsenale_inference.tiny.card import BASE, FOLDER
from arsenale_memory import claude_files, formats, identity_files, imports
from arsenale_memory.record import Labels, Source, Version
from arsenale_mesh import guests, links, receipts
from arsenale_mesh.canonical import digest
from arsenale_mesh.identity import Identity
from arsenale_mesh.sandbox.imports import IMPORTS
from arsenale_mesh.sandbox.scan import scan
from arsenale_mesh.verification.exported import Exported, pack, unpack
from arsenale_relay import session_start
from arsenale_relay.inflight import InFlight
from arsenale_telemetry import spool
from arsenale_telemetry.normalise import Capture, normalise


@dataclass(frozen=True, slots=True)
class Job:
    """Honest inputs, and what is done with each changed one; it raises where a promise breaks."""

    seeds: Sequence[bytes]
    attack: Callable[[bytes], None]


IDENTITY = b"""name = "Ada"
class = "developer"
namespace = "user/ada"
rules = ["Be brief.", 'Say "no" when it is no.']
core_memories = [
  "One", # a comment
  "Two",
]
[facts]
city = "Vienna"
born = 1979-05-27
[facts.more]
numbers = [1, 2.5, 0x10]
"""


def identity(folder: Path) -> Job:
    """A value that is returned has the type that its key needs, and every problem is one line."""

    def attack(data: bytes) -> None:
        values, problems = identity_files.parse(folder / "identity.toml", data)
        for key, value in values.items():
            assert isinstance(value, identity_files.KNOWN[key]), key
        assert all("\n" not in str(problem) for problem in problems)

    return Job((IDENTITY, IDENTITY.replace(b"\n", b"\r\n"), b"name = 'x'\n<<<<<<< a\n"), attack)


def trust(folder: Path) -> Job:
    """A damaged file approves nothing by accident, and a new approval always counts."""

    def attack(data: bytes) -> None:
        (folder / FILE).write_bytes(data)
        kept = Trust(folder)
        assert not kept.holds(folder / "never", b"seen")
        kept.approve(folder / "x", b"content")
        assert kept.holds(folder / "x", b"content")

    return Job((json.dumps({"files": {"/p/identity.toml": "0" * 64}}).encode(), b"{}"), attack)


def _receipt(**changes: Any) -> receipts.Receipt:
    node = Identity(Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
    limits = receipts.Limits(memory_bytes=2**29, fuel=10**10, wall_ms=30_000, output_bytes=2**20)
    said: dict[str, Any] = {
        "task": "t1", "nonce": "n1", "module": digest(b"m"), "function": "run",
        "input": digest(b"i"), "output": digest(b"o"), "seed": 7, "clock_us": 0, "limits": limits,
        "status": "ok", "fuel": 123_456, "slice_fuel": 10**8, "slices": 1, "trace": digest(b"t"),
        "engine": "wasmtime 50.0.1 cranelift 0", "node": node.did, "started_us": 1, "ended_us": 2,
    }  # fmt: skip
    return receipts.sign(receipts.Body(**(said | changes)), node)


def receipt(folder: Path) -> Job:
    """What is read is printed and read again as the same; its texts are printable."""
    whole = pack(Exported(receipt=_receipt(), leaves=(b"\1" * 32,), module=b"m", input=b"i"))

    def attack(data: bytes) -> None:
        found = unpack(data)
        assert unpack(pack(found)) == found
        body = found.receipt.body
        texts = (body.task, body.nonce, body.function, body.engine, body.node, body.status)
        assert all(text.isprintable() for text in texts)
        receipts.problems(found.receipt)

    return Job((whole, orjson.dumps(_receipt(status="trap").plain())), attack)


def genome(folder: Path) -> Job:
    """An archive that is opened has the members that its manifest names."""
    layer, sha = b"layer", sha256(b"layer").hexdigest()
    said = {
        "arsenale_genome": 1,
        "genome": {"name": "ahab", "base": "b", "layers": [{"layer": "facts", "weight": 0.5}],
                   "generation": 0},
        "layers": [{"name": "facts", "trait": "tone_and_voice", "base": "b", "sha256": sha,
                    "size_bytes": len(layer)}],
        "members": {bundle.member(sha): sha},
    }  # fmt: skip
    seeds = [_zipped({bundle.MANIFEST: orjson.dumps(said), bundle.member(sha): layer})]
    path = folder / "x.genome"

    def attack(data: bytes) -> None:
        if data[:1] == b"{":  # a changed manifest in an honest archive
            data = _zipped({bundle.MANIFEST: data, bundle.member(sha): layer})
        path.write_bytes(data)
        archive, found = bundle.opened(path)
        with archive:
            assert set(archive.namelist()) == {bundle.MANIFEST, *found.members}
            assert bundle.genome_in(found, 1).name == found.genome.name

    return Job((*seeds, orjson.dumps(said), orjson.dumps(said)), attack)


def _zipped(members: dict[str, bytes]) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, bundle.EPOCH), content)
    return file.getvalue()


def _adapter() -> Adapter:
    chance = np.random.default_rng(1)
    matrix = {"blk.0.attn_q.weight": (8, 8), "blk.1.ffn_down.weight": (8, 16)}
    return Adapter(
        architecture="llama", alpha=8.0, name="mine",
        factors={name: Factors(a=chance.standard_normal((2, wide)).astype(np.float32),
                               b=chance.standard_normal((out, 2)).astype(np.float32))
                 for name, (out, wide) in matrix.items()},
    )  # fmt: skip


def gguf(folder: Path) -> Job:
    """An adapter that is read has finite numbers; a base and a header never cost the process."""
    path = folder / "x.gguf"
    write_adapter(_adapter(), path)
    honest = path.read_bytes()
    head = (FOLDER / BASE).read_bytes()[:40_000]

    def attack(data: bytes) -> None:
        path.write_bytes(data)
        header_of(path)
        if data[:200].find(b"adapter") < 0:
            read_base(path)
        else:
            adapter = read_adapter(path)
            assert all(np.isfinite(pair.a).all() for pair in adapter.factors.values())

    return Job((honest, honest, head), attack)


PEFT: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none",
        "target_modules": ["q_proj"],
        "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "lora_dropout": 0.05,
        "modules_to_save": None, "fan_in_fan_out": False, "task_type": "CAUSAL_LM"}  # fmt: skip


def _peft(folder: Path) -> bytes:
    tensors: dict[str, Any] = {}
    for half, shape in (("A", (2, 192)), ("B", (192, 2))):
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"
        tensors[name] = np.ones(shape, np.float32)
    (folder / "adapter_config.json").write_text(json.dumps(PEFT), encoding="utf-8")
    content: bytes = save(tensors)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return content


def peft(folder: Path) -> Job:
    """A configuration that is read gives finite numbers."""
    _peft(folder)
    base = read_base(FOLDER / BASE)

    def attack(data: bytes) -> None:
        (folder / "adapter_config.json").write_bytes(data)
        adapter = read_peft(folder, base)
        assert np.isfinite(adapter.alpha)

    patterns = PEFT | {"alpha_pattern": {"q_proj": 8}, "rank_pattern": {"layers.0": 2}}
    return Job((json.dumps(PEFT).encode(), json.dumps(patterns).encode()), attack)


def safetensors(folder: Path) -> Job:
    """Tensors that are read have finite numbers."""
    content = _peft(folder)
    base = read_base(FOLDER / BASE)
    [size] = struct.unpack("<Q", content[:8])
    head, numbers = content[8 : 8 + size], content[8 + size :]

    def attack(data: bytes) -> None:
        if data[:1] == b"{":  # a changed head with its right length
            data = struct.pack("<Q", len(data)) + data + numbers
        (folder / "adapter_model.safetensors").write_bytes(data)
        adapter = read_peft(folder, base)
        assert all(np.isfinite(pair.b).all() for pair in adapter.factors.values())

    return Job((content, head.strip(), head.strip()), attack)


REQUESTS = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26",'
    b'"capabilities":{},"clientInfo":{"name":"x","version":"1"}}}',
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
    b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"recall","arguments":{}}}',
    b'[{"jsonrpc":"2.0","id":5,"method":"ping"},{"jsonrpc":"2.0","method":"x"}]',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}',
)


def relay(folder: Path) -> Job:
    """What the relay answers a host, and sends on, is one line of JSON."""
    started = b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-03-26"}}'

    def attack(data: bytes) -> None:
        session = InFlight()
        for line in (REQUESTS[0] + b"\n", *(line + b"\n" for line in data.split(b"\n")[:200])):
            passed, answer = session.arrived(line)
            for out in (answer, *(sent for sent, _ in passed)):
                assert out.count(b"\n") <= 1, out[:80]
                json.loads(out or b"null")
            for sent, message in passed:
                session.sent(sent, message)
            if line.startswith(REQUESTS[0]):
                session.received(started)
        for line in data.split(b"\n")[:50]:
            session.received(line)
        session.lost("gone")
        session.give_up("gone")

    return Job((b"\n".join(REQUESTS), *REQUESTS, started), attack)


def messages(folder: Path) -> Job:
    """The connection outlives every line, and what it answers is JSON."""
    server: MCPServer[Any] = MCPServer("fuzz")

    async def serve(data: bytes) -> None:
        chunks = [data[i : i + 700] for i in range(0, min(len(data), 70_000), 700)]

        async def receive(_: int) -> bytes:
            return chunks.pop(0) if chunks else b""

        async def send(line: bytes) -> None:
            json.loads(line)

        await wire.serve_lines(server, wire.read_lines(receive, 50_000), send, wire.Traffic())

    def attack(data: bytes) -> None:
        try:
            anyio.run(serve, data + b"\n")
        except* InvalidError as exc:
            raise InvalidError("a line is too long") from exc

    return Job((b"\n".join(REQUESTS[:3]), *REQUESTS), attack)


EVENTS = (
    b'{"session_id":"s","hook_event_name":"PreToolUse","tool_name":"Bash","tool_use_id":"t1",'
    b'"cwd":"/p","tool_input":{"command":"ls"}}\n',
    b'{"session_id":"s","hook_event_name":"PostToolUse","tool_name":"mcp__memory__recall",'
    b'"tool_input":{"a":[1,2]},"tool_response":{"is_error":true,"content":[{"text":"no"}]},'
    b'"duration_ms":12.5}\n',
    b'{"conversation_id":"c","hook_event_name":"afterMCPExecution","result_json":"{\\"a\\":1}"}\n',
)


def events(folder: Path) -> Job:
    """An honest event is never lost, and whatever is stored is text that UTF-8 can write."""

    def attack(data: bytes) -> None:
        found, _ = spool.documents(data)
        for raw in found:
            for level in ("minimal", "summary", "bodies"):
                event = normalise(raw, at_us=1, origin="o", capture=Capture(level=level))
                event.kind.encode()
                event.session.encode()
        try:
            honest = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        assert not isinstance(honest, dict) or found == [honest]

    return Job((b"".join(EVENTS), *EVENTS), attack)


def _version(number: int) -> Version:
    return Version(
        uid="4c53a1f0-0000-4000-8000-000000000001", number=number, namespace="user/ada",
        owner="ada", kind="note", content="A fact.\n\nMore of it.", subject="facts", session="s",
        importance=0.5, labels=Labels(tags=("a", "b")), source=Source(via="cli", host=None),
        recalled=False, created_us=1, written_us=2, valid_from_us=3, valid_to_us=None,
        ended_us=None, ended=None,
    )  # fmt: skip


def memories(folder: Path) -> Job:
    """What is read as ours is printed and read again as the same."""
    graph = (
        b'{"type":"entity","name":"Ada","entityType":"person","observations":["codes"]}\n'
        b'{"type":"relation","from":"Ada","to":"Bob","relationType":"knows"}\n'
    )

    def attack(data: bytes) -> None:
        for found in formats.jsonl_in(data.decode(errors="replace").splitlines()):
            if isinstance(found, formats.Item) and found.versions:
                again = list(formats.jsonl_in(formats.jsonl_out([found.versions])))
                assert len(again) == 1 and isinstance(again[0], formats.Item)
                assert sorted(again[0].versions, key=_number) == sorted(found.versions, key=_number)

    ours = "".join(formats.jsonl_out([[_version(1), _version(2)]])).encode()
    return Job((ours, graph, ours + graph), attack)


def _number(version: Version) -> int:
    return version.number


def notes(folder: Path) -> Job:
    """A note of ours is printed and read again as the same."""

    def attack(data: bytes) -> None:
        found = formats.markdown_in("a/b.md", data.decode(errors="replace"))
        if found.versions:
            name, text = formats.markdown_out(found.versions)
            assert formats.markdown_in(name, text).versions == found.versions

    _, ours = formats.markdown_out([_version(1), _version(2)])
    obsidian = b"---\ntags: [a, b]\ncreated: 2024-01-01\naliases:\n  - x\n---\n# Title\ntext\n"
    fields = json.dumps(formats.version_out(_version(1)) | {"history": []}).encode()
    title = b'{"title": "T", "tags": ["a"], "date": "2024-01-01"}'
    seeds = (ours.encode(), obsidian, b"---\n%s\n---\ntext\n" % fields, b"---\n%s\n---\nx" % title)
    return Job(seeds, attack)


def claude(folder: Path) -> Job:
    """A memory file and a transcript give items or reasons."""

    def attack(data: bytes) -> None:
        text = data.decode(errors="replace")
        list(claude_files.memory_file("CLAUDE.md", text))
        list(claude_files.transcript(text.splitlines()))

    said = (
        b'{"type":"user","sessionId":"s","timestamp":"2026-01-01T00:00:00Z","cwd":"/p",'
        b'"message":{"role":"user","content":[{"type":"text","text":"hello"}]}}\n'
    )
    return Job((b"# Head\n\n- one\n- two\n  more\n\n## Sub\n\ntext\n", said), attack)


def at_imports(folder: Path) -> Job:
    """Nothing outside of the folder is taken in."""
    inside, outside = folder / "in", folder / "out.md"
    inside.mkdir()
    outside.write_text("OUTSIDE-SECRET", encoding="utf-8")
    (inside / "b.md").write_text("b imports @CLAUDE.md and @../out.md", encoding="utf-8")
    (inside / "link.md").symlink_to(outside)

    def attack(data: bytes) -> None:
        (inside / "CLAUDE.md").write_bytes(data)
        assert "OUTSIDE-SECRET" not in imports.resolve(inside / "CLAUDE.md", [inside]).text

    text = b"See @b.md and `@b.md`, @link.md, @../out.md.\n\n```\n@b.md\n```\n<!-- @b.md -->\n"
    return Job((text, b"@b.md\n    @b.md\n- @./b.md, @~/x @/etc/passwd"), attack)


def wasm(folder: Path) -> Job:
    """A module is described or refused before anything compiles it."""

    def attack(data: bytes) -> None:
        scan(data, IMPORTS)

    return Job(tuple(guests.module(each.name) for each in guests.READY_MADE), attack)


RECIPE = {
    "name": "review", "description": "d", "inputs": {"n": {"type": "number", "default": 1}},
    "steps": [
        {"id": "a", "tool": "memory.recall", "with": {"q": "{{ inputs.n }}"},
         "retry": {"attempts": 2}},
        {"id": "b", "value": {"x": "{{ steps.a }}"}, "when": "{{ inputs.n }}"},
        {"id": "c", "sleep_s": 1}, {"id": "d", "ask": "Go on?"},
    ],
}  # fmt: skip


def recipe(folder: Path) -> Job:
    """A recipe that is read is printed and read again as the same."""

    def attack(data: bytes) -> None:
        found = schema.parse(data)
        assert schema.parse(schema.dumped(found)) == found

    small = {"name": "small", "steps": [{"id": "b", "value": {"x": [1]}}]}
    return Job((json.dumps(small).encode(), json.dumps(RECIPE).encode()), attack)


def config(folder: Path) -> Job:
    """A file of settings is read or refused; it is the user's own, so no more than 5 kB of it."""
    text = b'embedder = "static"\ntimezone = "Europe/Vienna"\nport = 8080\nlog_level = "info"\n'

    def attack(data: bytes) -> None:
        (folder / "config.toml").write_bytes(data[:5_000])
        Settings.read({"ARSENALE_HOME": str(folder)})

    return Job((text,), attack)


def session_starts(folder: Path) -> Job:
    """A kept text is of its project, or it is not used."""
    home, project = str(folder), str(folder / "project")
    session_start.write(home, project, "hello", 5)
    path = Path(session_start.file_of(home, project))

    def attack(data: bytes) -> None:
        path.write_bytes(data)
        (path.parent / session_start.STAMP).write_bytes(data[:40])
        assert isinstance(session_start.read(home, project), str | None)
        assert session_start.projects(home) in ([], [project])

    return Job((path.read_bytes(), b"12345"), attack)


def node(folder: Path) -> Job:
    """A message that a node sends is read, printed and read again as the same."""

    async def receive(data: bytes) -> links.Message:
        return await links.StreamLink(Bytes(data), links.Way(local=True)).receive()

    def attack(data: bytes) -> None:
        if data[:1] == b"{":
            data = struct.pack(">I", len(data)) + data + b"blob"
        found = anyio.run(receive, data)
        assert anyio.run(receive, links.pack(found)) == found

    whole = links.pack(links.Message(kind="result", body={"task": "t", "n": 1}, blobs=(b"blob",)))
    return Job((whole, b'{"kind":"hello","body":{"version":"1"},"blobs":[4]}'), attack)


JOBS: dict[str, Callable[[Path], Job]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        identity, trust, receipt, genome, gguf, peft, safetensors, relay, messages, events,
        memories, notes, claude, at_imports, wasm, recipe, config, session_starts, node,
    )
}  # fmt: skip
