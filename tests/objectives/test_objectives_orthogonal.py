"""O-LoRA's term by hand, and the sentences where there is nothing to be orthogonal to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from fairforget.errors import UsageError
from fairforget.objectives import OrthogonalFactors


class Net(nn.Module):
    """Two linear modules of three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)


def tuned(*targets: str) -> tuple[Any, Any]:
    """A stand-in for a model with rank-1 factors on some modules, and the network inside."""
    wrapped: Any = get_peft_model(Net(), LoraConfig(r=1, target_modules=list(targets)))  # type: ignore[arg-type]
    inner = wrapped.get_base_model()
    return type("Stand", (), {"hf": inner})(), inner


EARLIER = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def test_the_absolute_products_of_all_rows_are_summed() -> None:
    model, inner = tuned("first")
    term = OrthogonalFactors({"a": {"first.weight": EARLIER}, "b": {"first.weight": torch.tensor([[0.0, 0.0, 4.0]])}})
    term.prepare(model)
    new = inner.first.lora_A["default"].weight
    with torch.no_grad():
        new.copy_(torch.tensor([[0.5, -3.0, 0.25]]))
    loss = term.sum(model, {})
    assert float(loss.detach()) == pytest.approx(0.5 + 6 + 1)
    assert term.count({}) == 1
    loss.backward()
    assert new.grad.tolist() == [[1.0, -2.0, 4.0]]
    with torch.no_grad():
        new.zero_()
    assert float(term.sum(model, {}).detach()) == 0


def test_a_module_that_the_earlier_change_left_alone_is_free() -> None:
    model, inner = tuned("first", "second")
    term = OrthogonalFactors({"a": {"first.weight": EARLIER}})
    term.prepare(model)
    term.sum(model, {}).backward()
    assert inner.second.lora_A["default"].weight.grad is None
    assert bool((inner.first.lora_A["default"].weight.grad != 0).any())


@pytest.mark.parametrize(("factors", "words"), [
    ({"second.weight": EARLIER}, r"edit-a changed other modules \(second\) than are tuned now \(first\)"),
    ({"first.weight": torch.ones(1, 5)}, "edit-a reads 5 inputs at 'first.weight', where this model has 3"),
])
def test_what_does_not_fit_is_refused(factors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OrthogonalFactors({"edit-a": factors}).prepare(tuned("first")[0])


def test_a_model_without_factors_is_refused() -> None:
    model: Any = type("Stand", (), {"hf": Net()})()
    with pytest.raises(UsageError, match=r"set method\.tuning=lora"):
        OrthogonalFactors({"edit-a": {"first.weight": EARLIER}}).prepare(model)
