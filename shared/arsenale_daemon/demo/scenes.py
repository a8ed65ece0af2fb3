"""The first five scenes of the demo; each shows a before and an after."""

import json
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from arsenale_core import locks
from arsenale_core.errors import UnavailableError
from arsenale_daemon.demo.stage import Stage, run_process
from arsenale_daemon.install import interpreter

PATIENCE_S = 30.0
"""How long a scene waits for what takes a second on an idle machine."""

POLL_S = 0.1

PROMPT = "On which day do we release the inventory service?"
FACT = "We release the inventory service on Tuesdays, after the stock count."


async def memory(stage: Stage) -> None:
    """A fact of one session is provided to the next one's prompt."""
    stage.tell("prompt", f'"{PROMPT}"')
    before = await _provided(stage, "session-1")
    stage.tell("before", before or "Session 1 starts. Nobody knows; the prompt goes out as it is.")
    await stage.call("memory", "remember", session="session-1", memories=[{"content": FACT}])
    stage.tell("", f'In session 1, the assistant stores: "{FACT}"')
    # A prompt waits at most 0.3 s for memory. The first search loads its word vectors.
    await stage.call("memory", "recall", session="session-1", question=PROMPT)
    with _patience("memory does not answer within the 0.3 s of a prompt"):
        attempt = 2
        while not (after := await _provided(stage, f"session-{attempt}")):
            attempt += 1
            await anyio.sleep(POLL_S)
    stage.tell("after", "In the next session the hook adds to the same prompt:")
    stage.tell("", after)


async def _provided(stage: Stage, session: str) -> str:
    """Return the memories that the hook adds to the prompt of SESSION."""
    answer = await stage.hook("inject.py", "UserPromptSubmit", session, prompt=PROMPT)
    lines = str(answer.get("additionalContext", "")).splitlines()
    return "\n".join(line for line in lines if line.startswith("- "))


async def reservation(stage: Stage) -> None:
    """An edit of a file that another agent reserved is refused."""
    file = stage.project / "src" / "stock.py"
    edit: dict[str, Any] = {
        "tool_name": "Edit", "tool_input": {"file_path": str(file), "new_string": "price = 2"},
    }  # fmt: skip
    before = await stage.hook("guard.py", "PreToolUse", "session-of-ben", **edit)
    allowed = "refused" if before else "allowed"
    stage.tell("before", f"Agent ben wants to edit src/stock.py: {allowed}.")
    await stage.call(
        "coordinator", "check_in", session="session-of-ann", agent="ann", description="demo",
        take=False,
    )  # fmt: skip
    reserved = {"action": "reserve", "paths": ["src/stock.py"], "reason": "renaming price to cost"}
    await stage.call(
        "coordinator", "reserve_files", session="session-of-ann", agent="ann", **reserved
    )
    stage.tell("", "Agent ann reserves src/stock.py: renaming price to cost.")
    with _patience("the guard does not get an answer within its 0.3 s"):
        while True:
            after = await stage.hook("guard.py", "PreToolUse", "session-of-ben", **edit)
            if after:
                break
            await anyio.sleep(POLL_S)
    stage.tell("after", "Ben tries again. The guard hook refuses the edit and tells his assistant:")
    stage.tell("", str(after["permissionDecisionReason"]))


STEPS = ("count stock", "pack", "ship", "send bill")


def _order(steps: tuple[str, ...]) -> dict[str, Any]:
    """Return a recipe that sends a letter for each of STEPS and rests in between."""
    made: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        letter = {"action": "send", "agent": "clerk", "to": ["owner"], "subject": step,
                  "body": f"{step}: done"}  # fmt: skip
        made += [
            {"id": f"step{number}", "tool": "coordinator.exchange_messages", "with": letter},
            {"id": f"rest{number}", "sleep_s": 0.5},
        ]
    return {"name": "order", "steps": made[:-1]}


async def recipe(stage: Stage) -> None:
    """A recipe whose process is killed half-way ends, and does each step once."""
    for agent in ("clerk", "owner"):
        await stage.call("coordinator", "check_in", agent=agent, description="demo", take=False)
    stage.tell("before", f"A recipe has {len(STEPS)} steps: {', '.join(STEPS)}.")
    begun = await stage.call(
        "coordinator", "run_recipe", action="run", definition=_order(STEPS), wait_s=0
    )
    run = str(begun["run"])
    killed = await _kill_half_way(stage, run)
    stage.tell("", f"After step 2 its process gets kill -9 (pid {killed}).")
    with _patience("the recipe does not go on"):
        state = ""
        while state not in ("done", "failed", "cancelled"):
            ended = await stage.call(
                "coordinator", "run_recipe", action="status", run=run, wait_s=PATIENCE_S
            )
            state = str(ended["state"])
    inbox = await stage.call("coordinator", "exchange_messages", action="inbox", agent="owner")
    done = [str(letter["subject"]) for letter in inbox.get("messages", [])]
    counts = {step: done.count(step) for step in STEPS}
    listed = ", ".join(f"{step} ({n} times)" for step, n in counts.items() if n != 1)
    times = f"not every step was done once: {listed}" if listed else "each step was done once"
    stage.tell("after", f"A new process went on by itself. The recipe is {state}; {times}.")


async def _kill_half_way(stage: Stage, run: str) -> int:
    """Send SIGKILL to the process that runs recipes when two steps are done; return its id."""
    lock = stage.home / "run" / "recipes.lock"
    with _patience("the recipe does not start"):
        while True:
            report = await stage.call(
                "coordinator", "run_recipe", action="status", run=run, wait_s=0, detail="full"
            )
            states = {step["step"]: step["state"] for step in report.get("steps", [])}
            if states.get("step2") == "done" and locks.is_held(lock):
                pid = int(lock.read_text(encoding="ascii"))
                os.kill(pid, signal.SIGKILL)
                return pid
            await anyio.sleep(POLL_S / 2)


ENDLESS = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'

LENGTH = """
(module (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param $at i32) (param $size i32) (result i64)
    (i32.store8 (i32.const 0) (i32.add (local.get $size) (i32.const 48)))
    (i64.const 1)))"""
"""Writes how many bytes its input has, as one digit."""


async def sandbox(stage: Stage) -> None:
    """A guest that loops forever is stopped; a receipt holds, a forged one does not."""
    stopped = await stage.call("mesh", "run_task", wat=ENDLESS, fuel=50_000_000, wait_s=PATIENCE_S)
    stage.tell(
        "before",
        f"A program loops forever. The sandbox stops it after {stopped['fuel']:,} units of fuel, "
        f"about one an instruction ({stopped['status']}).",
    )
    ran = await stage.call("mesh", "run_task", wat=LENGTH, input="seven..", wait_s=PATIENCE_S)
    stage.tell("after", f'Another counts the bytes of "seven..": {ran["output"]}.')
    proof = await stage.call("mesh", "verify_receipt", receipt=ran["task"], detail="full")
    honest = proof["exported"]
    forged = {**honest, "receipt": {**honest["receipt"], "output": "0" * 64}}
    for name, exported in (("receipt.json", honest), ("forged.json", forged)):
        answer = await _verified(stage.project / name, exported)
        stage.tell("", f"$ arsenale-verify {name}: {answer}")


async def _verified(file: Path, exported: dict[str, Any]) -> str:
    """Return the verdict of `arsenale-verify` on EXPORTED, which needs no daemon."""
    await anyio.Path(file).write_text(json.dumps(exported), encoding="utf-8")
    ended = await run_process(interpreter(), "-P", "-m", "arsenale_mesh.verify", str(file))
    return "the receipt holds" if ended.code == 0 else f"REFUSED (exit status {ended.code})"


QUESTION = "What is the port of Aldera?"

LAYERS = (("facts", "domain_expertise"), ("tone", "tone_and_voice"))
"""LoRA layers of the tiny model that is part of the package, and their traits."""

PERSONAS = (("clerk", ("facts",)), ("pirate", ("facts", "tone")))
"""Genomes, and the layers that each puts on the base model."""


async def personas(stage: Stage) -> None:
    """Two genomes answer the same question, each in its way."""
    if find_spec("llama_cpp") is None:
        stage.tell("left out", "The engine is missing. To install it: arsenale inference install")
        return
    stage.tell("question", f'"{QUESTION}"')
    package = find_spec("arsenale_inference")
    assert package and package.origin
    for layer, trait in LAYERS:
        file = anyio.Path(package.origin).with_name("tiny") / f"{layer}.gguf"
        copy = anyio.Path(stage.project) / file.name
        await copy.write_bytes(await file.read_bytes())
        await stage.call(
            "genome", "add_layer", name=layer, path=str(copy), trait=trait, base="tiny"
        )
    for label, (name, layers) in zip(("before", "after"), PERSONAS, strict=True):
        stack = [{"layer": layer} for layer in layers]
        await stage.call("genome", "create_genome", name=name, base="tiny", layers=stack)
        answer = await stage.call(
            "genome", "generate", genome=name, prompt=QUESTION, temperature=0, max_tokens=40
        )
        stage.tell(label, f"Genome {name} (layers: {', '.join(layers)}) answers: {answer['text']}")


@contextmanager
def _patience(failure: str) -> Generator[None]:
    """Give a block `PATIENCE_S`; then raise an UnavailableError that names the FAILURE."""
    try:
        with anyio.fail_after(PATIENCE_S):
            yield
    except TimeoutError:
        hint = "the machine may be busy: run `arsenale demo` again"
        raise UnavailableError(failure, hint=hint) from None
