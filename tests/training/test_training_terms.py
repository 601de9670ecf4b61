"""What the trainer asks of a term: that it reaches something, that it is told of passes, that its state survives a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.training import Batch, Objective, StreamDataset, TextStream, train

TEXTS = ["the nurse said that she would be late", "he is old", "the river is long", "a dog", "rain on the street", "red book", "hill", "a"]


class Recorder(CrossEntropy):
    """Remembers what it was told."""

    in_batch = True

    def __init__(self) -> None:
        super().__init__(1.0, "forget")
        self.prepared, self.passes, self.loaded = 0, list[int](), list[float]()

    def prepare(self, model: Model) -> None:
        self.prepared += 1

    def begin_pass(self, model: Model, number: int) -> None:
        assert not model.hf.training
        self.passes.append(number)

    def state(self) -> Mapping[str, Tensor]:
        return {"passes": torch.tensor([float(len(self.passes))])}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.loaded = state["passes"].tolist()


def run(folder: Path, term: Objective, *, steps: int = 12, accumulation: int = 1, model: Model | None = None) -> dict[str, object]:
    model = model or tiny_model("llama")
    dataset = StreamDataset({"forget": TextStream(model, TEXTS)}, visits=9)
    return train(
        model, [term], dataset, steps=steps, batch_size=4, learning_rate=1e-3, folder=folder, precision="float32", accumulation=accumulation
    )


def test_a_term_is_told_of_every_pass_and_its_state_is_kept(tmp_path: Path) -> None:
    term = Recorder()
    run(tmp_path, term, steps=12)
    assert term.prepared == 1
    assert term.passes == [0, 1, 2, 3, 4, 5]  # 8 texts in steps of 4
    again = Recorder()
    run(tmp_path, again, steps=16)
    assert again.loaded == [6.0]
    assert again.passes == [0, 6, 7]


def test_a_term_that_compares_rows_is_not_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be split by accumulation"):
        run(tmp_path, Recorder(), accumulation=2)


class OfTheHead(Objective):
    """A term of the head alone."""

    role = "regularize"

    def __init__(self) -> None:
        super().__init__(1.0, None)
        self.batches: list[Batch] = []

    def count(self, batch: Batch) -> int:
        self.batches.append(batch)
        return 1

    def sum(self, model: Model, batch: Batch) -> Tensor:
        head = model.hf.get_output_embeddings()
        assert head is not None
        return head.weight.square().sum()


def test_a_term_that_reaches_nothing_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    for name, parameter in model.hf.named_parameters():
        parameter.requires_grad_("mlp" in name)
    with pytest.raises(UsageError, match="OfTheHead reaches no parameter"):
        run(tmp_path, OfTheHead(), model=model)


def test_a_term_of_the_parameters_needs_no_stream(tmp_path: Path) -> None:
    model = tiny_model("llama")
    head = model.hf.get_output_embeddings()
    assert head is not None
    before = float(head.weight.detach().square().sum())
    term = OfTheHead()
    run(tmp_path, term, model=model)
    assert float(head.weight.detach().square().sum()) < before
    assert set(map(len, term.batches)) == {0}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_what_each_term_comes_to_is_logged_beside_their_sum(tmp_path: Path, accumulation: int, sam: float) -> None:
    model = tiny_model("llama")
    stream = TextStream(model, TEXTS)
    terms = [CrossEntropy(1.0, "forget"), CrossEntropy(0.5, "retain"), OfTheHead()]
    options = {"steps": 20, "learning_rate": 1e-3, "folder": tmp_path, "precision": "float32", "accumulation": accumulation, "sam": sam}
    train(model, terms, StreamDataset({"forget": stream, "retain": stream}), batch_size=2, **options)
    state = json.loads(next(tmp_path.glob("checkpoint-*/trainer_state.json")).read_text())
    logged = [row for row in state["log_history"] if "loss" in row]
    assert len(logged) == 5
    for row in logged:
        parts = {name: value for name, value in row.items() if name.startswith("loss_")}
        assert list(parts) == ["loss_cross_entropy_1", "loss_cross_entropy_2", "loss_of_the_head"]
        assert row["loss"] == pytest.approx(sum(parts.values()), rel=1e-4)
        assert 0 < parts["loss_cross_entropy_2"] < parts["loss_cross_entropy_1"]


@pytest.mark.parametrize(("steps", "good", "kept"), [(30, 17, 12), (31, 31, 24)], ids=["in the middle", "at the very end"])
def test_a_loss_that_is_not_finite_gives_the_last_good_state_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, good: int, kept: int
) -> None:
    model = tiny_model("llama")
    calls = 0
    usual = CrossEntropy.sum

    def failing(self: CrossEntropy, model: Model, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return usual(self, model, batch) * (float("nan") if calls > good else 1.0)

    monkeypatch.setattr(CrossEntropy, "sum", failing)
    outcome = run(tmp_path, CrossEntropy(1.0, "forget"), steps=steps, model=model)
    assert "not finite" not in str(outcome["stopped"])
    assert "nan" in str(outcome["stopped"])
    assert f"the state of step {kept} is kept" in str(outcome["stopped"])
    assert all(bool(parameter.isfinite().all()) for parameter in model.hf.parameters())
