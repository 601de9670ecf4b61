"""Sums, inner products and projections against their dense counterparts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit, add, combine, inner_product, merged_tensors, project
from fairforget.errors import UsageError


def record(base: str = "0" * 64) -> EditRecord:
    return EditRecord(method="test", base_source="somewhere", base_hash=base, family="causal")


def low_rank(seed: int, rank: int = 2, scale: float = 1.5) -> WeightEdit:
    generator = torch.Generator().manual_seed(seed)
    return WeightEdit({"w": LowRank(torch.randn(rank, 5, generator=generator), torch.randn(4, rank, generator=generator), scale)}, record())


def dense(*values: float) -> WeightEdit:
    return WeightEdit({"w": Dense(torch.tensor(values))}, record())


def matrix(edit: WeightEdit) -> torch.Tensor:
    return edit.strength * edit.deltas["w"].matrix(transposed=False, dtype=torch.float64)


@given(
    seed=st.integers(0, 1000),
    ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    weights=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
@settings(max_examples=40, deadline=None)
def test_low_rank_sum_and_inner_product_equal_the_dense_ones(seed, ranks, weights):
    first, second = low_rank(seed, ranks[0]), low_rank(seed + 1, ranks[1], scale=-0.5).at(0.3)
    total = combine([(first, weights[0]), (second, weights[1])])
    assert total.strength == 1.0
    assert total.deltas["w"].rank == sum(ranks)
    torch.testing.assert_close(matrix(total), weights[0] * matrix(first) + weights[1] * matrix(second), rtol=1e-5, atol=1e-5)
    assert inner_product(first, second) == pytest.approx(float((matrix(first) * matrix(second)).sum()), rel=1e-9, abs=1e-9)


def test_same_factor_keeps_the_rank_and_cancels_exactly():
    edit = low_rank(3)
    doubled, nothing = add(edit, edit), combine([(edit, 1.0), (edit, -1.0)])
    assert doubled.deltas["w"].rank == 2
    torch.testing.assert_close(matrix(doubled), 2 * matrix(edit))
    assert not nothing.deltas["w"].B.any()


def test_dense_sum_keeps_parameters_that_one_edit_has():
    other = WeightEdit({"v": Dense(torch.tensor([5.0]))}, record())
    total = combine([(dense(1.0, 2.0), 2.0), (dense(1.0, -1.0).at(0.5), 1.0), (other, -1.0)])
    torch.testing.assert_close(total.deltas["w"].delta, torch.tensor([2.5, 3.5]))
    torch.testing.assert_close(total.deltas["v"].delta, torch.tensor([-5.0]))


def test_dense_and_low_rank_changes_of_one_conv1d_weight_add_up(make_model, make_low_rank, make_dense):
    model = make_model("gpt2")
    parts = [make_low_rank(model).at(0.5), make_dense(model)]
    with pytest.raises(UsageError, match="give model="):
        add(*parts)
    total = add(*parts, model=model)
    apart, together = merged_tensors(model, parts), merged_tensors(model, total)
    assert apart.keys() == together.keys()
    for name in apart:
        torch.testing.assert_close(together[name], apart[name], rtol=1e-5, atol=1e-5)
    name = "transformer.h.0.attn.c_attn.weight"
    flat = parts[0].deltas[name].matrix(transposed=True, dtype=torch.float64) * 0.5 * parts[1].deltas[name].delta
    assert inner_product(*parts, model=model) == pytest.approx(float(flat.sum()), rel=1e-6)
    assert inner_product(parts[1], parts[0], model=model) == pytest.approx(float(flat.sum()), rel=1e-6)


def test_hooks_of_a_sum_equal_the_hooks_of_its_parts(model, make_low_rank, logits):
    first, second = make_low_rank(model, seed=1), make_low_rank(model, seed=2).at(-0.4)
    with first.applied(model), second.applied(model):
        expected = logits(model)
    with add(first, second).applied(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_known_answer_of_a_projection():
    torch.testing.assert_close(project(dense(1.0, 1.0), [dense(1.0, 0.0)]).deltas["w"].delta, torch.tensor([0.0, 1.0]))


def test_projection_is_orthogonal_even_to_dependent_directions():
    edit, one, two = low_rank(1).at(0.7), low_rank(2), low_rank(3)
    away = [one, two, add(one, two)]
    left = project(edit, away)
    size = inner_product(edit, edit) ** 0.5
    for other in away:
        assert abs(inner_product(left, other)) < 1e-5 * size * inner_product(other, other) ** 0.5
    removed = matrix(edit) - matrix(left)
    plane = torch.stack([matrix(one).flatten(), matrix(two).flatten()])
    best = torch.linalg.lstsq(plane.T, matrix(edit).flatten()[:, None]).solution
    torch.testing.assert_close(removed.flatten(), (plane.T @ best).flatten(), rtol=1e-4, atol=1e-4)


def test_record_of_a_sum_names_its_parts():
    total = combine([(dense(1.0), 0.25), (dense(3.0).at(0.5), -1.0)])
    assert [(part["strength"], part["weight"]) for part in total.record.settings["parts"]] == [(1.0, 0.25), (0.5, -1.0)]
    assert total.record.provenance["parts"][0]["method"] == "test"


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        combine([])
    with pytest.raises(UsageError, match="different base models"):
        add(dense(1.0), WeightEdit({"w": Dense(torch.ones(1))}, record("1" * 64)))
    with pytest.raises(UsageError, match="different shapes"):
        add(dense(1.0), dense(1.0, 2.0))
    with pytest.raises(UsageError, match="different shapes"):
        inner_product(low_rank(1), WeightEdit({"w": LowRank(torch.ones(1, 4), torch.ones(5, 1))}, record()))
