"""The command `arsenale-verify`: whether an exported receipt holds. RECEIPT.md describes the file.

It knows no server, no daemon and no store, and starts no sandbox unless it is to run again.
Exit codes: 0 it holds, 1 it does not, 2 that cannot be said.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import orjson

from arsenale_core.errors import InvalidError
from arsenale_core.terminal_text import shown_line, write
from arsenale_mesh.canonical import digest
from arsenale_mesh.receipts import Expected, problems
from arsenale_mesh.verification.commitments import lacking
from arsenale_mesh.verification.exported import Exported, unpack

Answer: TypeAlias = Literal["holds", "does_not", "cannot_say"]

EXIT: Final[dict[Answer, int]] = {"holds": 0, "does_not": 1, "cannot_say": 2}
_SIGNS: Final[dict[Answer, str]] = {"holds": "ok  ", "does_not": "NO  ", "cannot_say": "?   "}
_WORDS: Final[dict[Answer, str]] = {
    "holds": "The receipt holds.",
    "does_not": "The receipt does not hold.",
    "cannot_say": "That cannot be said.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    answer: Answer
    said: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Say whether a receipt holds, and leave with 0, 1 or 2."""
    given = _parser().parse_args(arguments)
    about: dict[str, Any] = {}
    try:
        exported = _exported(given)
        about = exported.receipt.plain()
        checks = _offline(exported, given)
        if _answer(checks) == "holds" and given.rerun:
            checks.append(_again(exported, given))
    except InvalidError as exc:
        checks = [_check("receipt", good=False, said=str(exc))]
    except OSError as exc:
        said = f"cannot read {exc.filename}: {exc.strerror}"
        checks = [Check(name="file", answer="cannot_say", said=said)]
    answer = _answer(checks)
    report = _json if given.json else _text
    write(report(answer, checks, about))
    sys.exit(EXIT[answer])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arsenale-verify",
        description="Say whether an exported receipt holds: exit code 0 if it does, 1 if it does "
        "not, 2 if that cannot be said. Without --rerun this says that the node said so.",
    )
    add: Callable[..., Any] = parser.add_argument
    add("receipt", type=Path, metavar="RECEIPT.json", help="what was exported")
    add("--module", type=Path, metavar="FILE", help="the module, where the file has it not")
    add("--input", type=Path, metavar="FILE", help="the input, where the file has it not")
    add("--rerun", action="store_true", help="run the job again and compare all that it says")
    add("--backend", choices=("cranelift", "pulley"), default="cranelift",
        help="what runs it again: native code, or an interpreter, far slower")  # fmt: skip
    add("--expect-task", metavar="ID", help="the task that it must be of")
    add("--expect-nonce", metavar="NONCE", help="the nonce that it must hold")
    add("--node", metavar="DID", help="the node that must have signed it")
    add("--json", action="store_true", help="answer as JSON")
    return parser


def _exported(given: argparse.Namespace) -> Exported:
    """Return the receipt, with files that were named in place of what it holds."""
    found = unpack(given.receipt.read_bytes())
    module: bytes | None = given.module.read_bytes() if given.module else found.module
    input: bytes | None = given.input.read_bytes() if given.input else found.input
    return Exported(receipt=found.receipt, leaves=found.leaves, module=module, input=input)


def _offline(exported: Exported, given: argparse.Namespace) -> list[Check]:
    receipt = exported.receipt
    expected = Expected(
        task=given.expect_task,
        nonce=given.expect_nonce,
        node=given.node,
        module=digest(exported.module) if exported.module is not None else None,
        input=digest(exported.input) if exported.input is not None else None,
    )
    found = problems(receipt, expected)
    signed = "signature" not in found
    by = "of" if signed else "not made by"
    checks = [_check("signature", good=signed, said=f"{by} {receipt.body.node}")]
    checks += [_check(name, good=False, said=_WRONG[name]) for name in found if name in _WRONG]
    if exported.leaves is not None:
        fault = lacking(receipt, exported.leaves)
        said = f"{len(exported.leaves)} leaves hash to the trace's root"
        if fault:
            said = f"{fault.name}: the receipt says {fault.said}, found {fault.found}"
        checks.append(_check("commitment", good=fault is None, said=said))
    return checks


def _again(exported: Exported, given: argparse.Namespace) -> Check:
    missing = [n for n in ("module", "input") if getattr(exported, n) is None]
    if missing:
        said = f"to run it again, {' and '.join(missing)} must be given"
        return Check(name="rerun", answer="cannot_say", said=said)
    from arsenale_mesh.verification import rerun  # noqa: PLC0415  # it brings the sandbox

    backend = "pulley64" if given.backend == "pulley" else "cranelift"
    answer, said = rerun.answer(exported, backend)
    return Check(name="rerun", answer=answer, said=said)


def _check(name: str, *, good: bool, said: str) -> Check:
    return Check(name=name, answer="holds" if good else "does_not", said=said)


def _answer(checks: Sequence[Check]) -> Answer:
    answers = {check.answer for check in checks}
    if "does_not" in answers:
        return "does_not"
    return "cannot_say" if "cannot_say" in answers else "holds"


def _text(answer: Answer, checks: Sequence[Check], about: dict[str, Any]) -> str:
    lines = list[str]()
    if about:
        lines += [
            f"task      {shown_line(about['task'])}",
            f"node      {shown_line(about['node'])}",
            f"module    {shown_line(about['module'])}",
            f"ended     {about['status']}, {about['fuel']:,} fuel, "
            f"by {shown_line(about['engine'])}",
            "",
        ]
    lines += [f"{_SIGNS[check.answer]}{check.name}: {shown_line(check.said)}" for check in checks]
    last = _WORDS[answer]
    if answer == "holds" and not any(check.name == "rerun" for check in checks):
        last += " The node said so; whether it is so, says --rerun."
    return "\n".join((*lines, "", last, ""))


def _json(answer: Answer, checks: Sequence[Check], about: dict[str, Any]) -> str:
    told = [{"name": one.name, "answer": one.answer, "said": one.said} for one in checks]
    said: dict[str, Any] = {"answer": answer, "checks": told, "receipt": about or None}
    return orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n"


_WRONG: Final[dict[str, str]] = {
    "task": "it is of another task",
    "nonce": "it holds another nonce",
    "module": "it is of another module",
    "input": "it is of another input",
    "signer": "another node signed it",
    "times": "it ended before it began",
    "limits": "it burnt more than it might",
}

if __name__ == "__main__":
    main()
