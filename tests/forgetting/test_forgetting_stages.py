"""Ledgers of several stages: telescoping, hashes, drift, order of tasks, and imported logs."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import choices, row

from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.forgetting import (
    Step,
    balance,
    build_ledger,
    chain_ledger,
    end_state,
    items_from_lm_eval,
    join_ledgers,
    order_effect,
    span,
    summary,
    transitions,
)
from fairforget.tables import item_table

KEY = ["benchmark", "task", "item"]


def audits(states):
    return [item_table([row(i, correct=float(value), nll=3.0 + value, tokens=2) for i, value in enumerate(own)]) for own in states]


class TestChain:
    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 100_000), st.integers(2, 4))
    def test_stages_telescope(self, seed, stages):
        rng = np.random.default_rng(seed)
        states = rng.choice([0.0, 0.5, 1.0], (stages + 1, 12))
        ledger = chain_ledger(audits(states), [f"stage {i}" for i in range(stages)], step=Step(run="r", seed=3))
        parts = [transitions(ledger.filter(stage=number + 1)).forgetting for number in range(stages)]
        whole = transitions(span(ledger, 1, stages))
        assert sum(parts) == pytest.approx(whole.forgetting) == pytest.approx(states[0].mean() - states[-1].mean())
        assert span(ledger, 1, stages)["nll_change"].sum() == pytest.approx(ledger["nll_change"].sum())
        assert summary(ledger)["stage"].to_list() == list(range(1, stages + 1))

    def test_step_and_states(self):
        step = Step(run="r", tokenizer_hash="t")
        ledger = chain_ledger(audits([[1, 1], [0, 1], [1, 1]]), ["a", "b"], step=step, states=["s0", "s1", "s2"])
        names = ["run", "seed", "stage", "stage_name", "state_before", "state_after", "tokenizer_hash"]
        steps = ledger.select(names).unique(maintain_order=True)
        assert steps.rows() == [("r", 0, 1, "a", "s0", "s1", "t"), ("r", 0, 2, "b", "s1", "s2", "t")]
        both = span(ledger, 1, 2)
        assert both.select("stage_name", "state_before", "state_after").unique().rows() == [("a > b", "s0", "s2")]
        assert span(ledger, 2, 2)["transition"].to_list() == ["gained", "kept"]

    def test_refusals(self):
        tables = audits([[1, 1], [0, 1], [1, 1]])
        with pytest.raises(UsageError, match="2 stages needs an audit"):
            chain_ledger(tables[:2], ["a", "b"])
        ledger = chain_ledger(tables, ["a", "b"])
        with pytest.raises(UsageError, match="no span from stage 2 to 3"):
            span(ledger, 2, 3)
        with pytest.raises(UsageError, match="no ledger to join"):
            join_ledgers([])
        with pytest.raises(UsageError, match="counted from 1"):
            Step(stage=0)
        with pytest.raises(FairforgetError, match="occurs twice"):
            join_ledgers([ledger, ledger])

    def test_a_stage_that_begins_elsewhere_is_found(self):
        ledger = chain_ledger(audits([[1, 1], [0, 1], [1, 1]]), ["a", "b"])
        first, second = ledger.filter(stage=1), ledger.filter(stage=2)
        other = build_ledger(*audits([[1, 1], [1, 1]]), step=Step(stage=2))
        with pytest.raises(FairforgetError, match="'correct' of 1 items"):
            join_ledgers([first, other])
        with pytest.raises(FairforgetError, match="stage between two others"):
            balance(pl.concat([first, second.with_columns(stage=pl.lit(3, pl.Int64))]))
        with pytest.raises(FairforgetError, match="different items"):
            balance(pl.concat([first, second.head(1)]))
        with pytest.raises(FairforgetError, match="'state' of 2 items"):
            balance(pl.concat([first.with_columns(state_after=pl.lit("s1")), second]))
        with pytest.raises(FairforgetError, match="'prompt' of 2 items"):
            balance(pl.concat([first, second.with_columns(prompt_hash=pl.lit("0"))]))

    def test_an_item_skipped_midway_is_skipped_in_the_span(self):
        tables = audits([[1, 1], [0, 1], [1, 1]])
        tables[1] = item_table([row(0, skipped="too long"), row(1, correct=1.0, nll=4.0, tokens=2)])
        both = span(chain_ledger(tables, ["a", "b"]), 1, 2)
        assert both["skipped"].to_list() == ["too long", None]
        assert both["transition"].to_list() == ["skipped", "kept"]


class TestRows:
    def test_prompt_hash_is_what_was_asked(self):
        before = item_table([row(0, correct=1.0), row(1, correct=1.0), row(2, correct=1.0, texts=("other",))])
        hashes = build_ledger(before, before)["prompt_hash"].to_list()
        assert hashes[0] == hashes[1] != hashes[2]
        assert len(hashes[0]) == 16
        chat = before.with_columns(prompt_format=pl.lit("chat"))
        assert build_ledger(chat, chat)["prompt_hash"][0] != hashes[0]

    def test_answers_are_the_best_texts(self):
        states = [item_table([row(0, scores=one, correct=1.0), row(1, scores=two, correct=1.0), row(2, correct=1.0)])
                  for one, two in (([-1.0, -3.0], [-2.0, -2.0 + 1e-6, -9.0]), ([-4.0, -3.0], [-2.0, -5.0, -1.0]))]
        ledger = build_ledger(*states)
        assert ledger["answer_before"].to_list() == [0, None, None]
        assert ledger["answer_after"].to_list() == [1, 2, None]

    def test_drift(self):
        tables = audits([[1, 1], [0, 1]])
        drift = tables[0].select(KEY).with_columns(kl=pl.Series([0.25, 0.0]))
        assert build_ledger(*tables, drift=drift)["kl"].to_list() == [0.25, 0.0]
        assert build_ledger(*tables, drift=drift.head(1))["kl"].to_list() == [0.25, None]
        for wrong, words in (
            (drift.drop("kl"), "no column kl"), (pl.concat([drift, drift]), "one twice"),
            (drift.with_columns(item=pl.lit("q")), "2 items that the"),
            (drift.with_columns(kl=pl.lit(-0.1)), "negative"), (drift.with_columns(kl=pl.lit(float("nan"))), "not a number"),
        ):
            with pytest.raises(DataError, match=words):
                build_ledger(*tables, drift=wrong)
        with pytest.raises(FairforgetError, match="'kl' is negative"):
            balance(build_ledger(*tables, drift=drift).with_columns(kl=pl.lit(-1.0)))


class TestOrder:
    def test_order_effect(self):
        safety = choices([1.0] * 40, [0.0, 1.0] * 20, task="safety")
        capability = choices([1.0] * 50, [0.0] + [1.0] * 4 + [0.0] + [1.0] * 44, task="capability", step=Step(run="C > S"))
        found = order_effect(safety, capability, resamples=500)
        assert (found.safety.value, found.capability.value) == (pytest.approx(0.5), pytest.approx(0.04))
        assert found.difference.value == pytest.approx(0.46)
        own = np.hypot(found.safety.standard_error, found.capability.standard_error)
        assert found.difference.standard_error == pytest.approx(own, rel=1e-6)

    def test_end_state(self):
        first = choices([1.0] * 30, [0.0] * 10 + [1.0] * 20, step=Step(run="S > C"))
        second = choices([0.5] * 30, [0.0] * 2 + [1.0] * 27 + [0.0], step=Step(run="C > S"))
        found = end_state(first, second, resamples=500)
        assert found.difference.value == pytest.approx(7 / 30)
        assert (found.changed.lost, found.changed.gained) == (1, 8)
        assert found.flips.p_value < 0.06
        with pytest.raises(DataError, match="same items"):
            end_state(first, second.head(29))


def log(path, correct, scores, extra=None):
    lines = [
        {
            "doc_id": i, "doc": {"who": "x" if i % 2 else "y", "place": i // 2}, "target": "1", "filter": "none", "metrics": ["acc"],
            "acc": value,
            "arguments": {f"gen_args_{j}": {"arg_0": f"Question {i}?", "arg_1": f" option {j}"} for j in range(len(scores))},
            "filtered_resps": [[str(score), "False"] for score in scores], **(extra or {}),
        }
        for i, value in enumerate(correct)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


class TestLogs:
    def test_two_logs_make_a_ledger(self, tmp_path):
        read = {"task": "arc", "groups": "who", "cluster": "place", "stratum": lambda doc: str(type(doc).__name__)}
        before = items_from_lm_eval(log(tmp_path / "a.jsonl", [1, 1, 0, 1], [-4.0, -2.5]), **read)
        after = items_from_lm_eval(log(tmp_path / "b.jsonl", [0.0, 1.0, 0.0, 1.0], [-2.0, -3.0]), **read)
        ledger = build_ledger(before, after)
        assert ledger["transition"].to_list() == ["lost", "kept", "never", "kept"]
        assert ledger["groups"].to_list() == [["y"], ["x"], ["y"], ["x"]]
        assert ledger["cluster"].to_list() == ["0", "0", "1", "1"]
        assert ledger["nll_change"].to_list() == [0.5] * 4
        assert (ledger["answer_before"][0], ledger["answer_after"][0], ledger["options"][0]) == (1, 0, 2)
        assert before["texts"][0].to_list() == ["Question 0? option 0", "Question 0? option 1"]

    def test_generated_answers_have_a_metric_only(self, tmp_path):
        path = log(tmp_path / "a.jsonl", [1, 0], [], extra={"filtered_resps": ["forty-two"], "exact_match": 1.0})
        table = items_from_lm_eval(path, task="gsm8k", metric="exact_match")
        assert table["correct"].to_list() == [1.0, 1.0]
        assert table["nll"].null_count() == 2
        assert table["cluster"].to_list() == ["0", "1"]

    def test_refusals(self, tmp_path):
        path = log(tmp_path / "a.jsonl", [1], [-1.0, -2.0])
        with pytest.raises(DataError, match="no figure 'f1'; its metrics are acc"):
            items_from_lm_eval(path, task="t", metric="f1")
        with pytest.raises(DataError, match="no field 'q'; its fields are place, who"):
            items_from_lm_eval(path, task="t", groups="q")
        with pytest.raises(DataError, match="holds the filters none"):
            items_from_lm_eval(path, task="t", filter_name="strict")
        (tmp_path / "b.jsonl").write_text("[1]", encoding="utf-8")
        for name in ("b.jsonl", "none.jsonl"):
            with pytest.raises(DataError, match="sample log"):
                items_from_lm_eval(tmp_path / name, task="t")
        with pytest.raises(DataError, match="not a share"):
            items_from_lm_eval(log(tmp_path / "c.jsonl", [7], [-1.0, -2.0]), task="t")
