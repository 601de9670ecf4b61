"""The batch plan against all possible plans, and tries too deep or too wide for one pass."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from fairforget.scoring import ContinuationRequest, Scorer
from fairforget.scoring.planning import batches_by_length
from fairforget.scoring.trie import build_trie

LLAMA = tiny_model("llama")


def cost(batches: list[list[int]], lengths: list[int], forward_cost: int) -> int:
    return sum(len(batch) * max(max(lengths[index] for index in batch), 1) + forward_cost for batch in batches)


def all_plans(lengths: list[int], budget: int) -> list[list[list[int]]]:
    """Every way of cutting the elements, longest first, into batches within the budget."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plans = []
    for cuts in product([False, True], repeat=len(order) - 1):
        edges = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(order)]
        plan = [order[start:end] for start, end in pairwise(edges)]
        if all(len(batch) == 1 or len(batch) * max(lengths[batch[0]], 1) <= budget for batch in plan):
            plans.append(plan)
    return plans


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    budget=st.integers(1, 40),
    forward_cost=st.integers(0, 30),
)
def test_no_plan_is_cheaper(lengths: list[int], budget: int, forward_cost: int) -> None:
    plan = batches_by_length(range(len(lengths)), lengths, budget, forward_cost)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget for batch in plan)
    assert cost(plan, lengths, forward_cost) == min(cost(other, lengths, forward_cost) for other in all_plans(lengths, budget))


def test_equal_lengths_keep_their_order_and_long_ones_come_first() -> None:
    plan = batches_by_length("abcdefg", [2, 9, 2, 2, 9, 5, 2], 1000, 0)
    assert [list(batch) for batch in plan] == [["b", "e"], ["f"], ["a", "c", "d", "g"]]
    assert batches_by_length([], [], 10, 5) == []


def branching_text(length: int) -> list[ContinuationRequest]:
    """One text, and at each of its places a request that leaves it there."""
    text = tuple(np.random.default_rng(0).integers(6, 60, length).tolist())
    return [ContinuationRequest(text[:place], (61, 62)) for place in range(1, length)]


@pytest.mark.parametrize("budget", [8, 64, 1024])
def test_a_text_that_branches_at_every_place(budget: int) -> None:
    requests = branching_text(40)
    apart = Scorer(LLAMA, store=False, share_prefixes=False).score(requests)
    scorer = Scorer(LLAMA, store=False, token_budget=budget)
    for one, other in zip(scorer.score(requests), apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert scorer.counts.tokens < sum(len(request.context) + 1 for request in requests) / 4


def test_thousands_of_branchings_fit_the_stack() -> None:
    requests = branching_text(5000)
    roots = build_trie(requests)
    assert set().union(*(root.requests() for root in roots)) == set(range(len(requests)))


def test_parents_of_unlike_lengths_from_several_passes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    contexts = [tuple(generator.integers(6, 60, int(length)).tolist()) for length in generator.integers(3, 40, 30)]
    requests = [ContinuationRequest(context, (60 + option, *range(6, 8 + option))) for context in contexts for option in range(3)]
    seen: list[tuple[int, int]] = []
    hidden = type(LLAMA).hidden

    def watched(self, ids: torch.Tensor, mask: torch.Tensor, **options: object) -> torch.Tensor:
        if options.get("cache") is not None and mask.shape[1] > ids.shape[1]:
            past = mask[:, : mask.shape[1] - ids.shape[1]].sum(dim=1)
            seen.append((int(past.min()), int(past.max())))
        return hidden(self, ids, mask, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(LLAMA), "hidden", watched)
    shared = Scorer(LLAMA, store=False, token_budget=200).score(requests)
    assert any(longest > 2 * shortest for shortest, longest in seen)
    monkeypatch.undo()
    for one, other in zip(shared, Scorer(LLAMA, store=False, share_prefixes=False).score(requests), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
