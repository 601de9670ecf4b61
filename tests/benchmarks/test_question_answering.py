"""Questions of one form as a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.errors import UsageError
from fairforget.scoring.scorer import Scorer


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("answers", ["letters", "text"])
def test_two_tasks_are_scored_and_told_apart(data_folder: Path, kind: str, answers: str):
    benchmark = resolve("question-answering", {"tasks": ["strategyqa", "openbookqa-resplit"], "answers": answers, "limit": 6})
    table = benchmark.measure(Scorer(tiny_model(kind), store=False), "test")
    assert set(table["task"]) == {"qa-strategyqa", "qa-openbookqa-resplit"}
    assert set(table["protocol"]) == {f"option-{'pll' if kind == 'bert' else 'likelihood'}, answers: {answers}"}
    assert table["correct"].null_count() == 0 and table["nll"].min() > 0  # type: ignore[operator]
    assert "Dealt out anew" in benchmark.caution and benchmark.datasets == ("strategyqa", "openbookqa")


def test_bbq_has_categories_and_targets_as_groups_and_few_items_a_template(data_folder: Path):
    benchmark = resolve("question-answering:bbq", {"items_per_cluster": 2})
    items = benchmark.items("causal", "test")
    assert len(items) == 2 * len({item.cluster for item in items}) == 210
    assert all(not item.groups[0].startswith("target: ") for item in items)
    assert any(group.startswith("target: ") for item in items for group in item.groups)


def test_another_order_lists_the_options_elsewhere(data_folder: Path):
    first, second = (
        resolve("question-answering:strategyqa", {"option_order": order}).items("causal", "test") for order in (0, 1)
    )
    assert [item.id for item in first] == [item.id for item in second]
    moved = sum(one.payload["right"] != two.payload["right"] for one, two in zip(first, second, strict=True))
    assert 0.3 < moved / len(first) < 0.7


def test_questions_of_one_form_are_told_apart_by_their_prompts(data_folder: Path):
    orders = [resolve("question-answering:strategyqa", {"option_order": order}).items("causal", "test") for order in (0, 1)]
    hashes = [[item.prompt_hash for item in items] for items in orders]
    assert len(set(hashes[0])) == len({item.payload["context"] for item in orders[0]})
    for first, second, *keys in zip(*orders, *hashes, strict=True):
        assert (first.payload == second.payload and first.texts == second.texts) == (keys[0] == keys[1])
    again = resolve("question-answering:strategyqa", {"option_order": 0}).items("causal", "test")
    assert [item.prompt_hash for item in again] == hashes[0]


def test_an_unknown_task_is_refused():
    with pytest.raises(UsageError, match="bbqq"):
        resolve("question-answering", {"tasks": ["bbqq"]})
