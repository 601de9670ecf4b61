"""L2-SP and elastic weight consolidation, worked out by hand, for weights and for low-rank factors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bigram import Bigram
from peft import LoraConfig, get_peft_model
from tiny import tiny_model
from torch import nn

from fairforget.objectives import ElasticWeightConsolidation, L2ToBase
from fairforget.objectives.elastic import fisher_information
from fairforget.training import AnswerStream, TextStream

UNIFORM = [[0.0, 0.0], [0.0, 0.0]]


class Rows:
    """A stream of rows as they are."""

    def __init__(self, *rows: list[int]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> dict[str, list[int]]:
        del visit
        row = self.rows[index % len(self.rows)]
        return {"ids": row, "labels": [-100, *row[1:]]}


def test_l2_is_half_the_squared_distance() -> None:
    model: Any = Bigram(UNIFORM)
    term = L2ToBase()
    term.prepare(model)
    assert float(term.sum(model, {})) == 0
    with torch.no_grad():
        model.table.add_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
    loss = term.sum(model, {})
    assert float(loss) == pytest.approx(2.5)
    assert term.count({}) == 1
    loss.backward()
    assert model.table.grad.tolist() == [[1.0, 0.0], [0.0, -2.0]]


def test_the_fisher_information_squares_before_it_averages() -> None:
    # gradients of the two texts after token 0: (1/2, -1/2) and (-1/2, 1/2), whose mean is 0
    model: Any = Bigram(UNIFORM)
    fisher = fisher_information(model, Rows([0, 0], [0, 1]), {"table": model.table})
    assert fisher["table"].tolist() == [[0.25, 0.25], [0.0, 0.0]]
    assert model.table.grad is None


def test_a_texts_gradient_is_that_of_its_whole_likelihood() -> None:
    # token 0 is followed by 0 twice in one text: the gradient (1, -1) is squared, not twice (1/2, -1/2)
    model: Any = Bigram(UNIFORM)
    assert fisher_information(model, Rows([0, 0, 0]), {"table": model.table})["table"].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_ewc_weighs_the_distance() -> None:
    model: Any = Bigram(UNIFORM)
    term = ElasticWeightConsolidation(Rows([0, 0], [0, 1]))
    term.prepare(model)
    with torch.no_grad():
        model.table.add_(torch.tensor([[2.0, 0.0], [5.0, 5.0]]))  # what the texts do not use is free
    assert float(term.sum(model, {})) == pytest.approx(0.5 * 0.25 * 4)


def lora_of(hf: nn.Module, targets: list[str], rank: int, alpha: int) -> Any:
    return get_peft_model(hf, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))  # type: ignore[arg-type]


def test_l2_of_factors_is_that_of_their_product() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, bias=False)

    wrapped = lora_of(Net(), ["linear"], rank=1, alpha=2)
    model: Any = type("Stand", (), {"hf": wrapped})()
    term = L2ToBase()
    term.prepare(model)
    layer = wrapped.base_model.model.linear
    assert term.anchors == {}
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_B["default"].weight.copy_(torch.tensor([[1.0], [0.0]]))
    assert float(term.sum(model, {})) == pytest.approx(10)  # ΔW = 2 · [[1, 2], [0, 0]]


@pytest.mark.parametrize(("kind", "module"), [("gpt2", "c_fc"), ("llama", "up_proj"), ("bert", "query")])
def test_ewc_of_factors_is_that_of_the_weights_they_change(kind: str, module: str) -> None:
    model = tiny_model(kind)
    stream = TextStream(model, ["the nurse is late", "a dog"])
    plain = {name: parameter for name, parameter in model.hf.named_parameters() if f".{module}.weight" in name}
    fisher = fisher_information(model, stream, plain)
    before = {name: parameter.detach().clone() for name, parameter in plain.items()}
    wrapped = lora_of(model.hf, [module], rank=2, alpha=6)
    term = ElasticWeightConsolidation(stream)
    term.prepare(model)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    found = float(term.sum(model, {}))
    wrapped.merge_and_unload()
    changed = dict(model.hf.named_parameters())
    expected = sum(0.5 * float((fisher[name] * (changed[name].detach() - before[name]).square()).sum()) for name in before)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0


def test_ewc_of_one_logistic_example() -> None:
    # p = σ(w) at w = 0: the gradient of log p is 1/2, so F = 1/4, and λ/2 · F · Δ² = 50 · 0.25 · 0.04
    model: Any = Bigram(UNIFORM)
    term = ElasticWeightConsolidation(Rows([0, 0]), weight=100.0)
    term.prepare(model)
    assert float(term.fisher["table"][0, 0]) == 0.25
    with torch.no_grad():
        model.table[0, 0] += 0.2
    assert term.weight * float(term.sum(model, {})) == pytest.approx(0.5)


def test_drawn_labels_estimate_the_information_and_not_that_of_the_text() -> None:
    # p = (0.8, 0.2) and a text that always goes on with the likely token: (1 - 0.8)² against p (1 - p)
    model: Any = Bigram([[math.log(4.0), 0.0], [0.0, 0.0]])
    rows = Rows(*([[0, 0]] * 500))
    given = fisher_information(model, rows, {"table": model.table}, 500)["table"]
    drawn, again = (fisher_information(model, rows, {"table": model.table}, 500, drawn=True, seed=3)["table"] for _ in range(2))
    assert float(given[0, 0]) == pytest.approx(0.04, abs=1e-5)
    assert float(drawn[0, 0]) == pytest.approx(0.16, abs=0.04)
    assert torch.equal(drawn, again)


def test_only_the_answers_labels_count() -> None:
    model = tiny_model("llama")
    parameters = {"embedding": model.hf.get_input_embeddings().weight}
    stream = AnswerStream(model, [("the nurse is", " late"), ("a dog is", " red")])
    rows = [stream.example(row, 0) for row in range(2)]
    by_hand = torch.zeros_like(parameters["embedding"])
    for row in rows:
        logits = model.hf(input_ids=torch.tensor([row["ids"]])).logits[0].log_softmax(dim=-1)
        terms = [logits[place - 1, label] for place, label in enumerate(row["labels"]) if label != -100]
        assert len(terms) < len(row["ids"]) - 1
        by_hand += torch.autograd.grad(torch.stack(terms).sum(), parameters["embedding"])[0].square() / 2
    torch.testing.assert_close(fisher_information(model, stream, parameters)["embedding"], by_hand, rtol=1e-3, atol=1e-5)
