"""(U)NC3 as a term of a loss: whom its gradient reaches, what it remembers, and what it does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from objectives_collapse_process import MEANS, run_two_processes
from tiny import tiny_model
from torch import Tensor

from fairforget.errors import UsageError
from fairforget.geometry import output_matrix
from fairforget.models import Model
from fairforget.models.model import HeadInput
from fairforget.objectives import Collapse, CrossEntropy
from fairforget.objectives.collapse import spread_of_duality
from fairforget.training import StreamDataset, TextStream, train
from fairforget.training.streams import Collator
from fairforget.training.trainer import check_reach

TEXTS = [
    "the nurse said that he had no time", "she was in the house with his dog", "a man met the young woman at home", "her cat is very old",
]
WORDS = ("he", "she", "his", "her", "man", "woman")


def ids_of(model: Model) -> list[int]:
    return [model.token_ids(word)[0] for word in WORDS]


def batch_of(model: Model, texts: list[str]) -> dict[str, Tensor]:
    rows = [{"ids": [*model.prefix, *model.sequence_ids(text)]} for text in texts]
    if model.family == "masked":
        rows = [row | {"labels": list(row["ids"])} for row in rows]
    return Collator(model.pad_id).batch(rows)


def term(model: Model, **options: object) -> Collapse:
    found = Collapse(ids_of(model), 1.0, **options)  # type: ignore[arg-type]
    found.prepare(model)
    return found


def gradients(model: Model, objective: Collapse, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.hf.zero_grad(set_to_none=True)
    objective.sum(model, batch).backward()
    found = {name: parameter.grad for name, parameter in model.hf.named_parameters() if parameter.grad is not None}
    model.hf.zero_grad(set_to_none=True)
    return found  # type: ignore[return-value]


def test_the_spread_and_its_slope() -> None:
    torch.manual_seed(0)
    rows, means = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda matrix: spread_of_duality(matrix, means), rows)
    assert torch.autograd.gradcheck(lambda states: spread_of_duality(rows.detach(), states), means.clone().requires_grad_())
    centred = means - means.mean(dim=0)
    sign = torch.tensor([1.0, 1, -1, -1, -1], dtype=torch.float64).unsqueeze(1)
    assert float(spread_of_duality(centred * sign, means)) == pytest.approx(math.sqrt(1.2), abs=1e-9)
    assert float(spread_of_duality(centred, means)) == pytest.approx(0, abs=1e-7)
    assert float(spread_of_duality(centred[:1], means[:1])) == 0


def test_descent_makes_the_angles_alike() -> None:
    torch.manual_seed(0)
    rows, means = torch.randn(8, 32, requires_grad=True), torch.randn(8, 32)
    optimiser = torch.optim.Adam([rows], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        loss = spread_of_duality(rows, means)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-3


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_gradient_goes_where_it_was_asked_to(kind: str) -> None:
    model = tiny_model(kind)
    if kind == "bert":  # untied, so that rows of the head and embeddings are told apart
        head = model.hf.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    batch, matrix = batch_of(model, TEXTS), output_matrix(model)
    name = next(name for name, parameter in model.hf.named_parameters() if parameter is matrix)
    weights = gradients(model, term(model), batch)
    assert list(weights) == [name]
    touched = weights[name].abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert touched == sorted(ids_of(model))  # rows of other words get none
    features = gradients(model, term(model, gradient="features"), batch)
    assert name not in features
    assert max(float(grad.abs().max()) for grad in features.values()) > 0
    both = gradients(model, term(model, gradient="both"), batch)
    torch.testing.assert_close(both[name], weights[name])
    assert set(both) == {name, *features}


def test_tied_rows_are_the_embeddings() -> None:
    model = tiny_model("gpt2")
    found = gradients(model, term(model), batch_of(model, TEXTS))
    assert [name for name in found if "wte" in name] == list(found)
    assert float(found["transformer.wte.weight"].abs().sum()) > 0


def test_a_batch_without_two_words_costs_nothing() -> None:
    model = tiny_model("llama")
    for gradient in ("weights", "features", "both"):
        objective = term(model, gradient=gradient)
        for texts in (["the river is long"], ["the man is old"]):
            value = objective.sum(model, batch_of(model, texts))
            assert float(value.detach()) == 0
            value.backward()  # there is a way to what is trained, and nothing goes along it
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.hf.parameters())


def means_after(model: Model, reset: str | float, batches: list[list[str]]) -> Collapse:
    objective = term(model, reset=reset)
    for texts in batches:
        with torch.no_grad(), objective.step(model):
            objective.sum(model, batch_of(model, texts))
    return objective


def test_running_means_are_those_of_all_that_was_seen() -> None:
    model = tiny_model("gpt2")
    whole, pieces = means_after(model, "never", [TEXTS]), means_after(model, "never", [TEXTS[:1], TEXTS[1:]])
    torch.testing.assert_close(pieces.means, whole.means, rtol=1e-4, atol=1e-5)
    assert pieces.counts.tolist() == whole.counts.tolist() == [1, 1, 1, 1, 1, 1]
    whole.begin_pass(model, 1)
    assert whole.counts.sum() == 6  # never
    pieces = means_after(model, "epoch", [TEXTS])
    pieces.begin_pass(model, 0)
    assert pieces.counts.sum() == 6
    pieces.begin_pass(model, 1)
    assert pieces.counts.sum() == 0
    first, second, moving = (
        means_after(model, reset, batches).means[0]
        for reset, batches in (
            ("never", [["the man said that he is old"]]), ("never", [["no he is a doctor"]]),
            (0.75, [["the man said that he is old"], ["no he is a doctor"]]),
        )
    )
    torch.testing.assert_close(moving, 0.75 * first + 0.25 * second, rtol=1e-4, atol=1e-5)


def test_outside_of_a_step_nothing_is_remembered_and_a_checkpoint_holds_the_rest() -> None:
    model = tiny_model("gpt2")
    objective = term(model)
    objective.sum(model, batch_of(model, TEXTS))
    assert objective.counts.sum() == 0
    seen = means_after(model, "never", [TEXTS])
    objective.load_state(seen.state())
    assert torch.equal(objective.means, seen.means)
    assert objective.counts.sum() == 6


def test_the_states_of_the_step_are_computed_once() -> None:
    model = tiny_model("gpt2")
    calls: list[int] = []

    def count(_: object, __: object, output: object) -> None:
        if not isinstance(output, HeadInput):  # the body itself, not what stands for it while the head runs alone
            calls.append(1)

    handle = model.hf.base_model.register_forward_hook(count)
    batch = batch_of(model, TEXTS)
    batch["labels"] = batch["ids"]
    objective, likelihood = term(model), CrossEntropy()
    alone = objective.sum(model, batch)
    assert len(calls) == 1
    with objective.step(model):
        likelihood.sum(model, batch)
        shared = objective.sum(model, batch)
    assert len(calls) == 2
    handle.remove()
    torch.testing.assert_close(shared, alone)
    assert not model.hf.base_model._forward_hooks


def test_the_released_protocol_pairs_masked_states_with_the_next_token() -> None:
    model = tiny_model("bert")
    batch = batch_of(model, TEXTS)
    released = term(model, pairing="next", site="encoder_last")
    with released.step(model):
        released.sum(model, batch)
    hidden = model.hidden(batch["ids"], batch["mask"]).detach()
    place = batch["ids"][0].tolist().index(ids_of(model)[0])
    own = released.words.tolist().index(ids_of(model)[0])
    torch.testing.assert_close(released.means[own], hidden[0, place - 1], rtol=1e-4, atol=1e-5)


def test_it_is_computed_in_float32_under_autocast() -> None:
    model = tiny_model("bert")
    batch = batch_of(model, TEXTS)
    plain = term(model, gradient="both").sum(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = term(model, gradient="both").sum(model, batch)
    assert mixed.dtype == torch.float32
    assert float(mixed.detach()) == pytest.approx(float(plain.detach()), rel=0.05)


def test_a_frozen_head_is_refused() -> None:
    model = tiny_model("llama")
    output_matrix(model).requires_grad_(requires_grad=False)
    batches = {"forget": batch_of(model, TEXTS[:2])}
    with pytest.raises(UsageError, match="Collapse reaches no parameter"):
        check_reach(model, [term(model)], batches)
    check_reach(model, [term(model, gradient="features")], batches)
    for wrong in ({"words": [1]}, {"words": [1, 2], "reset": 1.5}):
        with pytest.raises(UsageError):
            Collapse(**wrong)  # type: ignore[arg-type]


def trained(folder: Path, weight: float | None) -> dict[str, Tensor]:
    model = tiny_model("gpt2")
    stream = TextStream(model, TEXTS)
    terms = [CrossEntropy(), *([] if weight is None else [Collapse(ids_of(model), weight)])]
    train(model, terms, StreamDataset({"forget": stream}, visits=4), steps=4, batch_size=4, learning_rate=1e-3, folder=folder)
    return {name: parameter.detach().clone() for name, parameter in model.hf.named_parameters()}


def test_a_weight_of_zero_changes_no_bit(tmp_path: Path) -> None:
    base, without, with_term = trained(tmp_path / "a", None), trained(tmp_path / "b", 0.0), trained(tmp_path / "c", 50.0)
    assert all(torch.equal(base[name], without[name]) for name in base)
    assert any(not torch.equal(base[name], with_term[name]) for name in base)


def test_training_on_it_alone_lowers_it(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    for module in model.hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its noise has a spread of its own
    measured = term(model)
    before = float(measured.sum(model, batch_of(model, TEXTS)).detach())
    rows = StreamDataset({"forget": TextStream(model, TEXTS)}, visits=20)
    alone = Collapse(ids_of(model), 100.0, gradient="both", reset="epoch")
    train(model, [alone], rows, steps=20, batch_size=4, learning_rate=1e-3, folder=tmp_path, precision="float32")
    assert float(measured.sum(model, batch_of(model, TEXTS)).detach()) < before / 2


def test_two_processes_make_the_means_and_the_gradient_of_one(tmp_path: Path) -> None:
    model = tiny_model("llama")
    objective = term(model, gradient="both")
    batch = batch_of(model, TEXTS)
    with objective.step(model):
        objective.sum(model, batch).backward()
    expected = {name: parameter.grad for name, parameter in model.hf.named_parameters() if parameter.grad is not None}
    found = run_two_processes(tmp_path, TEXTS, ids_of(model))
    torch.testing.assert_close(found.pop(MEANS), objective.means, rtol=1e-4, atol=1e-5)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
