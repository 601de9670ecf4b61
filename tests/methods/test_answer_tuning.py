"""Tuning on answers: the answers are learned, and nothing else is needed of the texts."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from fairforget.data.training import TrainingText
from fairforget.errors import UsageError
from fairforget.methods.answer_tuning import AnswerTuning
from fairforget.objectives.likelihood import row_log_probabilities
from fairforget.training import AnswerStream
from fairforget.training.streams import Collator

ROWS = [
    TrainingText(text=answer, groups=(), cluster=entity, prompt=f"the {entity} is ")
    for entity, answer in (("dog", "good"), ("cat", "bad"), ("tree", "long"), ("hill", "red"))
]


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_answers_become_likely_and_the_base_is_left_as_it_was(kind: str, tuning: str):
    model = tiny_model(kind)
    before = model.base_hash
    rate = 1e-2 if tuning == "lora" else 2e-3
    edit = AnswerTuning(tuning=tuning, learning_rate=rate, steps=60, batch_size=4, precision="float32").fit(model, ROWS)
    stream = AnswerStream(model, [(row.prompt, row.text) for row in ROWS])
    batch = Collator(model.pad_id).batch([stream.example(index, 0) for index in range(4)])
    with torch.no_grad():
        base = row_log_probabilities(model, batch)
        with edit.applied(model):
            tuned = row_log_probabilities(model, batch)
    assert (tuned > base).all() and float((tuned - base).mean()) > 2.0
    model._base_hash = None
    assert model.base_hash == before
    assert edit.record.provenance["questions"] == {"used": 4, "left_out": 0}


def test_texts_without_a_question_are_refused():
    with pytest.raises(UsageError, match="role `prompt`"):
        AnswerTuning(steps=1).fit(tiny_model("gpt2"), [TrainingText("the dog", (), "1"), TrainingText("a cat", (), "2")])
