from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._subset import SubsetSettings, subset


def _items(sizes: dict[str, int], stratum: str = "a") -> list[Item]:
    return [
        Item(f"{cluster}-{place}", "task", "bias", "test", cluster, stratum, (), ("x", "y"))
        for cluster, size in sizes.items() for place in range(size)
    ]


def test_everything_is_measured_by_default() -> None:
    items = _items({"p": 2, "q": 1})
    assert subset(items, SubsetSettings()) == items


def test_a_share_keeps_whole_clusters_of_every_stratum() -> None:
    items = _items({f"p{number}": 2 for number in range(10)}) + _items({f"q{number}": 1 for number in range(5)}, "b")
    kept = subset(items, SubsetSettings(share=0.2))
    assert [sum(item.stratum == name for item in kept) for name in ("a", "b")] == [4, 1]
    assert {item.cluster for item in kept}.isdisjoint({item.cluster for item in items if item not in kept})


def test_a_limit_counts_items_and_keeps_at_least_one_cluster() -> None:
    assert len(subset(_items({f"p{number}": 1 for number in range(9)}), SubsetSettings(limit=4))) == 4
    assert len(subset(_items({"p": 7}), SubsetSettings(limit=4))) == 7
    assert len(subset(_items({f"p{number}": 3 for number in range(9)}), SubsetSettings(limit=4))) == 3


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.permutations([f"p{number}" for number in range(12)]))
def test_a_smaller_share_is_part_of_a_larger_one_in_any_order(one: float, other: float, names: list[str]) -> None:
    small, large = sorted((one, other))
    inside = {item.id for item in subset(_items(dict.fromkeys(names, 1)), SubsetSettings(share=small))}
    outside = {item.id for item in subset(_items(dict.fromkeys(sorted(names), 1)), SubsetSettings(share=large))}
    assert inside <= outside
