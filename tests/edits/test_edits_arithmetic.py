"""TIES, DARE, averages and projections: hand-worked answers, then their dense counterparts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit, arithmetic, average, dare, merged_tensors, ties
from fairforget.edits.arithmetic import find_weighted, kth_largest, load_weighted
from fairforget.errors import UsageError

BASE = "0" * 64


def record() -> EditRecord:
    return EditRecord(method="test", base_source="somewhere", base_hash=BASE, family="causal")


def dense(*values: float, **more: list[float]) -> WeightEdit:
    return WeightEdit({"w": Dense(torch.tensor(values)), **{name: Dense(torch.tensor(row)) for name, row in more.items()}}, record())


def low_rank(seed: int, rank: int = 2) -> WeightEdit:
    generator = torch.Generator().manual_seed(seed)
    return WeightEdit({"w": LowRank(torch.randn(rank, 5, generator=generator), torch.randn(4, rank, generator=generator), 1.5)}, record())


def values(edit: WeightEdit, name: str = "w") -> list[float]:
    return edit.deltas[name].delta.tolist()


def test_the_hand_worked_answer_of_ties():
    merged = ties([(dense(3.0, -1.0), 1.0), (dense(-1.0, -1.0), 1.0)], keep=1.0)
    assert values(merged) == [3.0, -1.0]  # signs (+, −); 3 alone agrees in the first, the mean of −1 and −1 in the second
    assert merged.record.method == "ties"
    assert merged.record.settings["keep"] == 1.0


def test_ties_trims_each_edit_over_all_its_parameters():
    first = dense(4.0, 1.0, v=[3.0, -2.0])  # the largest half: 4 and 3
    second = dense(-1.0, 5.0, v=[-6.0, 0.5])  # 5 and −6
    merged = ties([(first, 1.0), (second, 1.0)], keep=0.5)
    assert values(merged) == [4.0, 5.0]
    assert values(merged, "v") == [-6.0, 0.0]


def test_ties_reads_strength_and_weight_and_leaves_a_tied_vote_at_zero():
    merged = ties([(dense(2.0, 1.0).at(0.5), 2.0), (dense(-2.0, 3.0), 1.0)], keep=1.0)
    assert values(merged) == [0.0, 2.0]


def test_dare_keeps_a_share_rescaled_and_its_mean_is_the_edit():
    edit = WeightEdit({"w": Dense(torch.full((200, 200), 2.0))}, record()).at(0.5)
    thinned = dare(edit, drop=0.9, seed=3).deltas["w"].delta
    assert sorted(set(thinned.flatten().tolist())) == pytest.approx([0.0, 10.0])
    # 40,000 draws of probability 0.1: six standard deviations
    assert (thinned != 0).double().mean().item() == pytest.approx(0.1, abs=6 * (0.09 / 40_000) ** 0.5)
    assert torch.equal(dare(edit, drop=0.0).deltas["w"].delta, edit.deltas["w"].delta * 0.5)
    assert torch.equal(dare(edit, seed=3).deltas["w"].delta, dare(edit, seed=3).deltas["w"].delta)
    assert not torch.equal(dare(edit, seed=3).deltas["w"].delta, dare(edit, seed=4).deltas["w"].delta)


def test_dare_thins_two_edits_under_one_seed_independently():
    one, two = (WeightEdit({"w": Dense(torch.full((100, 100), value))}, record()) for value in (1.0, 2.0))
    both = (dare(one, drop=0.5).deltas["w"].delta != 0) & (dare(two, drop=0.5).deltas["w"].delta != 0)
    assert both.double().mean().item() == pytest.approx(0.25, abs=0.03)


@given(seed=st.integers(0, 500), ranks=st.lists(st.integers(1, 3), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_average_of_shards_is_low_rank_and_exact(seed, ranks):
    shards = [low_rank(seed + place, rank) for place, rank in enumerate(ranks)]
    mean = average([(shard, 1.0) for shard in shards])
    expected = sum(shard.deltas["w"].matrix(transposed=False, dtype=torch.float64) for shard in shards) / len(shards)
    assert isinstance(mean.deltas["w"], LowRank)
    assert mean.deltas["w"].rank == sum(ranks)
    torch.testing.assert_close(mean.deltas["w"].matrix(transposed=False, dtype=torch.float64), expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60), st.data())
@settings(max_examples=80, deadline=None)
def test_the_kth_largest_is_that_of_the_sorted_numbers(numbers, data):
    k = data.draw(st.integers(1, len(numbers)))
    cut = data.draw(st.integers(0, len(numbers)))
    pieces = [torch.tensor(part, dtype=torch.float32) for part in (numbers[:cut], numbers[cut:])]
    assert kth_largest(lambda: pieces, k) == sorted(torch.cat(pieces).tolist(), reverse=True)[k - 1]


def test_ways_agree_with_one_another():
    bias, capability = dense(1.0, 1.0), dense(1.0, 0.0)
    assert values(arithmetic([(bias, 1.0), (capability, -0.5)], "add")) == [0.5, 1.0]
    assert values(arithmetic([(bias, 1.0), (capability, 1.0)], "average")) == [1.0, 0.5]
    assert values(arithmetic([(bias.at(0.5), 2.0), (capability, 1.0)], "project")) == pytest.approx([0.0, 1.0])
    assert values(arithmetic([(bias, 1.0), (capability, 1.0)], "ties", keep=1.0)) == [1.0, 1.0]
    assert values(arithmetic([(bias, 1.0), (capability, 2.0)], "dare", drop=0.0)) == [3.0, 1.0]


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_entrywise_ways_turn_low_rank_changes_dense_in_the_stored_layout(how, make_model, make_low_rank):
    model = make_model("gpt2")
    edit = make_low_rank(model).at(0.5)
    with pytest.raises(UsageError, match="give model="):
        arithmetic([(edit, 1.0)], how)
    same = arithmetic([(edit, 1.0)], how, keep=1.0, drop=0.0, model=model.hf)
    assert all(isinstance(delta, Dense) for delta in same.deltas.values())
    expected = merged_tensors(model, edit)
    for name, tensor in merged_tensors(model, same).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_combined_is_refused():
    edit = dense(1.0)
    for how, options, words in (
        ("tie", {}, "way to combine"), ("project", {}, "at least one edit that it shall leave alone"), ("ties", {"keep": 0.0}, "above 0"),
        ("dare", {"drop": 1.0}, "below 1"),
    ):
        with pytest.raises(UsageError, match=words):
            arithmetic([(edit, 1.0)], how, **options)
    with pytest.raises(UsageError, match="leave their weights out"):
        arithmetic([(edit, 1.0), (dense(2.0), 0.5)], "project")
    with pytest.raises(UsageError, match="different shapes"):
        ties([(edit, 1.0), (dense(1.0, 2.0), 1.0)])


def test_edits_are_named_with_their_weights(tmp_path):
    dense(1.0).save(tmp_path / "a@2")
    assert find_weighted(str(tmp_path / "a@2")) == (tmp_path / "a@2", 1.0)
    assert find_weighted(f"{tmp_path / 'a@2'}@-0.5") == (tmp_path / "a@2", -0.5)
    assert load_weighted(f"{tmp_path / 'a@2'}@3")[1] == 3.0
    assert find_weighted(str(tmp_path)) is None
    with pytest.raises(UsageError, match="no edit in"):
        load_weighted(str(tmp_path / "none"))
