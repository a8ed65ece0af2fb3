"""A persona answers from what it was given to read: this repository's own documentation.

Run it: `python examples/ask_the_docs.py`. It needs the inference engine (`arsenale inference
install`), and uses a temporary home; `--home ~/.arsenale` uses yours. The built-in model is too
small to say much about the notes that are found; `--base NAME` takes a model that `arsenale models
add` added.
"""

from pathlib import Path

from mcp import Client
from running import run

from arsenale_core.surface import Target

DOCS = Path(__file__).parents[1] / "docs" / "decisions"
QUESTION = "Why do hooks write files instead of talking to the daemon?"
NAMESPACE = "arsenale-docs"


async def main(memory: Target, genome: Target, base: str = "tiny") -> None:
    """Remember the documents, make a persona, and let it answer with its sources."""
    documents = [
        {"content": file.read_text(encoding="utf-8"), "tags": ["docs"], "subject": file.stem}
        for file in sorted(DOCS.glob("*.md"))
    ]
    async with Client(memory) as library:
        await library.call_tool("remember", {"memories": documents, "namespace": NAMESPACE})

    async with Client(genome) as genomes:
        await genomes.call_tool(
            "create_genome",
            {"name": "guide", "base": base, "persona": "Knows this repository's decisions."},
        )
        answer = await genomes.call_tool(
            "generate",
            {"genome": "guide", "prompt": QUESTION, "knowledge": NAMESPACE, "max_tokens": 60,
             "temperature": 0},
        )  # fmt: skip

    found = answer.structured_content
    assert found is not None and not answer.is_error, answer.content
    print(QUESTION)
    print("answer:", found["text"])
    print(f"from {len(found['sources'])} notes, found in {found['retrieved_ms']:.0f} ms:")
    for source in found["sources"]:
        print(f"  [{source['number']}]", source["text"].splitlines()[0])


if __name__ == "__main__":
    run(main, "memory", "genome", engine=True)
