"""Code from a stranger runs without harm, and anybody can check what it returned.

Run it: `python examples/a_sandboxed_task.py`. It needs Arsenale only, and uses a temporary home;
`--home ~/.arsenale` uses yours.
"""

import json
from typing import Any

from mcp import Client
from running import run

from arsenale_core.surface import Target

COUNT = """
(module (memory (export "memory") 1)
  ;; counts the bytes of its input, and gives the count as one byte
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param $at i32) (param $size i32) (result i64)
    (i32.store8 (i32.const 0) (i32.add (local.get $size) (i32.const 48)))
    (i64.const 1)))"""

SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'


async def main(mesh: Target) -> None:
    """Each parameter names a server of the suite; the tests pass one of their own."""
    async with Client(mesh) as client:

        async def call(tool: str, **arguments: Any) -> Any:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer.content
            return answer.structured_content

        script = "n = 1; while n < 1000 { n = n * 3 } print n"
        print("script:", (await call("run_task", module="script", input=script))["output"].strip())

        report = await call("run_task", wat=COUNT, input="seven..")
        print("own code:", report["output"], "bytes;", report["checked"])

        spun = await call("run_task", wat=SPIN, fuel=50_000_000)
        print("endless loop:", spun["status"], "after", f"{spun['fuel']:,}", "fuel")

        receipt = await call("verify_receipt", receipt=report["task"], detail="full")
        print("receipt:", receipt["holds"], "-", receipt["says"])
        forged = receipt["exported"]
        forged["receipt"]["output"] = "0" * 64
        checked = await call("verify_receipt", receipt=json.dumps(forged))
        print("changed receipt:", checked["holds"], checked["problems"])
        print((await call("read_ledger"))["summary"])


if __name__ == "__main__":
    run(main, "mesh")
