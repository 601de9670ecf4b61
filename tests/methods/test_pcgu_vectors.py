"""PCGU's partition, cosines, choice and changes, by hand-worked answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from fairforget.errors import FairforgetError, UsageError
from fairforget.methods._pcgu_changes import VectorChanges
from fairforget.methods._pcgu_ranking import benefits, costs, most_for_cost, ranked_between, similarities, smallest
from fairforget.methods._pcgu_vectors import VectorPartition, cosines, vector_sums

DISADVANTAGED = {"weight": torch.tensor([[1.0, 0, 0], [0, 2, 0]]), "bias": torch.tensor([1.0, 1])}
ADVANTAGED = {"weight": torch.tensor([[1.0, 0, 0], [0, -3, 0]]), "bias": torch.tensor([1.0, 0])}


def ranked(aggregation: str, *, skip: bool) -> tuple[VectorPartition, torch.Tensor]:
    partition = VectorPartition(nn.Linear(3, 2), aggregation)  # type: ignore[arg-type]
    sums = torch.cat([vector_sums(DISADVANTAGED[tensor.name], ADVANTAGED[tensor.name], tensor.along) for tensor in partition], dim=1)
    return partition, similarities(sums, torch.ones(partition.count, dtype=torch.bool), skip_zero_gradient=skip)


def test_a_small_linear_has_three_vectors_by_input_and_four_by_output() -> None:
    assert [VectorPartition(nn.Linear(3, 2), way).count for way in ("input", "output")] == [3, 4]


@pytest.mark.parametrize("aggregation", ["input", "output"])
def test_a_transposed_store_has_the_same_vectors(aggregation: str) -> None:
    plain, turned = nn.Linear(3, 2), Conv1D(2, 3)
    assert VectorPartition(plain, aggregation).count == VectorPartition(turned, aggregation).count  # type: ignore[arg-type]
    gradient = torch.randn(2, 3)
    first, second = (
        vector_sums(value, value, VectorPartition(module, aggregation).tensors[0].along)  # type: ignore[arg-type]
        for module, value in ((plain, gradient), (turned, gradient.T))
    )
    assert torch.allclose(first, second)


def opt(layers: int, width: int, inner: int, embedded: int | None = None) -> OPTConfig:
    return OPTConfig(
        vocab_size=50265, hidden_size=width, num_hidden_layers=layers, ffn_dim=inner, num_attention_heads=16,
        word_embed_proj_dim=embedded or width, do_layer_norm_before=embedded is None,
    )


@pytest.mark.parametrize(
    ("kind", "config", "aggregation", "count"),
    [
        (OPTForCausalLM, opt(24, 1024, 4096, 512), "input", 275_275),
        (OPTForCausalLM, opt(24, 2048, 8192), "input", 494_925),
        (OPTForCausalLM, opt(32, 2560, 10240), "input", 789_917),
        (OPTForCausalLM, opt(32, 4096, 16384), "input", 1_232_285),
        (LlamaForCausalLM, LlamaConfig(), "input", 1_423_937),
        (LlamaForCausalLM, LlamaConfig(), "output", 1_146_945),
        (GPT2LMHeadModel, GPT2Config(), "input", 134_323),
        (BertForPreTraining, BertConfig(), "input", 115_646),
    ],
    ids=["opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "llama-2-7b", "llama-2-7b-output", "gpt2", "bert-base-uncased"],
)
def test_published_models_have_the_published_number_of_vectors(kind: type, config: object, aggregation: str, count: int) -> None:
    with torch.device("meta"):
        model = kind(config)
    assert VectorPartition(model, aggregation).count == count  # type: ignore[arg-type]


def test_a_single_number_and_a_frozen_model_are_refused() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UsageError, match="'scale' is a single number"):
        VectorPartition(module)
    with pytest.raises(UsageError, match="no trainable parameter"):
        VectorPartition(nn.Linear(2, 2).requires_grad_(False))


def test_a_stack_of_matrices_has_a_vector_per_place() -> None:
    module = nn.Module()
    module.experts = nn.Parameter(torch.randn(2, 3, 4))
    for aggregation, along, count in (("input", 2, 6), ("output", 1, 8)):
        partition = VectorPartition(module, aggregation)  # type: ignore[arg-type]
        (tensor,) = partition.tensors
        assert (tensor.along, tensor.count) == (along, count)
        sums = vector_sums(module.experts, module.experts, along)
        place = tensor.places(torch.tensor([5]))
        assert torch.allclose(sums[1, 5], tensor.rows(module.experts)[place].square().sum())


def test_cosines_and_choice_by_hand() -> None:
    _, by_input = ranked("input", skip=True)
    assert by_input.tolist() == pytest.approx([1, -1, 1 / math.sqrt(2)])
    assert smallest(by_input, 1).tolist() == [1]
    assert smallest(by_input, 2).tolist() == [1, 2]
    _, faithful = ranked("output", skip=False)
    assert faithful.tolist() == pytest.approx([1, -1, 0, 1 / math.sqrt(2)])
    assert smallest(faithful, 2).tolist() == [1, 2]
    _, skipping = ranked("output", skip=True)
    assert smallest(skipping, 2).tolist() == [1, 3]
    assert smallest(skipping, 9).tolist() == [1, 3, 0]  # the column without gradient is never chosen


def test_a_step_changes_what_was_chosen_and_is_taken_back_to_the_bit() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in linear.named_parameters()}
    partition = VectorPartition(linear)
    changes = VectorChanges(partition)
    weight, bias = partition.tensors
    changes.add(weight, torch.tensor([1]), ADVANTAGED["weight"][[1]] * -0.1)
    assert torch.allclose(linear.weight - before["weight"], torch.tensor([[0.0, 0, 0], [0, 0.3, 0]]), atol=1e-7)
    assert torch.equal(linear.weight[0], before["weight"][0])
    assert torch.equal(linear.bias, before["bias"])
    changes.add(bias, torch.tensor([0]), ADVANTAGED["bias"][None] * -0.1)
    assert (linear.bias - before["bias"]).tolist() == pytest.approx([-0.1, 0], abs=1e-7)
    assert {name: delta.delta.tolist() for name, delta in changes.deltas().items()} == {  # type: ignore[union-attr]
        "weight": [[0, 0, 0], [0, pytest.approx(0.3), 0]], "bias": [pytest.approx(-0.1), 0],
    }
    assert [(row["parameter"], row["touched"], row["selected_share"]) for row in changes.report(1)] == [("weight", 1, 0.5), ("bias", 1, 1)]
    with changes.off():
        assert all(torch.equal(parameter, before[name]) for name, parameter in linear.named_parameters())
    assert not torch.equal(linear.bias, before["bias"])
    changes.restore()
    assert all(torch.equal(parameter, before[name]) for name, parameter in linear.named_parameters())


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), min_size=1, max_size=6))
@settings(max_examples=25)
def test_changes_add_up_whatever_vectors_they_touch(chosen: list[list[int]]) -> None:
    linear = nn.Linear(2, 5, bias=False)
    before = linear.weight.detach().clone()
    changes, expected = VectorChanges(VectorPartition(linear)), torch.zeros(5, 2)
    for number, rows in enumerate(chosen):
        step = torch.full((len(rows), 2), 2.0**-number)
        changes.add(changes.partition.tensors[0], torch.tensor(rows), step)
        expected[rows] += step
    assert torch.equal(changes.deltas()["weight"].delta, expected)  # type: ignore[union-attr]
    assert torch.equal(linear.weight, before + expected)


def test_steps_too_small_for_bfloat16_add_up() -> None:
    linear = nn.Linear(2, 3, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(linear.weight)
    changes = VectorChanges(VectorPartition(linear))
    for _ in range(100):  # half a unit in the last place of 1.0 is 0.0039
        changes.add(changes.partition.tensors[0], torch.tensor([2]), torch.full((1, 2), 1e-3))
    assert linear.weight[2].float().tolist() == pytest.approx([1.1, 1.1], abs=4e-3)
    assert linear.weight[:2].float().tolist() == [[1, 1], [1, 1]]


def test_a_checkpoint_gives_the_changes_back_and_belongs_to_its_run(tmp_path: Path) -> None:
    linear = nn.Linear(2, 3)
    changes = VectorChanges(VectorPartition(linear))
    changes.add(changes.partition.tensors[0], torch.tensor([2, 0]), torch.tensor([[1.0, 2], [3, 4]]))
    changed = linear.weight.detach().clone()
    changes.save(tmp_path, "this run", {"update": 3})
    changes.restore()
    again = VectorChanges(VectorPartition(linear))
    assert again.load(tmp_path, "this run") == {"update": 3}
    assert torch.equal(linear.weight, changed)
    assert again.report(1) == changes.report(1)
    with pytest.raises(FairforgetError, match="belongs to other settings"):
        again.load(tmp_path, "another run")
    assert again.load(tmp_path / "elsewhere", "this run") is None


def test_a_stretch_of_the_ranking() -> None:
    values = torch.tensor([0.3, torch.inf, -0.5, 0.1, 0.9])
    assert ranked_between(values, 0, 0.5).tolist() == [2, 3]
    assert ranked_between(values, 0.5, 1).tolist() == [0, 4]


def test_flex_takes_the_cheaper_of_two_equal_vectors_within_its_budget() -> None:
    sums = torch.tensor([[-1.0, -1], [1, 1], [1, 1]])  # both u = (1), G_dis = (−1)
    benefit = benefits(sums, "advantaged", 0.1)
    assert benefit.tolist() == pytest.approx([0.2, 0.2])
    cost = costs(torch.zeros(2), torch.tensor([100.0, 1.0]), 0.1)
    assert cost.tolist() == pytest.approx([0.5, 0.005])
    free = torch.zeros(2, dtype=torch.bool)
    assert most_for_cost(benefit, cost, 2, 1.0, free).tolist() == [1, 0]
    assert most_for_cost(benefit, cost, 2, 0.1, free).tolist() == [1]
    assert most_for_cost(benefit, cost, 2, 1.0, torch.tensor([False, True])).tolist() == [0]
    assert costs(torch.tensor([-2.0, 2]), torch.zeros(2), 0.1).tolist() == pytest.approx([0.2, 0])  # only a rise is a cost


def test_benefit_is_the_fall_of_the_margin_for_each_direction() -> None:
    disadvantaged, advantaged = torch.tensor([1.0, 2]), torch.tensor([3.0, -1])
    sums = vector_sums(disadvantaged, advantaged, 0)
    directions = {"advantaged": advantaged, "disadvantaged": -disadvantaged, "contrast": advantaged - disadvantaged}
    for update, direction in directions.items():
        expected = 0.5 * float((advantaged - disadvantaged) @ direction)
        assert float(benefits(sums, update, 0.5)[0]) == pytest.approx(expected)  # type: ignore[arg-type]


def test_without_costs_and_at_equal_norms_flex_ranks_by_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(20, 4, generator=generator), dim=1) for _ in range(2))
    sums = vector_sums(first, second, 1)
    order = most_for_cost(benefits(sums, "advantaged", 1.0), torch.zeros(20), 20, 1.0, torch.zeros(20, dtype=torch.bool))
    assert order.tolist() == smallest(cosines(sums), 20).tolist()


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([0, 1]))
@settings(max_examples=25)
def test_cosines_are_those_of_torch(rows: int, columns: int, along: int) -> None:
    generator = torch.Generator().manual_seed(rows * 10 + columns)
    first, second = (torch.randn(rows, columns, generator=generator) for _ in range(2))
    first[0] = 0
    expected = torch.nn.functional.cosine_similarity(first, second, dim=along)
    assert torch.allclose(cosines(vector_sums(first, second, along)), expected, atol=1e-5)


def _sums_of_shards(rank: int, file: str) -> None:
    """One of two processes: the sums of a tensor that is cut between them, against those of the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(6, 4, generator=generator) for _ in range(2)]
    for cut in (0, 1):
        shards = [distribute_tensor(tensor, mesh, [Shard(cut)]) for tensor in whole]
        assert shards[0].to_local().numel() == 12
        for along in (0, 1):
            torch.testing.assert_close(cosines(vector_sums(*shards, along)), cosines(vector_sums(*whole, along)))
    torch.distributed.destroy_process_group()


def test_two_processes_with_a_shard_each_find_the_cosines_of_the_whole(tmp_path: Path) -> None:
    import torch.distributed.tensor  # here, for both: forked processes need not load it again

    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _sums_of_shards, (str(tmp_path / "rendezvous"),), nprocs=2, start_method="fork"
    )
