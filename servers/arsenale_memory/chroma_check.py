"""`python -m arsenale_memory.chroma_check FOLDER`: open a Chroma folder, ask, exit 0 when it works.

In a process of its own, since a damaged folder can end the process that opens it.
"""

# pyright: reportUnknownMemberType=false

import sys

import chromadb
from chromadb.config import Settings


def main() -> None:
    """Open the folder that the argument names."""
    client = chromadb.PersistentClient(sys.argv[1], settings=Settings(anonymized_telemetry=False))
    for collection in client.list_collections():
        sample = collection.get(limit=1, include=["embeddings"])
        if collection.count():
            found = collection.query(query_embeddings=sample["embeddings"], n_results=1)
            assert found["ids"][0], "a query finds nothing"


if __name__ == "__main__":
    main()
