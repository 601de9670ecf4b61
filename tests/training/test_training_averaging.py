"""The average of the weights: its formula, what it is when the training ends, who sees it, and that a kill does not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny import tiny_model
from torch import Tensor, nn

from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.training import ObjectiveTrainer, StreamDataset, TextStream, train
from fairforget.training.averaging import ParameterAverage

TEXTS = ["the nurse said that she would be late", "he is old", "the river is long and the hill is green", "a dog"] * 2


def averaged(values: list[float], decay: float, start: float = 0.0) -> float:
    x = nn.Parameter(torch.tensor([start]))
    average = ParameterAverage({"x": x}, decay)
    for step, value in enumerate(values, start=1):
        x.data = torch.tensor([value])
        average.update(step)
    average.put_on()
    return float(x.detach())


def test_three_steps_by_hand() -> None:
    assert averaged([1.0], 0.5, start=7.0) == 1.0  # what was before the first step has no part in it
    assert averaged([1.0, 2.0], 0.5) == pytest.approx(5 / 3)
    assert averaged([1.0, 2.0, 4.0], 0.5) == pytest.approx(3.0)  # (4 · 4 + 2 · 2 + 1) / 7


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12), decay=st.floats(0.01, 0.999), start=st.floats(-100, 100))
@hypothesis_settings(max_examples=60, deadline=None)
def test_it_is_the_bias_corrected_sum_and_the_one_from_the_start_weights_at_more_strength(
    values: list[float], decay: float, start: float
) -> None:
    steps = len(values)
    weights = [(1 - decay) * decay ** (steps - number) for number in range(1, steps + 1)]
    found = averaged(values, decay, start)
    assert found == pytest.approx(sum(w * value for w, value in zip(weights, values, strict=True)) / (1 - decay**steps), abs=1e-3)
    running = start
    for value in values:
        running = decay * running + (1 - decay) * value
    assert running == pytest.approx(start + (1 - decay**steps) * (found - start), abs=1e-3)


@given(value=st.floats(-1e3, 1e3, width=32), decay=st.floats(0.01, 0.999))
@hypothesis_settings(max_examples=40, deadline=None)
def test_what_does_not_move_keeps_its_bits(value: float, decay: float) -> None:
    assert averaged([value] * 5, decay, start=value) == value


def run(folder: Path, steps: int, monitor: Any = None, **options: Any) -> tuple[Model, dict[str, Any]]:
    model = tiny_model("llama")
    outcome = train(
        model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}, visits=9), steps=steps, batch_size=4,
        learning_rate=1e-2, scheduler="constant", folder=folder, precision="float32", monitor=monitor, **options,
    )
    return model, outcome


def weights(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.hf.named_parameters()}


class Looking:
    """Keeps the weights that it is shown."""

    looks = 1

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def look(self, model: Model, step: int) -> str | None:
        assert step == 2
        self.seen = weights(model)
        return None


def test_a_training_ends_with_the_average_of_its_steps_and_a_monitor_sees_it(tmp_path: Path) -> None:
    single = [weights(run(tmp_path / f"{steps}", steps)[0]) for steps in (1, 2, 3)]
    monitor = Looking()
    found = weights(run(tmp_path / "ema", 3, monitor, ema=0.5)[0])
    for name, value in found.items():
        first, second, third = (one[name] for one in single)
        torch.testing.assert_close(value, (4 * third + 2 * second + first) / 7, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(monitor.seen[name], (2 * second + first) / 3, atol=1e-5, rtol=1e-5)
    assert any(not torch.allclose(found[name], single[2][name], atol=1e-4) for name in found)


@pytest.mark.parametrize("options", [{"sam": 0.1, "ema": 0.8}, {"sam": 0.5, "sam_adaptive": True, "accumulation": 2}])
def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    whole = weights(run(tmp_path / "whole", 13, **options)[0])
    step, calls = ObjectiveTrainer.training_step, 0
    killed_at = 12 * options.get("accumulation", 1)

    def interrupted(self: ObjectiveTrainer, *arguments: Any, **further: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        return step(self, *arguments, **further)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 13, **options)
    resumed, outcome = run(tmp_path / "killed", 13, **options)
    assert outcome["steps"] == 13
    assert calls == killed_at + 3 * options.get("accumulation", 1)  # went on from the checkpoint at step 10
    found = weights(resumed)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    again = weights(run(tmp_path / "killed", 13, **options)[0])  # of a finished training the weights are taken
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
