"""PCGU end to end: hand-worked steps on toy models, and fits on tiny ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import four_bit_models, tiny_model
from torch import nn

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.edits import LowRank, WeightEdit
from fairforget.errors import FairforgetError, UsageError
from fairforget.methods import _pcgu_gradients
from fairforget.methods._pcgu_changes import VectorChanges
from fairforget.methods._pcgu_gradients import NonFiniteGradientError, PairBatch, contrast, preferences
from fairforget.methods._pcgu_ranking import smallest
from fairforget.methods._pcgu_vectors import VectorPartition, cosines
from fairforget.methods.pcgu import PcguSettings, _Unlearning
from fairforget.models import Model, load
from fairforget.models.hashing import content_hash
from fairforget.training import PairStream
from fairforget.training.streams import Collator

PAIRS = [
    ("the nurse said that she would be late", "the nurse said that he would be late"),
    ("the doctor said that he would be late", "the doctor said that she would be late"),
    ("the engineer has had his work", "the engineer has had her work"),
    ("the teacher said she was good", "the teacher said he was good"),
    ("an engineer had a son and he was late", "an engineer had a son and she was late"),
    ("the old nurse would be with her friend", "the old nurse would be with his friend"),
]
TEXTS = [TrainingText(text, ("gender",), str(number), other) for number, (text, other) in enumerate(PAIRS)]


class Toy:
    """Logits = W x with x a one-hot input: as much of a model as the gradients look at."""

    def __init__(self, family: str, size: int) -> None:
        self.family, self.size = family, size
        self.hf = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.hf.weight)
        self.prefix, self.max_length, self.mask_id, self.pad_id = (0,), 100, 0, 0

    def sequence_ids(self, text: str) -> list[int]:
        return [int(letter) for letter in text]

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        del mask
        return nn.functional.one_hot(ids, self.size).float()

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.hf(hidden)


def side(ids: list[int], labels: list[int]) -> dict[str, torch.Tensor]:
    return {"ids": torch.tensor([ids]), "mask": torch.ones(1, len(ids), dtype=torch.long), "labels": torch.tensor([labels])}


def all_pairs(model: Model) -> PairBatch:
    stream = PairStream(model, PAIRS)
    batch = Collator(model.pad_id).batch([stream.example(index, 0) for index in range(len(PAIRS))])
    sides = [{field: batch[start + field] for field in ("ids", "mask", "labels")} for start in ("", "other_")]
    return PairBatch(sides[0], sides[1], torch.full((len(PAIRS),), 1 / len(PAIRS)))


@torch.no_grad()
def margins(model: Model) -> torch.Tensor:
    stereotype, counterpart = (preferences(model, half, "log-probability") for half in reversed(all_pairs(model).halves()))
    return stereotype - counterpart


def margin(model: Model) -> float:
    return float(margins(model).mean())


def test_one_step_by_hand() -> None:
    toy: Any = Toy("masked", 2)
    partition = VectorPartition(toy.hf)
    batch = PairBatch(side([0], [0]), side([0], [1]), torch.ones(1))
    found = contrast(toy, partition, [batch], update="advantaged", preference="log-probability")
    assert found.direction["weight"].tolist() == [[0.5, 0], [-0.5, 0]]
    assert cosines(found.sums).tolist() == pytest.approx([-1, -1])
    assert found.margin == 0
    assert toy.hf.weight.grad is None
    changes = VectorChanges(partition)
    changes.add(partition.tensors[0], smallest(cosines(found.sums), 2), -found.direction["weight"][smallest(cosines(found.sums), 2)])
    logits = toy.head(toy.hidden(torch.tensor([[0]]), None))[0, 0]
    assert logits.tolist() == [-0.5, 0.5]
    assert float(torch.softmax(logits, -1)[0].detach()) == pytest.approx(0.26894, abs=1e-5)
    changes.restore()
    raw = contrast(toy, partition, [batch], update="advantaged", preference="logit")
    assert cosines(raw.sums).tolist() == [0, 0]  # each row has a gradient on one side only


@pytest.mark.parametrize(("scope", "untouched"), [("answer", True), ("sentence", False)])
def test_answer_leaves_the_shared_prefix_alone(scope: Any, untouched: bool) -> None:
    toy: Any = Toy("causal", 6)
    stream = PairStream(toy, [("1234", "1235")], scope=scope)
    row = stream.example(0, 0)
    batch = PairBatch(side(row["ids"], row["labels"]), side(row["other_ids"], row["other_labels"]), torch.ones(1))
    found = contrast(toy, VectorPartition(toy.hf, "output"), [batch], update="advantaged", preference="log-probability")
    by_input = found.direction["weight"].abs().sum(0)
    assert by_input[3] > 0  # the token before the difference
    assert bool((by_input[:3] == 0).all()) is untouched


@pytest.mark.parametrize("update", ["advantaged", "disadvantaged", "contrast"])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_freed_pass_finds_the_plain_gradients(kind: str, update: Any) -> None:
    model = tiny_model(kind)
    partition = VectorPartition(model.hf)
    batch = all_pairs(model)
    parameters = [tensor.parameter for tensor in partition]

    def plain(half: Any) -> list[Any]:
        return list(torch.autograd.grad(preferences(model, half, "log-probability").mean(), parameters, allow_unused=True))

    disadvantaged, advantaged = (plain(half) for half in batch.halves())
    size = 2
    micro = [
        PairBatch(
            *({field: value[start : start + size] for field, value in half.items()} for half in (batch.advantaged, batch.disadvantaged)),
            batch.weights[start : start + size],
        )
        for start in range(0, len(PAIRS), size)
    ]
    for batches, blocks in (([batch], 1), (micro, 1), (micro, 4)):
        found = contrast(model, partition, batches, update=update, preference="log-probability", blocks=blocks)
        for tensor, lower, upper in zip(partition, disadvantaged, advantaged, strict=True):
            if upper is None:
                assert not found.present[tensor.span].any()
                continue
            direction = {"advantaged": upper, "disadvantaged": -lower, "contrast": upper - lower}[update]
            torch.testing.assert_close(found.direction[tensor.name], direction, atol=1e-5, rtol=1e-3)
            expected = torch.nn.functional.cosine_similarity(tensor.rows(lower), tensor.rows(upper), dim=-1).flatten()
            clear = found.sums[1:, tensor.span].min(dim=0).values > 1e-8
            torch.testing.assert_close(cosines(found.sums)[tensor.span][clear], expected[clear], atol=1e-3, rtol=1e-2)
        assert found.margin == pytest.approx(margin(model), abs=1e-5)
        assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_the_second_pass_holds_one_gradient_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    partition = VectorPartition(model.hf)
    held: list[int] = []
    plain = _pcgu_gradients.vector_sums

    def counted(*arguments: Any) -> torch.Tensor:
        held.append(sum(tensor.parameter.grad is not None for tensor in partition))
        return plain(*arguments)

    monkeypatch.setattr(_pcgu_gradients, "vector_sums", counted)
    contrast(model, partition, [all_pairs(model)], update="advantaged", preference="log-probability")
    assert len(held) == len(partition.tensors)
    assert max(held) == 0  # the one in hand was freed already, and none waits
    held.clear()
    contrast(model, partition, [all_pairs(model)] * 2, update="advantaged", preference="log-probability", blocks=5)
    assert max(held) < -(-len(partition.tensors) // 5)


def test_a_parameter_without_a_part_in_the_last_micro_batch_is_met_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an expert of a mixture is, that no token of the last rows was sent to."""
    model = tiny_model("llama")
    partition = VectorPartition(model.hf)
    aside = next(tensor for tensor in partition if tensor.name.endswith("mlp.up_proj.weight"))
    plain, calls = _pcgu_gradients._backward, list[int]()

    def without_the_last(*arguments: Any) -> float:
        calls.append(1)
        aside.parameter.requires_grad_(len(calls) < 4)  # two micro-batches of each side
        return plain(*arguments)

    monkeypatch.setattr(_pcgu_gradients, "_backward", without_the_last)
    found = contrast(model, partition, [all_pairs(model)] * 2, update="advantaged", preference="log-probability")
    aside.parameter.requires_grad_(True)
    assert len(calls) == 4
    assert all(tensor.parameter.grad is None for tensor in partition)
    assert found.present[aside.span].all() and (found.sums[1:, aside.span] > 0).all()


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_edit_lowers_the_margin_and_the_model_is_left_alone(kind: str) -> None:
    model = tiny_model(kind)
    before_hash, before = content_hash(model.hf), margin(model)
    edit = methods.Pcgu(updates=3, learning_rate=0.02, share=0.3).fit(model, TEXTS)
    assert content_hash(model.hf) == before_hash
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())
    with edit.at(0).applied(model):
        assert margin(model) == before
    with edit.applied(model):
        assert margin(model) < before - 0.02
    training: Any = edit.record.provenance["training"]
    assert training["updates"] == len(training["margins"]) == 3
    assert training["margins"][0] == pytest.approx(before, abs=1e-5)
    assert training["pairs"] == {"used": 6, "left_out": 0}
    chosen = sum(row["selected_share"] * row["vectors"] for row in training["selection"])
    assert chosen == pytest.approx(round(0.3 * training["vectors"]), abs=0.5)


def test_one_update_changes_as_many_vectors_as_asked_for() -> None:
    model = tiny_model("gpt2")
    edit = methods.Pcgu(updates=1, count=17).fit(model, TEXTS)
    partition = {tensor.name: tensor for tensor in VectorPartition(model.hf)}
    assert isinstance(edit, WeightEdit)
    changed = sum(int(partition[name].rows(delta.delta).any(dim=-1).sum()) for name, delta in edit.deltas.items())  # type: ignore[union-attr]
    assert changed == 17


@pytest.mark.parametrize(
    "choice",
    [
        {"update": "contrast"}, {"update": "disadvantaged"}, {"ranking": "flex", "retain_count": 4, "cost_budget": 5},
        {"scope": "sentence", "update": "contrast"}, {"aggregation": "output"}, {"objective": "logit"},
    ],
    ids=str,
)
def test_each_choice_lowers_the_margin(choice: dict[str, Any]) -> None:
    model = tiny_model("llama")
    before = margin(model)
    with methods.Pcgu(**{"updates": 1, "learning_rate": 0.02, "batch_size": 6, **choice}).fit(model, TEXTS).applied(model):
        assert margin(model) < before


def test_the_dynamic_direction_lowers_what_each_pair_prefers() -> None:
    model = tiny_model("bert")
    before = margins(model)
    assert before.min() < 0 < before.max()
    with methods.Pcgu(update="dynamic", updates=1, learning_rate=0.002, batch_size=6).fit(model, TEXTS).applied(model):
        assert margins(model).abs().mean() < before.abs().mean()


@pytest.mark.parametrize(
    ("start", "choice", "expected"),
    [
        (0.1, {"update": "contrast"}, [0.1, -0.1, -0.3, -0.5]),  # goes on past neutral
        (0.1, {"update": "dynamic"}, [0.1, -0.1, 0.1, -0.1]),  # from one side to the other by a whole step
        (0.1, {"update": "dynamic", "neutral_width": 1}, [0.1, 0.08, 0.064, 0.0512]),  # comes to rest
        (1.3, {"update": "dynamic", "neutral_width": 1}, [1.3, 1.1, 0.9, 0.72]),
        (-1.3, {"update": "dynamic", "neutral_width": 1}, [-1.3, -1.1, -0.9, -0.72]),
        (2.0, {"update": "dynamic", "scheduler": "linear"}, [2.0, 1.8, 1.65, 1.55]),
    ],
    ids=str,
)
def test_the_way_of_one_margin_by_hand(start: float, choice: dict[str, Any], expected: list[float], tmp_path: Path) -> None:
    """The margin z₀ − z₁ has the gradient (1, −1), so a step η = 0.1 with the factor f takes 0.2 f of it."""
    toy: Any = Toy("masked", 2)
    toy.base_hash, toy.device = "toy", torch.device("cpu")
    with torch.no_grad():
        toy.hf.weight[0, 0] = start
    work = _Unlearning(PcguSettings(share=1, updates=4, learning_rate=0.1, **choice), toy, [("0", "1")], 0, None)
    assert work.run(VectorChanges(VectorPartition(toy.hf)), tmp_path)["margins"] == pytest.approx(expected, abs=1e-5)


def test_pairs_within_the_neutral_width_weigh_in_proportion_to_their_margins() -> None:
    model = tiny_model("bert")
    found = margins(model)
    width = float(found.abs().median())
    work = _Unlearning(PcguSettings(update="dynamic", neutral_width=width), model, PAIRS, 0, None)
    torch.testing.assert_close(work._oriented(all_pairs(model)).weights * len(PAIRS), (found / width).clamp(-1, 1))
    signs = _Unlearning(PcguSettings(update="dynamic"), model, PAIRS, 0, None)._oriented(all_pairs(model)).weights * len(PAIRS)
    torch.testing.assert_close(signs, found.sign())


def test_another_seed_draws_another_order_and_a_stretch_of_the_ranking_another_change() -> None:
    def fitted(seed: int = 0, **choice: Any) -> str:
        return methods.Pcgu(updates=2, batch_size=2, **choice).fit(tiny_model("llama"), TEXTS, seed=seed).content_hash

    assert fitted() == fitted() != fitted(seed=1)
    assert fitted(ranking="interval", interval_to=0.5) != fitted(ranking="interval", interval_from=0.5, interval_to=1)


def test_a_fit_that_was_interrupted_goes_on_to_the_same_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = methods.Pcgu(updates=5, batch_size=4, dropout=True, ranking="flex", retain_count=2, cost_budget=50)
    whole = method.fit(tiny_model("gpt2"), TEXTS)
    update, calls = _Unlearning._update, []

    def interrupted(self: _Unlearning, changes: VectorChanges, number: int, *rest: Any) -> float:
        calls.append(number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(self, changes, number, *rest)

    monkeypatch.setattr(_Unlearning, "_update", interrupted)
    model = tiny_model("gpt2")
    before = content_hash(model.hf)
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, TEXTS, folder=tmp_path)
    assert content_hash(model.hf) == before
    resumed = method.fit(model, TEXTS, folder=tmp_path)
    assert calls == [0, 1, 2, 3, 3, 4]
    assert resumed.content_hash == whole.content_hash


def test_a_run_that_diverges_keeps_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = _Unlearning._update

    def diverging(self: _Unlearning, changes: VectorChanges, number: int, *rest: Any) -> float:
        if number == fails:
            raise NonFiniteGradientError("not finite.")
        return update(self, changes, number, *rest)

    monkeypatch.setattr(_Unlearning, "_update", diverging)
    fails = 2
    model = tiny_model("llama")
    edit = methods.Pcgu(updates=4, batch_size=2).fit(model, TEXTS, folder=tmp_path)
    training: Any = edit.record.provenance["training"]
    assert (training["updates"], len(training["margins"])) == (2, 2)
    assert training["stopped"] == "update 3: not finite. The state of update 2 is kept."
    fails, before = 0, content_hash(model.hf)
    with pytest.raises(FairforgetError, match="not finite"):
        methods.Pcgu(updates=4, batch_size=3).fit(model, TEXTS)
    assert content_hash(model.hf) == before


def test_a_monitor_ends_the_run() -> None:
    monitor = SimpleNamespace(looks=3, look=lambda model, step: "enough" if step == 2 else None)
    edit = methods.Pcgu(updates=8, batch_size=2).fit(tiny_model("llama"), TEXTS, monitor=monitor)  # type: ignore[arg-type]
    training: Any = edit.record.provenance["training"]
    assert (training["updates"], training["stopped"]) == (2, "enough")


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_an_adapter_is_changed_in_place_of_the_weights(kind: str) -> None:
    model = tiny_model(kind)
    before_hash, before = content_hash(model.hf), margin(model)
    edit = methods.Pcgu(adapter=True, updates=3, learning_rate=0.2, share=0.5).fit(model, TEXTS)
    assert content_hash(model.hf) == before_hash
    assert isinstance(edit, WeightEdit)
    assert all(isinstance(delta, LowRank) for delta in edit.deltas.values())
    with edit.applied(model):
        assert margin(model) < before - 0.02


def test_an_adapter_is_changed_on_a_quantised_base(tmp_path: Path) -> None:
    _, model = four_bit_models(tmp_path)
    with pytest.raises(UsageError, match="adapter"):
        methods.Pcgu().fit(model, TEXTS)
    before = margin(model)
    edit = methods.Pcgu(adapter=True, updates=3, learning_rate=0.2, share=0.5).fit(model, TEXTS)
    assert margin(model) == before
    assert isinstance(edit, WeightEdit) and all(isinstance(delta, LowRank) for delta in edit.deltas.values())
    again = load(tmp_path, load_in_4bit=True)
    assert again.base_hash == model.base_hash
    for other in (model, again):  # the same weights, however the library has packed them since
        with edit.applied(other):
            assert margin(other) < before


def test_what_does_not_go_together_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="PCGU needs pairs"):
        methods.Pcgu().fit(model, ["the nurse said that she would be late"])
    with pytest.raises(UsageError, match="interval_to must be above"):
        methods.Pcgu(interval_from=0.5, interval_to=0.5)
    with pytest.raises(UsageError, match="neutral_width goes with update=dynamic"):
        methods.Pcgu(neutral_width=1)
    with pytest.raises(UsageError, match="preset"):
        methods.Pcgu(preset="yu")
    model.hf.is_quantized = True  # type: ignore[assignment]
    with pytest.raises(UsageError, match="set adapter=true"):
        methods.Pcgu().fit(model, TEXTS)
    alone = [TrainingText("she", (), "a", "he")]
    with pytest.raises(UsageError, match="without a first token"):
        methods.Pcgu(special_tokens=False).fit(tiny_model("llama"), alone)


def test_presets_are_the_released_settings_unless_overridden() -> None:
    yu = PcguSettings(preset="yu-2023", learning_rate=0.5)
    assert (yu.objective, yu.reduction, yu.count, yu.dropout, yu.learning_rate) == ("logit", "sum", 10_000, True, 0.5)
    dige = PcguSettings(preset="dige-2024")
    assert (dige.scope, dige.special_tokens, dige.shuffle, dige.keep_partial) == ("sentence", False, False, False)
    assert PcguSettings.model_validate(yu.model_dump()) == yu  # as a recipe writes and reads it


def test_a_preset_runs_without_special_tokens() -> None:
    model = tiny_model("bert")
    work = _Unlearning(PcguSettings(preset="yu-2023"), model, PAIRS, 0, None)
    row = work.stream.example(0, 0)
    assert len(row["ids"]) == len(model.token_ids(PAIRS[0][0]))
    assert [batch.weights.tolist() for batch in work._batches(0)] == [[1.0] * 6]
