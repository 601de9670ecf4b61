"""Questions with answers as training rows: only the answer is learned, cut as it is scored."""

from __future__ import annotations

import pytest
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.benchmarks._base import Item
from fairforget.errors import UsageError
from fairforget.training import IGNORED, AnswerStream

ROW = ("the dog is ", "good water")


def test_a_causal_row_is_prefix_prompt_and_answer_with_the_answer_labelled():
    model = tiny_model("gpt2")
    row = AnswerStream(model, [ROW]).example(0, 0)
    prompt, answer = model.token_ids("the dog is"), model.token_ids("good water")
    assert row["ids"] == [*model.prefix, *prompt, *answer]
    assert row["labels"] == [IGNORED] * (len(model.prefix) + len(prompt)) + answer


def test_a_masked_row_hides_the_whole_answer_between_the_special_tokens():
    model = tiny_model("bert")
    row = AnswerStream(model, [ROW]).example(0, 5)
    start, end = model.enclosing_ids()
    prompt, answer = model.token_ids("the dog is"), model.token_ids("good water")
    assert row["ids"] == [*start, *prompt, *[model.mask_id] * len(answer), *end]
    assert [label for label in row["labels"] if label != IGNORED] == answer
    assert row["labels"].index(answer[0]) == len(start) + len(prompt)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_what_is_learned_is_what_is_scored(kind: str):
    model = tiny_model(kind)
    benchmark = resolve("question-answering", {"answers": "letters"})
    item = Item("1", "qa", "ability", "test", "c", "s", (), ("A", "B"), {"context": "the dog is", "right": 1})
    request = benchmark.plan(item, model).requests[1][0]
    row = AnswerStream(model, [("the dog is ", "B")]).example(0, 0)
    scored = [*request.context, *request.continuation] if kind == "gpt2" else list(request.ids)  # type: ignore[union-attr]
    assert row["ids"] == scored


def test_long_and_empty_answers_are_left_out_and_none_left_is_refused():
    model = tiny_model("gpt2")
    stream = AnswerStream(model, [ROW, ("the ", "water " * 60), ("the ", "")], max_length=20)
    assert (len(stream), stream.left_out) == (1, 2)
    with pytest.raises(UsageError, match="None of the 1 training questions"):
        AnswerStream(model, [("the ", "")])
