"""Two personas answer the same question, each in its way, from one base model in memory.

Run it: `python examples/two_personas.py`. It needs the inference engine (`arsenale inference
install`), and uses a temporary home; `--home ~/.arsenale` uses yours.
"""

import anyio
import httpx2
from running import run

from arsenale_core.sidecar import Address

PERSONAS = {
    "operator": [{"name": "tiny-facts", "weight": 1.0}],
    "pirate": [{"name": "tiny-facts", "weight": 1.0}, {"name": "tiny-tone", "weight": 1.0}],
}
QUESTION = "What is the port of Aldera?"


async def main(sidecar: Address) -> None:
    """Register the personas and ask both at the same time."""
    async with httpx2.AsyncClient(
        base_url=sidecar.url, headers=sidecar.headers, timeout=120
    ) as http:
        for name, layers in PERSONAS.items():
            body = {"base": "tiny", "layers": layers}
            (await http.put(f"/admin/genomes/{name}", json=body)).raise_for_status()

        async def ask(name: str) -> None:
            body = {
                "model": name, "temperature": 0, "max_tokens": 40,
                "messages": [{"role": "user", "content": QUESTION}],
            }  # fmt: skip
            answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status()
            print(f"{name}: {answer.json()['choices'][0]['message']['content']}")

        print(QUESTION)
        async with anyio.create_task_group() as both:
            for name in ("tiny", *PERSONAS):
                both.start_soon(ask, name)


if __name__ == "__main__":
    run(main, "sidecar", engine=True)
