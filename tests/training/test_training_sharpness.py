"""SAM and ASAM: their step worked out by hand, the way back to the last bit, and what two passes must not change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny import tiny_model
from torch import Tensor, nn
from transformers import TrainingArguments

from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.training import Batch, ObjectiveTrainer, StreamDataset, TextStream, train
from fairforget.training.sharpness import Perturbation
from fairforget.training.streams import Collator

TEXTS = ["the nurse said that she would be late", "he is old", "the river is long and the hill is green", "a dog", "rain on the street",
         "red book", "she works at home every day", "a good friend has time"] * 2


def with_gradient(*values: float) -> nn.Parameter:
    """A parameter whose loss ½ ‖x‖² was differentiated."""
    x = nn.Parameter(torch.tensor(values))
    (0.5 * x.square().sum()).backward()
    return x


def number(x: Tensor) -> float:
    return float(x.detach())


@pytest.mark.parametrize(("start", "adaptive", "there", "after"), [
    (1.0, False, 1.05, 0.895),
    (1.0, True, 1.05, 0.895),
    (2.0, False, 2.05, 1.795),
    (2.0, True, 2.10, 1.79),  # the step grows with the weight
])
def test_a_step_on_a_parabola(start: float, adaptive: bool, there: float, after: float) -> None:
    x = with_gradient(start)
    perturbation = Perturbation(0.05, adaptive=adaptive)
    perturbation.put_on([x])
    assert number(x) == pytest.approx(there)
    assert x.grad is None
    (0.5 * x.square().sum()).backward()
    perturbation.take_off()
    assert number(x) == start
    torch.optim.SGD([x], lr=0.1).step()
    assert number(x) == pytest.approx(after)


def test_the_norm_is_over_all_parameters_together() -> None:
    first, second, frozen = with_gradient(3.0), with_gradient(4.0), nn.Parameter(torch.ones(2))
    Perturbation(0.5).put_on([first, second, frozen])
    assert (number(first), number(second)) == pytest.approx((3.3, 4.4))
    assert frozen.tolist() == [1.0, 1.0]


def test_without_any_gradient_nothing_moves() -> None:
    for adaptive in (False, True):
        x = with_gradient(0.0, 0.0)
        Perturbation(0.05, adaptive=adaptive).put_on([x])
        assert x.tolist() == [0.0, 0.0]


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6), radius=st.floats(1e-3, 10), adaptive=st.booleans())
@hypothesis_settings(max_examples=50, deadline=None)
def test_the_way_back_is_exact(values: list[float], radius: float, adaptive: bool) -> None:
    x = with_gradient(*values)
    before = x.detach().clone()
    perturbation = Perturbation(radius, adaptive=adaptive)
    perturbation.put_on([x])
    if not adaptive and float(before.norm()) > 1:
        assert float((x.detach() - before).norm()) == pytest.approx(radius, abs=1e-3)
    perturbation.take_off()
    assert x.detach().numpy().tobytes() == before.numpy().tobytes()


def trained(folder: Path, batch_size: int = 16, accumulation: int = 1, steps: int = 1, **options: Any) -> dict[str, Tensor]:
    model = tiny_model("llama")
    options = {"precision": "float32", **options}
    train(
        model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}, visits=steps), steps=steps,
        batch_size=batch_size, accumulation=accumulation, learning_rate=1e-2, folder=folder, **options,
    )
    return {name: parameter.detach() for name, parameter in model.hf.named_parameters()}


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return float(torch.stack([(first[name] - second[name]).norm() for name in first]).norm())


def test_the_perturbation_is_that_of_the_whole_step_however_it_is_split(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", steps=2)
    whole, parts = (trained(tmp_path / f"{size}", size, 16 // size, steps=2, sam=0.5) for size in (16, 4))
    assert distance(whole, parts) < 1e-3 * distance(whole, plain)


def test_under_autocast_the_second_pass_sees_the_perturbed_weights(tmp_path: Path) -> None:
    exact, plain = trained(tmp_path / "exact", sam=2.0), trained(tmp_path / "plain")
    rounded = trained(tmp_path / "rounded", sam=2.0, precision="bfloat16")
    assert distance(rounded, exact) < 0.7 * distance(rounded, plain)


def test_a_step_is_the_optimisers_from_the_gradient_at_the_perturbed_weights(tmp_path: Path) -> None:
    # AdamW's first step is the learning rate times the sign of the gradient it is given, so the direction can be worked out beforehand
    model, radius = tiny_model("llama"), 3.0
    stream = TextStream(model, TEXTS)
    term, rows = CrossEntropy(stream="forget"), [{"forget": stream.example(row, 0)} for row in range(16)]
    batch = Collator(model.pad_id)(rows)["forget"]
    parameters = dict(model.hf.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    (term.sum(model, batch) / term.count(batch)).backward()
    perturbation = Perturbation(radius)
    perturbation.put_on(parameters.values())
    (term.sum(model, batch) / term.count(batch)).backward()
    found = trained(tmp_path, sam=radius)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-4
        torch.testing.assert_close((found[name] - before[name])[clear], -1e-2 * parameter.grad[clear].sign(), atol=2e-4, rtol=0)


class Drawing(CrossEntropy):
    """Draws a number a pass, and remembers how many looks it had."""

    def __init__(self) -> None:
        super().__init__(1.0, "forget")
        self.drawn: list[float] = []
        self.looks = torch.zeros(1)

    def state(self) -> Mapping[str, Tensor]:
        return {"looks": self.looks}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.looks = state["looks"]

    def sum(self, model: Model, batch: Batch) -> Tensor:
        if model.hf.training:
            self.drawn.append(float(torch.rand(1)))
            self.looks += 1
        return super().sum(model, batch)


def test_both_passes_draw_the_same_and_terms_remember_one(tmp_path: Path) -> None:
    def run(sam: float) -> Drawing:
        model, term = tiny_model("llama"), Drawing()
        train(
            model, [term], StreamDataset({"forget": TextStream(model, TEXTS)}), steps=2, batch_size=2, accumulation=2, learning_rate=1e-3,
            folder=tmp_path / f"{sam}", precision="float32", sam=sam,
        )
        return term

    once, twice = run(0.0), run(0.05)
    first, second = once.drawn[:2], once.drawn[2:]
    assert len(set(once.drawn)) == 4
    assert twice.drawn == [*first, *first, *second, *second]
    assert twice.looks.tolist() == once.looks.tolist() == [4.0]


def test_the_loss_that_is_told_is_that_of_the_weights(tmp_path: Path) -> None:
    def loss(sam: float) -> float:
        model = tiny_model("llama")
        outcome = train(
            model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}), steps=1, batch_size=4,
            accumulation=4, learning_rate=1e-3, folder=tmp_path / f"{sam}", precision="float32", sam=sam,
        )
        return outcome["loss"]

    assert loss(2.0) == loss(0.0)


def test_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    trainer = ObjectiveTrainer(
        model, [CrossEntropy()], args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    )
    trainer.check_whole_weights("SAM")
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UsageError, match="SAM needs the whole weights"):
        trainer.check_whole_weights("SAM")
