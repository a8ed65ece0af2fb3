"""Every vector index keeps the same promises: exact, chromadb in a folder, a real Chroma server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arsenale_memory.chroma_index import ChromaFolder, ChromaIndex, ChromaServer
from arsenale_memory.vectors import ExactIndex, Ids, VectorIndex

DIM = 16
MakeIndex = Callable[..., VectorIndex]
STORE: dict[int, Any] = {}
"""What the store would have: the indexes are caches of it."""


def unit(*shape: int, seed: int = 1) -> Any:
    found = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def load(ids: Ids) -> Any:
    zero = np.zeros(DIM, np.float32)
    return np.array([STORE.get(int(id), zero) for id in ids], np.float32).reshape(-1, DIM)


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Chroma server, started for this run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chroma = Path(sys.executable).with_name("chroma")
    folder = tmp_path_factory.mktemp("chroma")
    server = subprocess.Popen(
        [str(chroma), "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(20)


@pytest.fixture(params=["exact", "folder", "server"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeIndex:
    STORE.clear()
    if request.param == "exact":
        return lambda: ExactIndex(DIM)
    if request.param == "server":
        place: Any = ChromaServer(str(request.getfixturevalue("chroma_url")))
    else:
        place = ChromaFolder(tmp_path / "chroma")
        assert place.acquire()
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    discard = getattr(place, "discard", lambda: None)
    return lambda: ChromaIndex(lambda: place.collection(name), discard, load, DIM)


def fill(index: VectorIndex, ids: list[int], vectors: Any) -> None:
    STORE.update(zip(ids, vectors, strict=True))
    index.put(ids, vectors)
    settle(index)


def settle(index: VectorIndex) -> None:
    if isinstance(index, ChromaIndex):
        assert index.wait(40)


def test_the_nearest_come_back_best_first(make: MakeIndex) -> None:
    index, vectors = make(), unit(300, DIM)
    fill(index, list(range(10, 310)), vectors)
    assert (len(index), index.dim) == (300, DIM)
    query = unit(DIM, seed=2)
    expected = 10 + np.argsort(-(vectors @ query))[:5]
    assert index.nearest(query, 5, None).tolist() == expected.tolist()
    for i in (0, 150, 299):
        assert index.nearest(vectors[i], 1, None).tolist() == [10 + i]


def test_what_is_close_to_many_questions_comes_with_its_cosine(make: MakeIndex) -> None:
    index, vectors = make(), unit(200, DIM)
    near = vectors[5] + 0.1 * vectors[6]
    vectors[7] = near / np.linalg.norm(near)
    fill(index, list(range(200)), vectors)
    found = index.close(vectors[[5, 50]], 0.9, 3)
    assert [[id for id, _ in each] for each in found] == [[5, 7], [50]]
    assert found[0][1][1] == pytest.approx(float(vectors[5] @ vectors[7]), abs=1e-4)


def test_only_what_is_allowed_comes_back(make: MakeIndex) -> None:
    index, vectors = make(), unit(200, DIM)
    fill(index, list(range(200)), vectors)
    query = unit(DIM, seed=3)
    for allowed in (np.array([3, 77, 120]), np.arange(0, 200, 2), np.arange(200)):
        expected = allowed[np.argsort(-(vectors[allowed] @ query))[:4]]
        assert index.nearest(query, 4, allowed).tolist() == expected.tolist()


def test_what_is_put_later_is_found_and_what_is_removed_is_not(make: MakeIndex) -> None:
    index, vectors = make(), unit(60, DIM)
    fill(index, list(range(1, 51)), vectors[:50])
    fill(index, list(range(51, 61)), vectors[50:])
    assert index.nearest(vectors[55], 1, None).tolist() == [56]
    index.remove([56, 999])
    assert 56 not in index.nearest(vectors[55], 10, None)
    assert len(index) == 59


def test_a_vector_that_comes_late_is_sorted_in(make: MakeIndex) -> None:
    index, vectors = make(), unit(5, DIM)
    fill(index, [10, 30], vectors[:2])
    fill(index, [20], vectors[2:3])
    for vector, id in zip(vectors, (10, 30, 20), strict=False):
        assert index.nearest(vector, 1, None).tolist() == [id]


def test_vectors_come_back_by_id_and_zeros_for_what_is_not_there(make: MakeIndex) -> None:
    index, vectors = make(), unit(3, DIM)
    fill(index, [1, 2, 3], vectors)
    got = index.get(np.array([3, 9, 1]))
    assert np.allclose(got[[0, 2]], vectors[[2, 0]], atol=1e-6)
    assert not got[1].any()


def test_it_is_there_again_for_the_next_process(make: MakeIndex) -> None:
    vectors = unit(40, DIM)
    fill(make(), list(range(40)), vectors)
    again = make()
    fill(again, list(range(40)), vectors)
    assert again.nearest(vectors[7], 1, None).tolist() == [7]


@pytest.mark.parametrize("harm", ["deleted", "truncated", "garbage", "half"])
def test_a_folder_that_is_harmed_is_made_again_while_searches_go_on(
    harm: str, tmp_path: Path
) -> None:
    STORE.clear()
    before = subprocess.run([sys.executable, "-c", BEFORE, str(tmp_path)], check=False, timeout=50)
    assert before.returncode == 0
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files
    for path in files:
        if harm == "deleted":
            path.unlink()
        elif harm == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif harm == "garbage":
            path.write_bytes(b"\x13" * path.stat().st_size)
        elif path.suffix == ".bin":
            os.truncate(path, 100)
    folder = ChromaFolder(tmp_path)
    assert folder.acquire()
    index = ChromaIndex(lambda: folder.collection("test"), folder.discard, load, DIM)
    vectors = unit(1200, DIM)
    STORE.update({i: vectors[i] for i in range(1200)})
    index.put(list(range(1200)), vectors)
    assert index.nearest(vectors[7], 1, None).tolist() == [7]  # at once, exactly
    assert index.wait(50)
    for i in range(0, 1200, 100):
        assert index.nearest(vectors[i], 1, None).tolist() == [i]


BEFORE = """
import sys
from pathlib import Path
import numpy as np
from arsenale_memory.chroma_index import ChromaFolder, ChromaIndex
folder = ChromaFolder(Path(sys.argv[1]))
assert folder.acquire()
found = np.random.default_rng(1).standard_normal((1200, 16)).astype(np.float32)
found /= np.linalg.norm(found, axis=-1, keepdims=True)
index = ChromaIndex(lambda: folder.collection("test"), folder.discard, lambda ids: found[ids], 16)
index.put(list(range(1200)), found)
assert index.wait(40)
"""


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    folder = ChromaFolder(tmp_path)
    assert folder.acquire()
    code = (
        "import sys; from pathlib import Path;"
        "from arsenale_memory.chroma_index import ChromaFolder;"
        "sys.exit(ChromaFolder(Path(sys.argv[1])).acquire())"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    assert other.returncode == 0
