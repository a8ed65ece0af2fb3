"""What a review of the sidecar broke, and how it holds now."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arsenale_core import sidecar
from arsenale_inference.catalogue import TINY
from arsenale_inference.openai_requests import Chat

if TYPE_CHECKING:
    from conftest import Sidecar

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llama_cpp") is None, reason="no engine: make inference"),
]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def served(running: "Sidecar") -> "Sidecar":
    """The sidecar of the module."""
    return running


@pytest.fixture
def web_page() -> Iterator[str]:
    """Something that answers HTTP and is no engine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_unloading_a_model_that_answers_fails_those_answers_and_nothing_else(
    served: "Sidecar",
) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 6_000, "ignore_eos": True}
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(served.http.post, "/v1/chat/completions", json=body) for _ in range(4)
            ]
            served.until(lambda s: bool(s["models"]) and bool(s["models"][0]["workers"])
                         and s["models"][0]["workers"][0]["live"] > 0)  # fmt: skip
            served.http.post("/admin/unload", json={"model": "tiny"})
            assert {each.result().status_code for each in asked} <= {503}
    assert served.chat().status_code == 200


def test_names_that_cannot_work_are_refused(served: "Sidecar") -> None:
    put = served.http.put
    assert put("/admin/genomes/ann", json={"base": "tiny"}).status_code == 200
    wrong = {"name": "w", "path": str(TINY / "facts.gguf"), "sha256": "0" * 64}
    refused = put("/admin/genomes/wo", json={"base": "tiny", "layers": [wrong]})
    assert (refused.status_code, "another SHA-256" in refused.text) == (400, True)
    on_another = put("/admin/genomes/bob", json={"base": "ann"})
    assert (on_another.status_code, "stands on a base" in on_another.text) == (404, True)
    assert put("/admin/genomes/tiny", json={"base": "tiny"}).status_code == 409
    path = str(TINY / "facts.gguf")
    assert put("/admin/models/ann", json={"path": path}).status_code == 409
    layer = {"name": "lay", "path": path}
    assert put("/admin/genomes/cy", json={"base": "tiny", "layers": [layer]}).status_code == 200
    delete = served.http.delete
    assert "cy uses lay" in delete("/admin/layers/lay").text
    assert delete("/admin/models/lay").status_code == 404
    assert delete("/admin/whatever/lay").status_code == 404
    for kind, name in (("genomes", "cy"), ("layers", "lay"), ("genomes", "ann")):
        assert delete(f"/admin/{kind}/{name}").status_code == 200


def test_warming_loads_what_was_unloaded_and_makes_one_token(served: "Sidecar") -> None:
    body = {
        "model": "tiny", "messages": HELLO, "temperature": 0, "max_completion_tokens": 300,
        "ignore_eos": True,
    }  # fmt: skip
    for _ in range(2):
        warmed = served.http.post("/admin/warm", json=body).json()
        assert warmed["usage"]["completion_tokens"] <= 1
        assert served.status()["models"][0]["state"] == "ready"
        served.http.post("/admin/unload", json={"model": "tiny"})


def test_an_engine_elsewhere_that_talks_nonsense_is_an_error_and_no_more(
    served: "Sidecar", web_page: str
) -> None:
    assert served.http.put("/admin/models/page", json={"url": web_page}).status_code == 200
    for n in (1, 2):
        body = {"model": "page", "messages": HELLO, "n": n}
        answer = served.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 503
        assert "no OpenAI answer" in answer.json()["error"]["message"]
    assert served.http.delete("/admin/models/page").status_code == 200
    assert served.chat().status_code == 200


def test_loading_a_model_is_no_wait_for_a_worker(start_sidecar: Any) -> None:
    made: Sidecar = start_sidecar(wait_s=0.2)  # the model takes longer than that
    assert made.chat().status_code == 200


def test_null_fields_are_fields_that_are_not_there() -> None:
    nulls = dict.fromkeys(
        ("stream", "n", "stop", "seed", "logprobs", "top_logprobs", "tools", "tool_choice",
         "priority", "top_k", "min_p", "ignore_eos", "max_tokens", "stream_options")
    )  # fmt: skip
    call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    given: dict[str, Any] = {"model": "m", "messages": [*HELLO, call], **nulls}
    [[job]] = Chat.model_validate(given).generate()
    assert job.messages is not None
    assert job.messages[1]["content"] == ""


def test_a_state_file_without_its_sidecar_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "token").write_text("secret", encoding="ascii")
    state = tmp_path / "run" / "inference.json"
    state.write_text('{"url": "http://127.0.0.1:9", "pid": 1}', encoding="utf-8")
    (tmp_path / "run" / "inference.lock").touch()
    assert sidecar.address(tmp_path) is None  # pid 1 lives, and is not ours
    assert sidecar.stop(tmp_path) is False
