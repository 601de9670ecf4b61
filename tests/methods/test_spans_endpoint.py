"""The finder `llm` behind an OpenAI-compatible endpoint: a server of this machine that answers, fails and recovers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fairforget.errors import FairforgetError
from fairforget.methods._spans import chat as chat_module
from fairforget.methods._spans.chat import ChatFinder, endpoint


class Served:
    """What a server was asked and what it is to answer: a status with the answer's text, or with anything else."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.answers: list[tuple[int, Any]] = []
        self.url = ""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body, self.headers.get("Authorization")))
            status, answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            told = {"choices": [{"message": {"content": answer}}]} if isinstance(answer, str) else answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(chat_module.time, "sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield state
    server.shutdown()
    server.server_close()


def test_it_asks_as_the_interface_wants_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the test")
    served.answers = [(200, 'Here: ["bad dog"]')]
    assert ChatFinder(endpoint(served.url, "some-model"), "x").find(["a bad dog, no bad dogs"]) == [[(2, 9)]]
    (path, body, key), = served.asked
    assert (path, body["model"], body["temperature"], key) == ("/v1/chat/completions", "some-model", 0, "Bearer of the test")
    assert body["messages"][0]["content"].endswith("a bad dog, no bad dogs")
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint(served.url, "some-model")("again")
    assert served.asked[-1][2] is None


def test_it_tries_again_and_says_what_is_wrong(served: Served) -> None:
    served.answers = [(500, "busy"), (200, {"error": "no choices"}), (200, "[]")]
    assert endpoint(served.url, "m")("prompt") == "[]"
    assert len(served.asked) == 3
    served.answers = [(401, "no")]
    with pytest.raises(FairforgetError, match=r"gave no answer for the model 'm' \(HTTPError\): check address, name and OPENAI_API_KEY"):
        endpoint(served.url, "m")("prompt")
    assert len(served.asked) == 6
    served.answers = [(200, "no list at all")]
    with pytest.raises(FairforgetError, match="gave no JSON list of strings in 3 attempts"):
        ChatFinder(endpoint(served.url, "m"), "m").find(["text"])
