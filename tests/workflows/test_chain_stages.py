"""What the stages of a chain are trained on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairforget.data.training import TrainingText
from fairforget.workflows.chain_stages import draw_by_group, even_draw

GROUP_SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1)


def rows_of(sizes: dict[str, int]) -> list[TrainingText]:
    names = [(group, f"{group} {number}") for group, size in sizes.items() for number in range(size)]
    return [TrainingText(name, (group,), name, prompt="q ") for group, name in names]


@given(GROUP_SIZES, st.floats(0.01, 1), st.sampled_from(["group", "balanced", "plain"]))
def test_a_draw_has_the_asked_size_and_no_row_twice(sizes: dict[str, int], share: float, draw: str):
    rows = rows_of(sizes)
    count = max(1, round(share * len(rows)))
    drawn = draw_by_group(rows, count, draw, 3)
    assert len(drawn) == count and len({row.text for row in drawn}) == count
    assert drawn == draw_by_group(rows, count, draw, 3)
    assert [rows.index(row) for row in drawn] == sorted(rows.index(row) for row in drawn)


def test_groups_are_drawn_by_their_share_or_alike():
    rows = rows_of({"a": 80, "b": 16, "c": 4})
    assert Counter(row.groups[0] for row in draw_by_group(rows, 25, "group", 0)) == {"a": 20, "b": 4, "c": 1}
    assert Counter(row.groups[0] for row in draw_by_group(rows, 12, "balanced", 0)) == {"a": 4, "b": 4, "c": 4}
    few = Counter(row.groups[0] for row in draw_by_group(rows, 30, "balanced", 0))
    assert few["c"] == 4 and few.total() == 30


@pytest.mark.parametrize("most", [None, 5, 500])
def test_an_even_draw_keeps_the_order(most: int | None):
    rows = rows_of({"a": 30})
    drawn = even_draw(rows, most, 1, 2)
    assert len(drawn) == min(most or 30, 30) and drawn == sorted(drawn, key=rows.index)
    assert most != 5 or drawn != even_draw(rows, most, 2, 2)
