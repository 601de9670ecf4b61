"""The ledger: transitions by hand, refusals, balance, and sums that equal an obvious count."""

import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fairforget.errors import DataError, FairforgetError
from fairforget.forgetting import LEDGER_SCHEMA, balance, build_ledger, summary
from fairforget.tables import ITEM_SCHEMA, item_table, preference


def row(item, *, role="ability", task="quiz", cluster=None, stratum="s", groups=(), **figures):
    return {
        "benchmark": "toy", "protocol": "sum", "task": task, "role": role, "part": "test", "item": str(item),
        "cluster": cluster or f"c{item}", "stratum": stratum, "groups": list(groups), "texts": ["one", "two"], "prefix": "id 0",
        "prompt_format": "plain", **figures,
    }


def bias(item, margin, **more):
    return row(item, role="bias", task="pairs", margin=margin, prefers_stereotype=preference(margin), **more)


def pair(rows_before, rows_after):
    return item_table(rows_before), item_table(rows_after)


def random_tables(seed, items=60):
    """Two audits with every kind of item: bias with and without `correct`, ability, corpus windows, skipped; groups overlap in some."""
    rng = np.random.default_rng(seed)
    tables = []
    fixed = [(int(rng.integers(0, 8)), list(rng.choice(["a", "b", "c"], rng.integers(0, 3), replace=False))) for _ in range(items)]
    for _ in range(2):
        rows = []
        for item, (cluster, groups) in enumerate(fixed):
            where = {"cluster": f"c{cluster}", "stratum": f"s{cluster % 2}"}
            skipped = {"skipped": "no score"} if rng.random() < 0.05 else None
            kind = item % 4
            if kind == 0:
                figures = {} if skipped else {"correct": float(rng.random() < 0.6), "nll": rng.exponential(3.0), "tokens": 1 + item % 5}
                rows.append(row(item, **where, groups=groups, **figures, **(skipped or {})))
            elif kind == 1:
                figures = {} if skipped else {"nll": rng.exponential(90.0), "tokens": 30 + item}
                rows.append(row(item, task="corpus", **where, groups=["text"], **figures, **(skipped or {})))
            else:
                margin = float(rng.choice([-1.5, -0.2, 0.0, 0.4, 2.0]))
                figures = {} if skipped else {"margin": margin, "prefers_stereotype": preference(margin)}
                if kind == 3 and not skipped:
                    figures["correct"] = float(rng.choice([0.0, 0.5, 1.0]))
                one_group = groups[:1] or ["rest"]
                rows.append(row(item, role="bias", task=f"pairs-{kind}", **where, groups=one_group, **figures, **(skipped or {})))
        tables.append(item_table(rows))
    return tables


class TestTransitions:
    def test_bias(self):
        moves = [
            (1.0, 2.0, "stereotype kept", 0, 0), (1.0, -1.0, "turned away", 1, 0), (-1.0, 1.0, "turned to stereotype", 0, 1),
            (-1.0, -2.0, "anti-stereotype kept", 0, 0), (0.0, 5e-5, "neutral kept", 0, 0), (1.0, 0.0, "turned away", 0.5, 0),
            (0.0, -1.0, "turned away", 0.5, 0), (0.0, 1.0, "turned to stereotype", 0, 0.5), (-1.0, 9e-5, "turned to stereotype", 0, 0.5),
        ]
        ledger = build_ledger(*pair([bias(i, move[0]) for i, move in enumerate(moves)], [bias(i, move[1]) for i, move in enumerate(moves)]))
        assert ledger["transition"].to_list() == [move[2] for move in moves]
        assert ledger["turned_away"].to_list() == [move[3] for move in moves]
        assert ledger["turned_to"].to_list() == [move[4] for move in moves]
        np.testing.assert_allclose(ledger["margin_shift"], [move[0] - move[1] for move in moves])
        assert ledger["kept"].null_count() == len(moves)

    def test_ability(self):
        moves = [
            (1.0, 1.0, "kept", 1, 0, 0, 0), (1.0, 0.0, "lost", 0, 1, 0, 0), (0.0, 1.0, "gained", 0, 0, 1, 0),
            (0.0, 0.0, "never", 0, 0, 0, 1), (0.5, 0.5, "kept", 0.5, 0, 0, 0.5),
            (1.0, 0.5, "lost", 0.5, 0.5, 0, 0), (0.0, 0.5, "gained", 0, 0, 0.5, 0.5),
        ]
        before, after = ([row(i, correct=move[state]) for i, move in enumerate(moves)] for state in (0, 1))
        ledger = build_ledger(*pair(before, after))
        assert ledger.select("transition", "kept", "lost", "gained", "never").rows() == [move[2:] for move in moves]

    def test_corpus_windows_have_likelihood_only(self):
        ledger = build_ledger(*pair([row(0, nll=30.0, tokens=10)], [row(0, nll=32.5, tokens=10)]))
        assert ledger["transition"].to_list() == [None]
        assert ledger["nll_change"].to_list() == [2.5]

    def test_item_skipped_in_one_state_is_in_no_sum(self):
        ledger = build_ledger(*pair([bias(0, 1.0), bias(1, 1.0)], [bias(0, -1.0), row(1, role="bias", task="pairs", skipped="too long")]))
        assert ledger["transition"].to_list() == ["turned away", "skipped"]
        assert ledger["skipped"].to_list() == [None, "too long"]
        total = summary(ledger).row(0, named=True)
        assert (total["n"], total["skipped"], total["clusters"], total["stereotype_before"], total["margin_shift"]) == (1, 1, 1, 1.0, 2.0)


class TestRefusals:
    def tables(self):
        return pair([bias(0, 1.0), row(1, correct=1.0)], [bias(0, -1.0), row(1, correct=0.0)])

    @pytest.mark.parametrize(("column", "value", "words"), [
        ("protocol", "mean", "different protocols: 'protocol' differs in 2 items of toy"), ("prompt_format", "chat", "different protocols"),
        ("prefix", "none", "different protocols: 'prefix'"), ("cluster", "c9", "different items: 'cluster'"),
        ("stratum", "t", "different items: 'stratum'"), ("role", "ability", "different items: 'role' differs in 1 items"),
        ("part", "select", "different parts"), ("benchmark", "other", "different benchmarks"),
        ("item", pl.col("item") + "x", "2 only before and 2 only after"), ("task", "quiz", "1 only before and 1 only after"),
    ])
    def test_different_column(self, column, value, words):
        before, after = self.tables()
        with pytest.raises(DataError, match=words):
            build_ledger(before, after.with_columns((value if isinstance(value, pl.Expr) else pl.lit(value)).alias(column)))

    @pytest.mark.parametrize("column", ["groups", "texts"])
    def test_different_list(self, column):
        before, after = self.tables()
        with pytest.raises(DataError, match=f"different items: '{column}' differs in 2 items") as caught:
            build_ledger(before, after.with_columns(pl.Series(column, [["secret text"]] * 2)))
        assert "secret" not in str(caught.value)

    def test_missing_items(self):
        before, after = self.tables()
        with pytest.raises(DataError, match="1 only before and 0 only after, of toy"):
            build_ledger(before, after.head(1))
        with pytest.raises(DataError, match="'after' has no items"):
            build_ledger(before, after.clear())

    def test_repeated_items(self):
        before, after = self.tables()
        with pytest.raises(DataError, match="'before' names items of toy more than once"):
            build_ledger(pl.concat([before, before]), after)

    def test_missing_column(self):
        before, after = self.tables()
        with pytest.raises(DataError, match="'after' has no column margin"):
            build_ledger(before, after.drop("margin"))

    def test_figure_in_one_table_only(self):
        before, after = self.tables()
        for gap in (None, float("nan")):
            with pytest.raises(DataError, match="1 items of toy have 'correct' in one table only"):
                build_ledger(before, after.with_columns(correct=pl.Series([None, gap], dtype=pl.Float64)))

    def test_token_counts_only_matter_for_one_model(self):
        before, after = pair([row(0, nll=30.0, tokens=10)], [row(0, nll=24.0, tokens=12, prefix="[CLS]")])
        with pytest.raises(DataError, match="'prefix'"):
            build_ledger(before, after)
        with pytest.raises(DataError, match="'tokens'"):
            build_ledger(before, after.with_columns(prefix=pl.lit("id 0")))
        total = summary(build_ledger(before, after, same_model=False)).row(0, named=True)
        assert (total["nll_per_token_before"], total["nll_per_token_after"], total["nll_per_token_change"]) == (3.0, 2.0, -1.0)


class TestSummary:
    def test_spec_counts(self):
        # forgetting.md 6: (n11, n10, n01, n00) = (70, 12, 2, 16) -> lost 12, gained 2, net 10 of 100.
        codes = [(1, 1)] * 70 + [(1, 0)] * 12 + [(0, 1)] * 2 + [(0, 0)] * 16
        ledger = build_ledger(*pair(
            [row(i, correct=float(code[0]), cluster=f"c{i % 20}") for i, code in enumerate(codes)],
            [row(i, correct=float(code[1]), cluster=f"c{i % 20}") for i, code in enumerate(codes)],
        ))
        total = summary(ledger).row(0, named=True)
        names = ("group", "n", "clusters", "kept", "lost", "gained", "never", "net")
        assert tuple(total[name] for name in names) == ("all", 100, 20, 70, 12, 2, 16, 10)
        assert total["turned_away"] is None
        assert total["margin_shift"] is None
        assert total["nll_per_token_change"] is None

    def test_groups_of_biased_forgetting(self):
        # forgetting.md 6: n = (100, 50, 50), right before (80, 40, 45), after (70, 20, 45).
        rows = [[], []]
        for group, count, right_before, right_after in (("x", 100, 80, 70), ("y", 50, 40, 20), ("z", 50, 45, 45)):
            for i in range(count):
                for state, right in enumerate((right_before, right_after)):
                    rows[state].append(row(f"{group}{i}", groups=[group], correct=float(i < right)))
        table = summary(build_ledger(*pair(*rows)))
        assert table["group"].to_list() == ["all", "x", "y", "z"]
        assert table["net"].to_list() == [30, 10, 20, 0]
        np.testing.assert_allclose(table["net"] / table["n"], [0.15, 0.10, 0.40, 0.0])

    def test_an_item_counts_in_each_of_its_groups(self):
        before, after = ([bias(0, margins[0], groups=["a", "b"]), bias(1, margins[1])] for margins in ((1.0, 1.0), (-1.0, 0.0)))
        table = summary(build_ledger(*pair(before, after)))
        assert table.select("group", "n", "turned_away").rows() == [("all", 2, 1.5), ("a", 1, 1.0), ("b", 1, 1.0)]

    def test_likelihood_is_a_ratio_of_sums(self):
        before = [row(0, nll=10.0, tokens=10), row(1, nll=300.0, tokens=100)]
        after = [row(0, nll=30.0, tokens=10), row(1, nll=300.0, tokens=100)]
        assert summary(build_ledger(*pair(before, after)))["nll_per_token_change"].to_list() == [pytest.approx(20 / 110)]

    def test_tasks_keep_their_order_and_identical_states_lose_nothing(self):
        before, _ = random_tables(1)
        ledger = build_ledger(before, before)
        table = summary(ledger)
        tasks = table.filter(pl.col("group") == "all")
        assert tasks["task"].to_list() == before["task"].unique(maintain_order=True).to_list()
        for name in ("lost", "gained", "net", "turned_away", "turned_to", "margin_shift", "nll_per_token_change"):
            assert (table[name].drop_nulls() == 0).all()
            assert table[name].drop_nulls().len() > 0

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 100_000))
    def test_equals_a_plain_count(self, seed):
        before, after = random_tables(seed)
        ledger = build_ledger(before, after)
        assert ledger.schema == pl.Schema(LEDGER_SCHEMA)
        assert ledger["item"].to_list() == before["item"].to_list()
        table = summary(ledger)
        for entry in table.iter_rows(named=True):
            rows = [
                (b, a) for b, a in zip(before.iter_rows(named=True), after.iter_rows(named=True), strict=True)
                if b["task"] == entry["task"] and (entry["group"] == "all" or entry["group"] in b["groups"])
            ]
            both = [(b, a) for b, a in rows if not b["skipped"] and not a["skipped"]]
            assert (entry["n"], entry["skipped"]) == (len(both), len(rows) - len(both))
            assert entry["clusters"] == len({b["cluster"] for b, _ in both})
            judged = [(b["correct"], a["correct"]) for b, a in both if b["correct"] is not None]
            if judged:
                assert entry["net"] == sum(b for b, _ in judged) - sum(a for _, a in judged)
                assert entry["lost"] == sum(max(b - a, 0) for b, a in judged)
                assert entry["kept"] + entry["lost"] + entry["gained"] + entry["never"] == len(judged)
            else:
                assert entry["net"] is None
            margins = [b["margin"] - a["margin"] for b, a in both if b["margin"] is not None]
            assert entry["margin_shift"] == (pytest.approx(np.mean(margins)) if margins else None)
            tokens = sum(b["tokens"] for b, _ in both if b["tokens"])
            if tokens:
                assert entry["nll_per_token_change"] == pytest.approx(sum(a["nll"] - b["nll"] for b, a in both) / tokens)

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 100_000))
    def test_swapping_the_states_swaps_the_account(self, seed):
        before, after = random_tables(seed)
        there, back = summary(build_ledger(before, after)), summary(build_ledger(after, before))
        assert_frame_equal(there.select("n", "kept", "never", lost="lost", gained="gained", turned_away="turned_away"),
                           back.select("n", "kept", "never", lost="gained", gained="lost", turned_away="turned_to"))
        np.testing.assert_allclose(there["margin_shift"].drop_nulls(), -back["margin_shift"].drop_nulls(), atol=1e-12)


class TestBalance:
    def ledger(self):
        return build_ledger(*random_tables(7))

    def test_holds_after_a_round_trip(self, tmp_path):
        ledger = self.ledger()
        ledger.write_parquet(tmp_path / "ledger.parquet")
        again = pl.read_parquet(tmp_path / "ledger.parquet")
        balance(again)
        assert_frame_equal(summary(again), summary(ledger))

    @pytest.mark.parametrize("name", ["kept", "lost", "gained", "never", "turned_away", "turned_to", "margin_shift", "nll_change"])
    def test_a_changed_figure_is_found(self, name):
        ledger = self.ledger()
        place = ledger[name].is_not_null().arg_true()[0]
        changed = ledger.with_columns(pl.when(pl.int_range(pl.len()) == place).then(pl.col(name) + 0.25).otherwise(name).alias(name))
        with pytest.raises(FairforgetError, match=f"does not balance: '{name}' of 1 items"):
            balance(changed)

    @pytest.mark.parametrize("name", ["correct_before", "prefers_stereotype_after", "nll_before", "margin_after"])
    def test_a_changed_measurement_is_found(self, name):
        ledger = self.ledger()
        place = ledger[name].is_not_null().arg_true()[0]
        changed = ledger.with_columns(pl.when(pl.int_range(pl.len()) == place).then(0.75).otherwise(name).alias(name))
        with pytest.raises(FairforgetError, match="does not balance"):
            balance(changed)

    def test_a_changed_transition_is_found(self):
        ledger = self.ledger()
        with pytest.raises(FairforgetError, match="'transition' of"):
            balance(ledger.with_columns(transition=pl.lit("kept")))

    def test_an_item_entered_twice_is_found(self):
        ledger = self.ledger()
        with pytest.raises(FairforgetError, match="an item occurs twice"):
            balance(pl.concat([ledger, ledger.head(1)]))

    def test_a_cluster_in_two_strata_is_found(self):
        before, after = pair([row(i, correct=1.0, cluster="c", stratum=f"s{i}") for i in range(2)],
                             [row(i, correct=0.0, cluster="c", stratum=f"s{i}") for i in range(2)])
        with pytest.raises(FairforgetError, match="'clusters' of the strata"):
            build_ledger(before, after)

    def test_not_a_ledger(self):
        with pytest.raises(DataError, match="no column transition"):
            balance(self.ledger().drop("transition"))


def test_58_000_items_are_quick():
    rng = np.random.default_rng(0)
    count = 58_000
    place = pl.int_range(count, eager=True)
    tables = [
        pl.DataFrame(schema=ITEM_SCHEMA).clear(count).with_columns(
            benchmark=pl.lit("toy"), protocol=pl.lit("sum"), task=pl.lit("quiz"), role=pl.lit("ability"), part=pl.lit("test"),
            item=place.cast(pl.String), cluster=(place % 500).cast(pl.String), stratum=(place % 10).cast(pl.String),
            groups=pl.concat_list((place % 11).cast(pl.String), (place % 11 // 2 + 20).cast(pl.String)),
            correct=pl.Series(rng.random(count) < 0.7).cast(pl.Float64),
        )
        for _ in range(2)
    ]
    start = time.perf_counter()
    table = summary(build_ledger(*tables))
    assert time.perf_counter() - start < 3.0
    assert table.height == 1 + 11 + 6
    assert table["net"][0] == tables[0]["correct"].sum() - tables[1]["correct"].sum()
