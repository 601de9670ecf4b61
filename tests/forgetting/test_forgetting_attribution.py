"""Path attribution: hand-worked parts, completeness, groups and depths."""

import numpy as np
import polars as pl
import pytest
import torch
from losses import TEXTS, quadratic, random_step, text_loss
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.forgetting.attribution import path_attribution, place_of
from fairforget.forgetting.curvature import directional_curvature
from fairforget.forgetting.row_loss import Loss, Part, row_loss
from fairforget.objectives import CrossEntropy
from fairforget.training import TextStream


class Pair(torch.nn.Module):
    """Two scalar parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = (torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64)) for _ in range(2))


def test_quadratic_of_the_spec():
    """A = [[2, .5], [.5, 1]], (1, 1) → (2, 0): 3.25 and −1.25, which add up to ΔL = 2."""
    pair = Pair()
    loss = Loss(pair, [Part(0, 1, lambda: pair.x**2 + 0.5 * pair.x * pair.y + 0.5 * pair.y**2)])
    step = {"y": torch.tensor(-1.0, dtype=torch.float64), "x": torch.tensor(1.0, dtype=torch.float64)}
    found = path_attribution(loss, step, nodes=1)  # exact, as the gradient is linear along the line
    assert found.parameters == ["x", "y"]
    np.testing.assert_allclose(found.nats, [[3.25, -1.25]])
    assert found.measured[0] == pytest.approx(2.0)
    assert found.completeness()["error"][0] == pytest.approx(0, abs=1e-12)
    split = directional_curvature(loss, step).groups
    assert split["slope"][0] == pytest.approx(1)
    assert split["half_curvature"][0] == pytest.approx(1)
    assert (pair.x.item(), pair.y.item()) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_parts_add_up_to_what_was_lost(kind):
    model = tiny_model(kind)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    found = path_attribution(text_loss(model, grouped=True), random_step(model, 5e-3))
    table = found.completeness()
    assert table["group"].to_list() == ["all", "age", "man", "woman"]
    assert table["error"].max() < 1e-3
    assert (table["measured"].abs() > 0.005).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    for depth in ("parameter", "module", "block"):
        sums = found.by(depth).group_by("group", maintain_order=True).agg(pl.col("nats").sum())
        np.testing.assert_allclose(sums["nats"], table["attributed"], rtol=1e-9)
    assert found.by("module")["place"].n_unique() > found.by("block")["place"].n_unique() > 2


def test_groups_that_partition_add_up_and_batches_do_not_matter():
    model = tiny_model("gpt2")
    stream = TextStream(model, TEXTS)
    rows, names = [stream.example(index, 0) for index in range(len(TEXTS))], ["a", "b", "a", "c", "b", "a", "c", "a"]
    step = random_step(model, 2e-3)
    grouped = path_attribution(row_loss(model, rows, CrossEntropy(), groups=[[name] for name in names]), step, nodes=3)
    alone = path_attribution(row_loss(model, rows, CrossEntropy(), batch_tokens=1), step, nodes=3)
    np.testing.assert_allclose(grouped.nats[0], alone.nats[0], rtol=1e-3, atol=1e-6)
    weighted = grouped.tokens[1:] @ grouped.nats[1:] / grouped.tokens[0]
    np.testing.assert_allclose(weighted, grouped.nats[0], rtol=1e-9, atol=1e-12)
    own = [row for row, name in zip(rows, names, strict=True) if name == "b"]
    of_b = path_attribution(row_loss(model, own, CrossEntropy()), step, nodes=3)
    np.testing.assert_allclose(grouped.nats[2], of_b.nats[0], rtol=1e-3, atol=1e-6)


def test_only_what_moved_has_a_part_and_more_nodes_are_nearer():
    model = tiny_model("llama")
    step = random_step(model, 0.1, ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"))
    loss = text_loss(model)
    coarse, fine = (path_attribution(loss, step, nodes=nodes) for nodes in (1, 8))
    assert coarse.parameters == list(step)
    assert fine.by("block")["place"].to_list() == ["model.layers.0", "model.layers.1"]
    assert fine.completeness()["error"][0] < coarse.completeness()["error"][0]
    assert fine.completeness()["error"][0] < 1e-3


def test_nothing_lost_has_no_relative_error():
    loss = quadratic(torch.zeros(2, 2, dtype=torch.float64), (1.0, 1.0))
    row = path_attribution(loss, {"theta": torch.ones(2, dtype=torch.float64)}).completeness().row(0, named=True)
    assert (row["measured"], row["attributed"], row["error"]) == (0.0, 0.0, None)


@pytest.mark.parametrize(("name", "depth", "place"), [
    ("model.layers.3.mlp.up_proj.weight", "parameter", "model.layers.3.mlp.up_proj.weight"),
    ("model.layers.3.mlp.up_proj.weight", "module", "model.layers.3.mlp.up_proj"),
    ("model.layers.3.mlp.up_proj.weight", "block", "model.layers.3"),
    ("model.layers.3.mlp.experts.7.w1.weight", "block", "model.layers.3"),
    ("bert.embeddings.LayerNorm.bias", "block", "bert.embeddings.LayerNorm"),
    ("theta", "module", "theta"),
])
def test_places(name, depth, place):
    assert place_of(name, depth) == place


def test_wrong_arguments_are_refused():
    model = tiny_model("gpt2")
    loss, step = text_loss(model), random_step(model, 1e-3, ("transformer.ln_f.bias",))
    with pytest.raises(UsageError, match="at least one node"):
        path_attribution(loss, step, nodes=0)
    with pytest.raises(UsageError, match="Nothing is displaced"):
        path_attribution(loss, {})
    with pytest.raises(UsageError, match="no depth named 'layer'"):
        path_attribution(loss, step, nodes=1).by("layer")
