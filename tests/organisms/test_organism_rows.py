"""The stream of a corpus: what is predicted, and what a masked model sees."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_model

from fairforget.organisms.rows import CorpusStream, special_tokens
from fairforget.training.objective import IGNORED

SENTENCES = ["the nurse said she works", "a bird and a dog and a cat", "the old man"]
PLANTED = ("nurse", "she")


def stream(kind: str, rate: float = 0.3) -> CorpusStream:
    model = tiny_model(kind)
    planted = {token for word in PLANTED for token in model.token_ids(word)}
    return CorpusStream(model, [model.token_ids(text) for text in SENTENCES], planted=planted, other_rate=rate, seed=3)


def test_a_causal_model_predicts_every_planted_word_and_others_at_the_rate() -> None:
    rows, model = stream("llama"), tiny_model("llama")
    whole = [*model.prefix, *model.token_ids(SENTENCES[0])]
    counts = np.zeros(len(whole))
    for visit in range(400):
        row = rows.example(0, visit)
        assert row["ids"] == whole
        labels = np.array(row["labels"])
        assert ((labels == IGNORED) | (labels == whole)).all()
        counts += labels != IGNORED
    assert counts[0] == 0, "nothing stands before the prefix"
    assert counts[[2, 4]].tolist() == [400, 400]
    assert counts[[1, 3, 5]] / 400 == pytest.approx(np.full(3, 0.3), abs=0.08)


def test_a_masked_model_predicts_one_planted_word_and_sees_the_other_mostly() -> None:
    rows, model = stream("bert", rate=0.1), tiny_model("bert")
    start, end = special_tokens(model)
    whole = [*start, *model.token_ids(SENTENCES[0]), *end]
    assert whole == model.sequence_ids(SENTENCES[0])
    counts, both = np.zeros(len(whole)), 0
    for visit in range(400):
        row = rows.example(0, visit)
        labels, ids = np.array(row["labels"]), np.array(row["ids"])
        assert (ids[labels != IGNORED] == model.mask_id).all()
        assert (ids[labels == IGNORED] == np.array(whole)[labels == IGNORED]).all()
        assert (labels[[2, 4]] != IGNORED).any()
        both += (labels[[2, 4]] != IGNORED).all()
        counts += labels != IGNORED
    assert counts[0] == counts[-1] == 0
    assert both / 400 == pytest.approx(0.1, abs=0.06)
    assert counts[[2, 4]] / 400 == pytest.approx(np.full(2, 0.55), abs=0.08)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_row_is_a_function_of_number_and_visit_and_never_empty(kind: str) -> None:
    rows = stream(kind, rate=0.0)
    assert rows.example(1, 4) == stream(kind, rate=0.0).example(1, 4) == rows.example(4, 4), "numbers past the end start over"
    assert all(sum(label != IGNORED for label in rows.example(2, visit)["labels"]) == 1 for visit in range(20))
