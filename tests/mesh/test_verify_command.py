"""The command that checks an exported receipt: it brings little, and says what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.mesh.conftest import Wat
from tests.mesh.test_determinism import WORK
from tests.mesh.test_verification import ONE, OTHER, job, raw, signed

from arsenale_core.errors import InvalidError
from arsenale_mesh import receipts, verify
from arsenale_mesh.sandbox.jobs import Job, Outcome
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.verification.exported import Exported, pack, unpack


@pytest.fixture(scope="module")
def ran(wat: Wat) -> tuple[Job, Outcome]:
    run = job(wat(WORK))

    async def ended() -> Outcome:
        async with Pool() as pool:
            return await pool.run(run)

    return run, anyio.run(ended)


@pytest.fixture
def whole(ran: tuple[Job, Outcome]) -> Exported:
    run, ended = ran
    return Exported(
        receipt=signed(run, ended), leaves=tuple(raw(ended)), module=run.module, input=run.input
    )


def write(folder: Path, exported: Exported) -> Path:
    file = folder / "receipt.json"
    file.write_bytes(pack(exported))
    return file


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        verify.main([str(one) for one in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code, capsys.readouterr().out


def test_what_was_exported_is_read_back(whole: Exported) -> None:
    for one in (whole, replace(whole, leaves=None), replace(whole, module=None, input=None)):
        assert unpack(pack(one)) == one
    bare = json.dumps(whole.receipt.plain()).encode()
    assert unpack(bare) == Exported(receipt=whole.receipt)


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"version": 2}, {"more": 1}, {"leaves": ["x"]}, {"leaves": {}},
     {"leaves": ["0" * 64] * 10_002}, {"module": "?"}, {"input": 3}, {"receipt": None}],
)  # fmt: skip
def test_a_file_that_is_not_as_described_is_refused(
    whole: Exported, change: dict[str, Any]
) -> None:
    plain = json.loads(pack(whole))
    with pytest.raises(InvalidError):
        unpack(json.dumps({**plain, **change}).encode())


def test_a_signed_receipt_holds_and_it_is_said_what_that_means(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = asked(capsys, write(tmp_path, whole))
    assert code == 0
    assert f"ok  signature: of {ONE.did}" in said
    assert f"ok  commitment: {len(whole.leaves or ())} leaves" in said
    assert said.endswith("The node said so; whether it is so, says --rerun.\n")


@pytest.mark.parametrize("backend", ["cranelift", "pulley"])
def test_a_true_receipt_holds_when_it_is_run_again(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    code, said = asked(capsys, write(tmp_path, whole), "--rerun", "--backend", backend)
    assert (code, said.splitlines()[-1]) == (0, "The receipt holds.")
    assert "ok  rerun: run again by wasmtime-" in said and f"/{backend}" in said


def test_a_lie_that_is_well_signed_shows_when_it_is_run_again(
    tmp_path: Path, ran: tuple[Job, Outcome], whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, replace(whole, receipt=signed(*ran, output=sha256(b"x").hexdigest())))
    assert asked(capsys, file)[0] == 0
    code, said = asked(capsys, file, "--rerun")
    assert code == 1 and "NO  rerun: output: said 2d711642b726" in said


def test_what_is_expected_is_compared(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, whole)
    fits = ("--expect-task", "t", "--expect-nonce", "n", "--node", ONE.did)
    assert asked(capsys, file, *fits)[0] == 0
    for option, value, name in (
        ("--expect-task", "other", "task"), ("--expect-nonce", "other", "nonce"),
        ("--node", OTHER.did, "signer"), ("--module", __file__, "module"),
        ("--input", __file__, "input"),
    ):  # fmt: skip
        code, said = asked(capsys, file, option, value)
        assert code == 1 and f"NO  {name}: " in said


def test_files_stand_in_for_what_was_left_out(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, replace(whole, module=None, input=None))
    code, said = asked(capsys, file, "--rerun")
    assert code == 2 and "module and input must be given" in said
    assert whole.module and whole.input
    (tmp_path / "m").write_bytes(whole.module)
    (tmp_path / "i").write_bytes(whole.input)
    assert asked(capsys, file, "--rerun", "--module", tmp_path / "m", "--input", tmp_path / "i")[
        0
    ] == 0  # fmt: skip


def test_a_changed_receipt_does_not_hold_and_a_missing_file_cannot_be_judged(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    body = whole.receipt.body
    changed = replace(whole.receipt, body=replace(body, fuel=body.fuel + 1))
    code, said = asked(capsys, write(tmp_path, replace(whole, receipt=changed)), "--rerun")
    assert code == 1 and "NO  signature: not made by did:key:" in said and "rerun" not in said
    leaves = (whole.leaves or ())[::-1]
    code, said = asked(capsys, write(tmp_path, replace(whole, leaves=leaves)))
    assert code == 1 and "NO  commitment: trace: the receipt says" in said
    (tmp_path / "nonsense").write_text("{", encoding="utf-8")
    assert asked(capsys, tmp_path / "nonsense")[0] == 1
    code, said = asked(capsys, tmp_path / "nothing")
    assert code == 2 and said.endswith("That cannot be said.\n")


def test_an_end_that_cannot_be_repeated_cannot_be_judged(
    tmp_path: Path, ran: tuple[Job, Outcome], whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    late = replace(whole, receipt=signed(*ran, status="timeout"))
    code, said = asked(capsys, write(tmp_path, late), "--rerun")
    assert code == 2 and "timeout cannot be repeated" in said
    odd = receipts.Limits(memory_bytes=2**40, fuel=10**9, wall_ms=1, output_bytes=1)
    code, said = asked(capsys, write(tmp_path, replace(whole, receipt=signed(*ran, limits=odd))),
                       "--rerun")  # fmt: skip
    assert code == 2 and "a guest has 512 MiB at most" in said


def test_the_answer_comes_as_json_too(
    tmp_path: Path, whole: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = asked(capsys, write(tmp_path, whole), "--json", "--node", OTHER.did)
    told = json.loads(said)
    assert code == 1 and told["answer"] == "does_not"
    assert [one["name"] for one in told["checks"]] == ["signature", "signer", "commitment"]
    assert told["receipt"] == whole.receipt.plain()


def test_as_a_process_it_brings_no_server_no_store_and_no_sandbox(
    tmp_path: Path, whole: Exported
) -> None:
    file = write(tmp_path, whole)
    script = (
        "import sys\n"
        "from arsenale_mesh.verify import main\n"
        "try:\n"
        f"    main([{str(file)!r}])\n"
        "finally:\n"
        "    names = {name.partition('.')[0] for name in sys.modules}\n"
        "    print(sorted(names & {'mcp', 'sqlalchemy', 'pydantic', 'anyio', 'wasmtime', 'numpy',\n"
        "                          'typer', 'arsenale_daemon'}))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "[]"), ended.stderr
