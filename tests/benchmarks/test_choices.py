from __future__ import annotations

import math
from typing import ClassVar

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._choices import ChoiceBenchmark, ChoiceSettings, compare_options
from fairforget.benchmarks._evaluate import evaluate
from fairforget.errors import UsageError
from fairforget.scoring.scorer import Scorer


class Questions(ChoiceBenchmark):
    name = "questions"
    description = "made up"
    context: ClassVar[str] = "the cat sat on the"

    def items(self, family: str, part: str) -> list[Item]:
        del family
        return [
            Item("1", "questions", "ability", part, "1", "all", (), ("mat", "a long house"), {"context": self.context, "right": 0}),
            Item("2", "questions", "ability", part, "2", "all", (), ("the cat", "cat the"), {"context": "", "right": 1}),
            Item("3", "questions", "ability", part, "3", "all", (), ("sat", "sat"), {"context": ("the cat", "the dog"), "right": 1}),
        ]


def _item(role: str = "ability", right: int | None = 0) -> Item:
    return Item("1", "t", role, "test", "1", "all", (), ("ab", "abcd", "x"), {"right": right})  # type: ignore[arg-type]


@torch.no_grad()
def test_the_score_is_the_log_probability_of_the_options_tokens_after_the_context() -> None:
    model = tiny_model("gpt2")
    table = Questions().measure(Scorer(model, store=False), "test")
    for row, item in zip(table.to_dicts(), Questions().items("causal", "test"), strict=True):
        contexts = item.payload["context"]
        for place, option in enumerate(item.texts):
            context = contexts if isinstance(contexts, str) else contexts[place]
            whole = model.token_ids(f"{context} {option}" if context else option)
            begin = len(model.token_ids(context))
            ids = torch.tensor([[*model.prefix, *whole]])
            logs = model.hf(ids).logits.log_softmax(-1)[0]
            wanted = sum(logs[len(model.prefix) + at - 1, whole[at]].item() for at in range(begin, len(whole)))
            assert row["scores"][place] == pytest.approx(wanted, abs=1e-4)
        assert row["nll"] == pytest.approx(-row["scores"][item.payload["right"]])
        assert row["correct"] == float(row["choice"] == item.payload["right"])


@torch.no_grad()
def test_a_masked_model_masks_the_options_tokens_one_at_a_time() -> None:
    model = tiny_model("bert")
    row = Questions().measure(Scorer(model, store=False), "test").to_dicts()[0]
    ids = model.sequence_ids("the cat sat on the a long house")
    count = len(model.token_ids("a long house"))
    wanted = 0.0
    for place in range(len(ids) - 1 - count, len(ids) - 1):
        masked = [*ids[:place], model.mask_id, *ids[place + 1 :]]
        wanted += model.hf(torch.tensor([masked])).logits.log_softmax(-1)[0, place, ids[place]].item()
    assert row["scores"][1] == pytest.approx(wanted, abs=1e-4)
    assert row["protocol"] == "option-pll"


def test_normalisation_divides_by_tokens_or_characters() -> None:
    sums, tokens = [-2.0, -3.0, -1.5], [1, 3, 1]
    assert compare_options(_item(), sums, tokens, ChoiceSettings())["choice"] == 2
    assert compare_options(_item(), sums, tokens, ChoiceSettings(normalization="token-mean"))["choice"] == 1
    assert compare_options(_item(), sums, tokens, ChoiceSettings(normalization="character-mean"))["scores"] == [-1.0, -0.75, -1.5]


def test_ties_share_and_choose_nothing() -> None:
    row = compare_options(_item(right=1), [-1.0, -1.0, -5.0], [1, 1, 1], ChoiceSettings())
    assert row["choice"] is None
    assert row["correct"] == 0.5


def test_items_without_one_best_option_are_counted_as_ties() -> None:
    questions = Questions()
    table = questions.measure(Scorer(tiny_model("gpt2"), store=False), "test")
    assert set(evaluate(questions, table, resamples=200)["ties"]) == {0}
    equal = {"choice": pl.lit(None, pl.Int64()), "scores": pl.lit([-2.0, -2.0])}
    second = pl.col("item") == "2"
    tied = table.with_columns(pl.when(second).then(value).otherwise(pl.col(name)).alias(name) for name, value in equal.items())
    assert set(evaluate(questions, tied, resamples=200)["ties"]) == {1}
    collapsed = table.with_columns(value.alias(name) for name, value in equal.items())
    assert set(evaluate(questions, collapsed, resamples=200)["ties"]) == {3}, "a model that tells no options apart"
    unsaid = table.with_columns(choice=pl.lit(None, pl.Int64()))
    assert set(evaluate(questions, unsaid, resamples=200)["ties"]) == {0}, "rows of lm-eval name no choice"
    both = evaluate(questions, table, tied, resamples=200).filter(pl.col("state") == "difference")
    assert set(both["ties"]) == {1}, "in a difference: in either state"


def test_a_bias_item_without_a_right_option_has_a_margin_and_no_accuracy() -> None:
    row = compare_options(_item("bias", None), [-1.0, -3.0, -5.0], [1, 2, 3], ChoiceSettings())
    assert "correct" not in row
    assert math.isclose(row["margin"], 2.0)
    assert row["prefers_stereotype"] == 1
    assert (row["nll"], row["tokens"]) == (9.0, 6)


def test_an_item_too_long_for_the_model_says_so() -> None:
    class Long(Questions):
        context = "the cat " * 3000

    table = Long().measure(Scorer(tiny_model("llama"), store=False), "test")
    assert "positions" in table["skipped"][0]
    assert table["skipped"][1] is None


def test_the_chat_format_needs_a_template_and_a_causal_model() -> None:
    chat = Questions(ChoiceSettings(prompt_format="chat"))
    with pytest.raises(UsageError, match="no chat template"):
        chat.check(tiny_model("gpt2"))
    with pytest.raises(UsageError, match="masked"):
        chat.check(tiny_model("bert"))
    model = tiny_model("gpt2")
    model.tokenizer.chat_template = "{{ messages[0]['content'] }} says{% if add_generation_prompt %} {% endif %}"
    table = chat.measure(Scorer(model, store=False), "test")
    assert set(table["prompt_format"]) == {"chat"}
    assert table["skipped"].null_count() == 3
