"""Harmful words as a chat model names them: any callable, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fairforget.errors import FairforgetError
from fairforget.methods._spans.base import Span
from fairforget.progress import task

Chat: TypeAlias = Callable[[str], str]
"""A chat model: the prompt in, the answer out."""

MOST_WORDS = 5
ATTEMPTS = 3
TIMEOUT_SECONDS = 60
PROMPT = (
    "You help to remove prejudice from a language model. Below is a post. List the words or short phrases in it that carry prejudice or "
    "hate against a group of people: copy each exactly as it is written, at most five words each. Answer with a JSON list of strings "
    "and nothing else; an empty list if there is none.\n\nPost:\n"
)


class ChatFinder:
    """Asks a chat model for verbatim pieces of the text; what does not occur in it, or is longer than five words, is left out.

    Args:
        chat: the model.
        name: of the model, for the cache.
    """

    def __init__(self, chat: Chat, name: str) -> None:
        self.chat, self.identity = chat, f"llm {name} {PROMPT}"

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Every occurrence of the named pieces in each text.

        Raises:
            FairforgetError: the model gave no list in three attempts.
        """
        spans: list[list[Span]] = []
        with task("asking for harmful words", len(texts)) as advance:
            for text in texts:
                spans.append(occurrences(text, self._pieces(text)))
                advance(1)
        return spans

    def _pieces(self, text: str) -> list[str]:
        answer = ""
        for _ in range(ATTEMPTS):
            answer = self.chat(PROMPT + text)
            found = re.search(r"\[.*\]", answer, re.DOTALL)
            try:
                pieces = json.loads(found.group()) if found else None
            except ValueError:
                continue
            if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces):
                return pieces
        raise FairforgetError(
            f"The chat model gave no JSON list of strings in {ATTEMPTS} attempts; its last answer has {len(answer)} characters."
        )


def occurrences(text: str, pieces: Sequence[str]) -> list[Span]:
    """Where pieces of at most five words occur in a text, whole words only, without overlap, the longest first."""
    spans: list[Span] = []
    for piece in sorted({piece.strip() for piece in pieces}, key=lambda piece: (-len(piece), piece)):
        if piece and len(piece.split()) <= MOST_WORDS:
            for match in re.finditer(r"(?<!\w)" + re.escape(piece) + r"(?!\w)", text):
                if not any(match.start() < end and start < match.end() for start, end in spans):
                    spans.append(match.span())
    return sorted(spans)


def endpoint(url: str, model: str) -> Chat:
    """A chat model behind an OpenAI-compatible endpoint; the key is taken from ``OPENAI_API_KEY`` where it is set.

    Args:
        url: base of the interface, e.g. ``http://localhost:8000/v1``.
        model: name of the model there.

    Returns:
        A callable that raises FairforgetError where the endpoint cannot be reached or refuses.
    """
    import requests

    def chat(prompt: str) -> str:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                answer = requests.post(f"{url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=TIMEOUT_SECONDS)
                answer.raise_for_status()
                return str(answer.json()["choices"][0]["message"]["content"])
            except (requests.RequestException, KeyError, IndexError, ValueError) as error:
                problem = type(error).__name__
                time.sleep(2**attempt if attempt + 1 < ATTEMPTS else 0)
        raise FairforgetError(
            f"The endpoint {url} gave no answer for the model '{model}' ({problem}): check address, name and OPENAI_API_KEY."
        )

    return chat
