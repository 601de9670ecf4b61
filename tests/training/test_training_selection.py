"""Selected entries are trained as ever; everything else stays as it was, to the last bit, whatever the optimiser does."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from torch import nn

from fairforget.errors import UsageError
from fairforget.training.selection import Selection


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for number in range(times):
        x = torch.randn((5, 3), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


MASK = torch.tensor([[True, False, False], [False, True, False], [False, False, False], [True, True, True]])


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5),
])
def test_unselected_entries_keep_their_bits_under_weight_decay_and_momentum(make: object) -> None:
    module = network()
    before = values(module)
    optimizer = make(list(module.parameters()))  # type: ignore[operator]  # even one that holds more than is trained
    with Selection(names=("2.bias",), masks={"0.weight": MASK}).applied(module):
        step(module, optimizer, 4)
    after = values(module)
    assert torch.equal(after["0.weight"][~MASK], before["0.weight"][~MASK])
    assert bool((after["0.weight"][MASK] != before["0.weight"][MASK]).all())
    assert bool((after["2.bias"] != before["2.bias"]).all())
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert torch.equal(after["2.weight"], before["2.weight"])


def test_adamw_without_weight_decay_takes_a_step_of_exactly_zero_by_the_gradient_alone() -> None:
    module = network()
    before = module[0].weight.detach().clone()
    with Selection(masks={"0.weight": MASK}).applied(module):
        optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.1, weight_decay=0.0)
        step(module, optimizer)
        state = optimizer.state[module[0].weight]
        assert bool((state["exp_avg"][~MASK] == 0).all())
        assert bool((state["exp_avg_sq"][~MASK] == 0).all())
    assert torch.equal(module[0].weight[~MASK], before[~MASK])


def test_selected_entries_move_as_in_unmasked_training() -> None:
    masked, plain = network(), network()
    with Selection(masks={"0.weight": MASK}).applied(masked):
        step(masked, torch.optim.AdamW([masked[0].weight], lr=0.1, weight_decay=0.1))
    step(plain, torch.optim.AdamW([plain[0].weight], lr=0.1, weight_decay=0.1))
    assert torch.equal(masked[0].weight[MASK], plain[0].weight[MASK])


def test_flags_and_hooks_are_taken_off_again() -> None:
    module = network()
    module[2].bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"), Selection(masks={"0.weight": MASK}).applied(module):
        assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == ["0.weight"]
        raise RuntimeError("stop")
    assert [parameter.requires_grad for parameter in module.parameters()] == [True, True, True, False]
    before = values(module)
    step(module, torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5))
    assert bool((module[0].weight != before["0.weight"]).all())


def test_infinite_gradients_of_unselected_entries_become_zero() -> None:
    weight = nn.Linear(2, 1, bias=False)
    with Selection(masks={"weight": torch.tensor([[True, False]])}).applied(weight):
        (weight.weight * torch.tensor([[1.0, float("inf")]])).sum().backward()
        assert weight.weight.grad is not None
        assert weight.weight.grad.tolist() == [[1.0, 0.0]]


def test_a_tied_weight_is_one_parameter_under_any_name() -> None:
    model = tiny_model("gpt2")
    selection = Selection(names=("lm_head.weight",))
    assert selection.count(model.hf) == model.hf.get_input_embeddings().weight.numel()
    with selection.applied(model.hf):
        assert [name for name, parameter in model.hf.named_parameters() if parameter.requires_grad] == ["transformer.wte.weight"]
    with pytest.raises(UsageError, match="one parameter"), \
            Selection(names=("lm_head.weight", "transformer.wte.weight")).applied(model.hf):
        pass


def test_what_a_record_says() -> None:
    selection = Selection(names=("2.bias",), masks={"0.weight": MASK}, facts={"selector": "mine"})
    assert selection.describe() == {"selector": "mine", "whole": ["2.bias"], "partial": {"0.weight": [5, 12]}}
    assert selection.count(network()) == 7


@pytest.mark.parametrize(("names", "masks", "words"), [
    (("0.weigth",), {}, "did you mean 0.weight"),
    ((), {"0.weight": MASK[:2]}, r"shape \(2, 3\)"),
    (("0.weight",), {"0.weight": MASK}, "select it once"),
])
def test_a_selection_that_does_not_fit_is_refused(names: tuple[str, ...], masks: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(UsageError, match=words), Selection(names, masks).applied(network()):
        pass


def test_an_empty_selection_and_a_mask_of_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        Selection(masks={"0.weight": torch.zeros((4, 3), dtype=torch.bool)})
    with pytest.raises(UsageError, match="true and false"):
        Selection(masks={"0.weight": torch.ones((4, 3))})
