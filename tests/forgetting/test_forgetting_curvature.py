"""Hessians with known answers, two ways to multiply with them, and curvature along a step."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from losses import TEXTS, Point, double_loss, quadratic, random_step, text_loss
from tiny import tiny_model
from torch.nn import functional

from fairforget.edits import Dense, EditRecord, WeightEdit
from fairforget.edits.self_debias import SelfDebiasEdit
from fairforget.errors import UsageError
from fairforget.forgetting.curvature import curvature, directional_curvature, measured_change
from fairforget.forgetting.hessian import Hessian, best_step, eager_attention, sweep_steps
from fairforget.forgetting.lanczos import random_vector
from fairforget.forgetting.row_loss import Loss, Part, displacement, row_loss
from fairforget.objectives import CrossEntropy
from fairforget.training import IGNORED

DIAGONAL = torch.diag(torch.tensor([5.0, 2.0, -7.0], dtype=torch.float64))
SMALL = {"gpt2": "*.ln_f.weight", "llama": "model.norm.*", "bert": "*.layer.1.output.LayerNorm.weight"}


def dense_hessian(loss: Loss) -> torch.Tensor:
    hessian = Hessian(loss, "autograd")
    return torch.stack([hessian(row) for row in torch.eye(loss.size, dtype=loss.zeros().dtype)])


@pytest.mark.parametrize("product", ["autograd", "finite-difference"])
def test_quadratic_of_the_spec(product):
    found = curvature(quadratic(DIAGONAL, (0.5, -1.0, 2.0)), product=product, power_iterations=100, tolerance=0, step=0.1)
    assert found.lambda_max.value == pytest.approx(5, abs=1e-8)
    assert found.lambda_min.value == pytest.approx(-7, abs=1e-8)
    assert found.spectral_radius.value == pytest.approx(7, abs=1e-8)
    assert found.power.value == pytest.approx(-7, abs=1e-6)
    assert found.trace.value == pytest.approx(0, abs=1e-8)
    assert found.gradient_norm == pytest.approx(np.hypot(np.hypot(2.5, 2), 14))
    assert (found.parameters, found.scope, found.product) == (3, "all parameters", product)
    rows = {row["figure"]: row for row in found.table().iter_rows(named=True)}
    assert rows["spectral_radius"]["value"] == pytest.approx(7)
    assert rows["trace_per_parameter"]["value"] == pytest.approx(0, abs=1e-8)
    assert {(row["scope"], row["parameters"], row["tokens"]) for row in rows.values()} == {("all parameters", 3, 1)}


def test_bound_of_the_spec():
    loss = quadratic(DIAGONAL, (0.0, 0.0, 0.0))
    step = {"theta": torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)}
    found = directional_curvature(loss, step)
    assert found.groups["half_curvature"][0] == pytest.approx(6.5)
    assert found.groups["measured"][0] == pytest.approx(6.5)
    bound = curvature(loss).bound(found.distance)
    assert bound == pytest.approx(12.5)
    assert found.groups["half_curvature"][0] <= bound


def test_logistic_of_the_spec():
    point, x = Point((0.0, 0.0)), torch.tensor([1.0, 2.0], dtype=torch.float64)
    loss = Loss(point, [Part(0, 1, lambda: functional.softplus(-(point.theta @ x)))])
    assert curvature(loss).lambda_max.value == pytest.approx(1.25)


def test_tokens_weigh_the_same_in_every_batch():
    """Batches with 1 and 9 tokens: (3·1 + 1·9) / 10, where a mean of means would be 2."""
    point = Point((1.0,))
    loss = Loss(point, [Part(0, 1, lambda: 1.5 * point.theta[0] ** 2), Part(0, 9, lambda: 9 * 0.5 * point.theta[0] ** 2)])
    assert curvature(loss, probes=2).lambda_max.value == pytest.approx(1.2)
    assert float(loss.gradient()[0]) == pytest.approx(1.2)
    assert loss.average(loss.sums())[0] == pytest.approx(0.6)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_rows_weigh_by_tokens_however_they_are_batched(kind):
    model = tiny_model(kind)
    one, many = text_loss(model), text_loss(model, batch_tokens=1)
    assert len(one.parts) < len(many.parts) == len(TEXTS)
    torch.testing.assert_close(one.gradient(), many.gradient(), rtol=1e-4, atol=1e-6)
    vector = random_vector(one.zeros(), 0)
    torch.testing.assert_close(Hessian(one)(vector), Hessian(many)(vector), rtol=1e-3, atol=1e-5)
    assert len({part.count for part in many.parts}) > 1


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_finite_differences_agree_with_autograd(kind):
    """In float64, which Llama's own code rounds away inside."""
    loss = double_loss(tiny_model(kind))
    assert loss.zeros().dtype is torch.float64
    exact, near = Hessian(loss, "autograd"), Hessian(loss, "finite-difference")
    for vector in (random_vector(loss.zeros(), 0), loss.gradient()):
        expected = exact(vector)
        assert float((near(vector) - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_finite_differences_in_float32(kind):
    """Error of a product against the spectral radius: an eigenvalue moves by no more than the error's norm."""
    loss = text_loss(tiny_model(kind))
    exact, near = Hessian(loss), Hessian(loss, "finite-difference")
    assert exact.product == "autograd"
    gradient = loss.gradient()
    radius = curvature(loss, vectors=6, probes=0).spectral_radius.value  # from below
    for vector in (random_vector(gradient, 0), gradient):
        assert float((near(vector) - exact(vector)).norm() / vector.norm()) < 1e-4 * radius


def test_the_sweep_takes_the_step_on_which_neighbours_agree():
    assert best_step([(1.0, 0.0), (0.1, 0.2), (0.01, 0.015), (0.001, 0.01), (0.0001, float("inf")), (0.00001, 0.0)]) == 0.01
    sweep = sweep_steps(text_loss(tiny_model("gpt2")))
    assert [distance for distance, _ in sweep] == sorted((distance for distance, _ in sweep), reverse=True)
    best = min(change for _, change in sweep[1:-1])
    assert best < 0.01 < sweep[0][1]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_lanczos_finds_the_ends_of_the_dense_spectrum(kind):
    loss = text_loss(tiny_model(kind), scope=SMALL[kind])
    matrix = dense_hessian(loss)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-3, atol=1e-4 * float(matrix.abs().max()))
    truth = torch.linalg.eigvalsh(matrix).numpy()
    found = curvature(loss, vectors=28, tolerance=1e-6, probes=6, power_iterations=20)
    radius = np.abs(truth).max()
    assert found.parameters == loss.size == len(truth)
    for ours, true in ((found.lambda_max, truth[-1]), (found.lambda_min, truth[0]), (found.spectral_radius, radius)):
        assert abs(ours.value - true) <= ours.error + 1e-4 * radius
    assert abs(abs(found.power.value) - radius) <= max(2 * found.power.error, 1e-3 * radius)
    assert abs(found.trace.value - truth.sum()) <= 4 * found.trace.error


def test_a_tied_embedding_is_one_parameter():
    """Its gradient and curvature hold both uses, as the model's own do; PyHessian's list of parameters may name it twice."""
    model = tiny_model("gpt2")
    loss = text_loss(model, scope="transformer.wte.weight")
    assert model.tied_head
    assert "lm_head.weight" not in text_loss(model).parameters
    assert text_loss(model).size == model.parameter_count
    step = random_step(model, 1e-3, ("transformer.wte.weight",))
    slope = loss.slopes(step).sum()
    with loss.moved(step) as move:
        move(1.0)
        ahead = loss.sums().sum()
        move(-1.0)
        behind = loss.sums().sum()
    assert slope == pytest.approx((ahead - behind) / 2, rel=2e-3)
    with pytest.raises(UsageError, match="first name"):
        text_loss(model, scope=["lm_head.weight"])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("product", ["autograd", "finite-difference"])
def test_everything_is_left_as_it_was(kind, product):
    model = tiny_model(kind)
    model.hf.train()
    first, *_ = model.hf.parameters()
    first.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    kernel = model.attention_kernel
    loss = text_loss(model)
    step = None if product == "autograd" else 1e-3
    curvature(loss, product=product, step=step, vectors=2, probes=2)
    directional_curvature(loss, random_step(model, 1e-3), product=product, step=step)
    assert kernel == model.attention_kernel != "eager"
    assert model.hf.training
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())


def test_dropout_is_off():
    model = tiny_model("gpt2")
    quiet = text_loss(model).gradient()
    model.hf.train()
    torch.testing.assert_close(text_loss(model).gradient(), quiet)


@pytest.mark.parametrize("product", ["autograd", "finite-difference"])
def test_a_step_by_group(product):
    model = tiny_model("llama")
    loss, step = text_loss(model, grouped=True), random_step(model, 2e-4)
    found = directional_curvature(loss, step, product=product)
    table = {row["group"]: row for row in found.groups.iter_rows(named=True)}
    assert list(table) == ["all", "age", "man", "woman"]
    for field in ("tokens", "loss", "slope", "half_curvature", "predicted", "measured"):  # groups that overlap wholly are one group
        assert table["age"][field] == pytest.approx(table["man"][field])
    for row in table.values():
        assert row["predicted"] == pytest.approx(row["slope"] + row["half_curvature"])
        assert row["measured"] == pytest.approx(row["predicted"], abs=0.05 * abs(row["half_curvature"]) + 2e-5)
    vector = torch.cat([delta.flatten() for delta in step.values()])
    assert table["all"]["slope"] == pytest.approx(float(loss.gradient() @ vector), rel=1e-4)
    exact = float(Hessian(loss)(vector) @ vector) / 2
    assert table["all"]["half_curvature"] == pytest.approx(exact, rel=1e-4 if product == "autograd" else 5e-2)
    assert found.distance == pytest.approx(float(vector.norm()))
    assert directional_curvature(loss, step, product=product, measured=False).groups["measured"].null_count() == 4


def test_groups_that_partition_add_up_to_the_whole():
    model = tiny_model("bert")
    groups = [("a",), ("b",), ("c",), ("a",), ("b",), ("c",), ("a",), ("a",)]
    loss = row_loss(model, [{"ids": [2, 100 + place, 4, 3], "labels": [IGNORED, IGNORED, 110, IGNORED]} for place in range(8)],
                    CrossEntropy(), groups=groups)
    whole, *parts = directional_curvature(loss, random_step(model, 1e-3)).groups.iter_rows(named=True)
    assert whole["tokens"] == sum(part["tokens"] for part in parts) == 8
    for field in ("loss", "slope", "half_curvature", "measured"):
        assert whole[field] == pytest.approx(sum(part["tokens"] * part[field] for part in parts) / 8, rel=1e-6)


def test_displacements_of_edits():
    model = tiny_model("gpt2")
    names = ["transformer.h.0.mlp.c_fc.bias", "transformer.h.1.mlp.c_fc.bias"]
    record = EditRecord.for_model(model, "test")
    edits = [WeightEdit({name: Dense(torch.full((128,), 0.5))}, record) for name in names]
    step = displacement(model, [*edits], edits[0])
    assert sorted(step) == names
    assert not step[names[0]].any()
    torch.testing.assert_close(step[names[1]], torch.full((128,), 0.5))
    back = displacement(model, edits[1], edits[0])
    torch.testing.assert_close(back[names[0]], torch.full((128,), -0.5))
    loss = text_loss(model)
    with edits[0].applied(model):
        start, change = loss.sums(), measured_change(loss, step)
    with edits[0].applied(model), edits[1].applied(model):
        assert change[0] == pytest.approx((loss.sums() - start)[0] / loss.units, abs=1e-5)
    with pytest.raises(UsageError, match="moves no weight"):
        displacement(model, edits[0].at(0))


def test_what_cannot_be_measured_is_refused():
    model = tiny_model("gpt2")
    with pytest.raises(UsageError, match="no token"):
        row_loss(model, [{"ids": [1, 2], "labels": [IGNORED, IGNORED]}], CrossEntropy())
    with pytest.raises(UsageError, match="in the scope"):
        text_loss(model, scope="*.nothing.*")
    with pytest.raises(UsageError, match="for each row"):
        row_loss(model, [{"ids": [1, 2], "labels": [IGNORED, 2]}], CrossEntropy(), groups=[])
    loss = text_loss(model, scope=lambda name: name.endswith("bias"))
    assert "test of their names" in loss.scope
    with pytest.raises(UsageError, match="outside the scope"):
        loss.slopes(random_step(model, 1.0, ("transformer.wte.weight",)))
    with pytest.raises(UsageError, match="has shape"):
        loss.slopes({"transformer.ln_f.bias": torch.zeros(3)})
    with pytest.raises(UsageError, match="is zero"):
        directional_curvature(loss, {"transformer.ln_f.bias": torch.zeros(32)})
    with pytest.raises(UsageError, match="above 0"):
        Hessian(loss, "finite-difference", step=-1.0)
    model.hf.bfloat16()
    with pytest.raises(UsageError, match="--dtype float32"):
        text_loss(model)


def test_self_debias_has_no_loss_of_its_own():
    model = tiny_model("gpt2")
    edit = SelfDebiasEdit(prefixes=((7, 8),), record=EditRecord.for_model(model, "self-debias"))
    with edit.applied(model), pytest.raises(UsageError, match="Self-Debias"):
        text_loss(model)


def test_attention_without_an_eager_form_is_told():
    class Fused(Point):
        config = type("Config", (), {"_attn_implementation": "fused"})

    network = Fused((1.0,))
    loss = Loss(network, [Part(0, 1, lambda: network.theta.square().sum())])
    assert Hessian(loss).product == "finite-difference"
    with pytest.raises(UsageError, match="finite-difference"), eager_attention(network):
        pass


def test_the_tables_of_the_room_import_no_torch():
    code = "import sys; import fairforget.forgetting, fairforget.report.attribution_charts; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
