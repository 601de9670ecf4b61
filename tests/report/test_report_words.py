import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.report.changed_items import changed_items, is_change, text_differences
from fairforget.report.comparisons import Comparison, Measurement, comparisons, reported_part, shared_notes
from fairforget.report.number_words import bounds, count, duration, number, quantity


def plain(text):
    return text.replace("\u00a0", " ").replace("−", "-")


@pytest.mark.parametrize(
    ("value", "unit", "signed", "words"),
    [
        (57.34, "%", False, "57.3 %"),
        (-3.21, "%", True, "-3.2 pp"),
        (0.04, "%", True, "0.0 pp"),
        (-0.04, "%", True, "0.0 pp"),
        (0.1234, "nats", True, "+0.123 nats"),
        (24567.891, "ppl", False, "24 567.89 ppl"),
        (1.54575e11, "ppl", False, "1.546e+11 ppl"),
        (1.0111, "ratio", False, "×1.011"),
        (0.25, "ratio", True, "+0.250"),
        (12.34567, "minutes", False, "12.35 minutes"),
        (3.0, None, False, "3"),
        (None, "%", False, "–"),
        (math.nan, "%", False, "–"),
        (math.inf, "ppl", False, "∞ ppl"),
    ],
)
def test_quantities(value, unit, signed, words):
    assert plain(quantity(value, unit, signed=signed)) == words


def test_bounds_counts_and_durations():
    assert plain(bounds(-0.5, 0.25, "nats", signed=True)) == "[-0.500, +0.250]"
    assert bounds(math.nan, 1.0, "%") == bounds(None, 1.0, "%") == ""
    assert plain(count(1234567)) == "1 234 567" and count(None) == "–"
    assert [plain(duration(seconds)) for seconds in (4.26, 250, 3720, None)] == ["4.3 s", "4 min 10 s", "1 h 2 min", "–"]


@given(st.floats(-1e6, 1e6), st.sampled_from(["%", "nats", "ppl", "ratio"]))
def test_a_printed_number_is_the_rounded_number(value, unit):
    decimals = {"%": 1, "nats": 3, "ppl": 2, "ratio": 3}[unit]
    printed = number(value, unit, signed=True)
    assert float(printed.replace("−", "-").replace("\u00a0", "")) == pytest.approx(round(value, decimals), abs=10**-decimals / 2)
    assert ("+" in printed) == (float(printed.replace("−", "-").replace("\u00a0", "")) > 0)


def compared(before, after, low, high, better="neutral", neutral=50.0):
    level = [Measurement(value, value - 1, value + 1) for value in (before, after)]
    change = Measurement(after - before, low, high)
    return Comparison("test", "b", "p", "t", "m", "all", "%", better, neutral, 0.0, level[0], level[1], change)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (compared(60, 55, -8, -2), "closer to neutral"),
        (compared(60, 65, 2, 8), "further from neutral"),
        (compared(60, 42, -20, -16), "closer to neutral, on the other side"),
        (compared(60, 35, -30, -20), "reversed: further from neutral, on the other side"),
        (compared(60, 59, -3, 1), "no difference shown"),
        (compared(60, 55, None, None), "no interval, so no claim"),
        (compared(60, 60, None, None), "no change"),
        (compared(80, 70, -12, -8, "higher", None), "lower (worse)"),
        (compared(80, 90, 8, 12, "higher", None), "higher (better)"),
        (compared(20, 22, 1, 3, "lower", None), "higher (worse)"),
    ],
)
def test_readings(row, words):
    assert row.reading == words


def metric_row(state, value, **fields):
    row = {
        "state": state,
        "part": "test",
        "benchmark": "perplexity",
        "protocol": "token",
        "task": "perplexity",
        "metric": "perplexity_ratio",
        "group": "all",
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "neutral": None,
        "unit": "ratio",
        "better": "lower",
        "n": 5,
        "clusters": 5,
        "ties": None,
        "skipped": 0,
        "note": "",
        "prefix": "id 0",
    }
    return row | fields


def test_a_ratio_is_judged_against_one():
    kept, risen = (comparisons(pl.DataFrame([metric_row("difference", value, neutral=1.0)]))[0] for value in (1.005, 1.03))
    assert (kept.no_change, kept.neutral, kept.reading) == (1.0, None, "no difference shown")
    assert risen.reading == "higher (worse)" and risen.text("difference") == "×1.030"


def test_the_neutral_point_is_that_of_a_state_and_not_of_a_difference():
    states = (("difference", -5.0, 0.0), ("base", 60.0, 50.0), ("edited", 55.0, 50.0))
    rows = [metric_row(state, value, unit="%", better="neutral", neutral=neutral) for state, value, neutral in states]
    (row,) = comparisons(pl.DataFrame(rows))
    assert (row.neutral, row.no_change, row.reading) == (50.0, 0.0, "closer to neutral")


def test_notes_are_said_once_and_counts_show_a_change():
    rows = comparisons(
        pl.DataFrame(
            [
                metric_row("difference", 1.1, group=group, note=f"simultaneous over 2 groups; {group}", n=n)
                for group, n in (("one", 4), ("two", 6))
            ]
        )
    )
    assert shared_notes(rows) == ["simultaneous over 2 groups"]
    states = [metric_row("base", 60.0, ties=4), metric_row("edited", 55.0, ties=2), metric_row("difference", -5.0, ties=5)]
    assert "ties 4 → 2" in comparisons(pl.DataFrame(states))[0].counts_text


def test_the_reported_part_is_test():
    rows = comparisons(pl.DataFrame([metric_row("base", 1.0, part=part) for part in ("select", "test")]))
    assert reported_part(rows) == "test" and reported_part(rows[:1]) == "select"


@given(st.lists(st.text(alphabet="ab <>&c", max_size=30), min_size=1, max_size=3))
def test_differences_keep_every_word(texts):
    for text, segments in zip(texts, text_differences(texts), strict=True):
        assert " ".join(part for part, _ in segments).split() == text.split()


def test_differences_mark_what_differs():
    first, second = text_differences(["a b c d", "a x c d e"])
    assert first == [("a", False), ("b", True), ("c d", False)]
    assert second == [("a", False), ("x", True), ("c d", False), ("e", True)]


def ledger(transitions, margins):
    return pl.DataFrame(
        {
            "benchmark": "b",
            "task": "t",
            "role": "bias",
            "item": [f"i{number}" for number in range(len(transitions))],
            "groups": [["g", "h"]] * len(transitions),
            "transition": transitions,
            "margin_before": [1.0] * len(transitions),
            "margin_after": margins,
        }
    )


def test_changed_items_are_counted_and_ordered_by_movement(tmp_path):
    table = ledger(["turned away", "stereotype kept", "turned away", "turned to stereotype", "tie kept"], [-1.0, 9.0, -5.0, 4.0, 1.0])
    texts = pl.DataFrame({"benchmark": "b", "task": "t", "item": ["i2"], "texts": [["x y", "x z"]]})
    texts.write_parquet(tmp_path / "items.parquet")
    (task,) = changed_items(table, [tmp_path / "items.parquet"])
    assert [item.item for item in task.strongest] == ["i2", "i3", "i0"]
    assert (task.items, task.changed, sum(row.items for row in task.counts)) == (5, 3, 5)
    assert plain(task.strongest[0].change) == "-6.000 nats" and task.strongest[0].groups == "g, h"
    assert task.strongest[0].texts == [[("x", False), ("y", True)], [("x", False), ("z", True)]]
    assert task.strongest[1].texts == []


def test_what_counts_as_a_change():
    assert all(is_change(name) for name in ("lost", "gained", "turned away", "turned to stereotype"))
    assert not any(is_change(name) for name in ("kept", "never", "neutral kept", "stereotype kept", "anti-stereotype kept", "skipped"))


def test_an_empty_ledger_lists_nothing():
    assert changed_items(ledger([], []).with_columns(pl.col("transition").cast(pl.String)), []) == []


def test_rows_of_a_pooled_task_meet_whatever_the_order_of_their_protocols():
    states = [
        metric_row(state, 1.0, protocol=protocol) for state, protocol in (("base", "a; b"), ("edited", "a; b"), ("difference", "b; a"))
    ]
    (row,) = comparisons(pl.DataFrame(states))
    assert row.protocol == "a; b" and len(row.measurements) == 3


def test_a_caution_is_left_to_the_page():
    (row,) = comparisons(pl.DataFrame([metric_row("base", 1.0, note="careful; too few clusters (2)")]), ["careful"])
    assert row.notes == ["too few clusters (2)"]


def test_tasks_are_named_once():
    rows = comparisons(pl.DataFrame([metric_row("base", 1.0, task=task) for task in ("perplexity", "perplexity-wikitext2", "other")]))
    assert [row.task_name for row in rows] == ["perplexity", "perplexity · wikitext2", "perplexity · other"]
