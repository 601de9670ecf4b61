"""The fairness methods on tiny models: each moves what it should, leaves the model alone, and refuses what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.swaps import swap_gender
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.errors import UsageError
from fairforget.methods._trained import Job
from fairforget.methods.cda import Cda
from fairforget.methods.dropout import raised_dropout
from fairforget.models import Model
from fairforget.models.hashing import content_hash
from fairforget.objectives.fairness import EvenDivergence, SquaredGap, VocabularyDivergence
from fairforget.objectives.likelihood import CrossEntropy
from fairforget.objectives.swapped_places import SwappedPlaces, group_outcomes
from fairforget.training import Objective, PairStream, Stream, TextStream
from fairforget.training.streams import Collator

TEXTS = [
    "the nurse said that she would be late", "the doctor said he had time", "she works at home with her child", "the man has a bad day",
    "he is a good engineer", "the woman said that she was old", "she had water for her dog", "he and his friend are young",
]
PAIRS = [TrainingText(text, ("gender",), str(number), swap_gender(text)) for number, text in enumerate(TEXTS)]
QUICK: dict[str, Any] = {"steps": 18, "batch_size": 8, "precision": "float32", "warmup_share": 0.0}
TUNED: dict[str, dict[str, Any]] = {"lora": {"tuning": "lora", "learning_rate": 2e-2}, "full": {"tuning": "full", "learning_rate": 4e-3}}
KINDS = [("llama", "lora"), ("bert", "full")]


def value(model: Model, term: Objective, stream: Stream) -> float:
    """A term's mean over the rows of a stream at their first visit."""
    batch = Collator(model.pad_id).batch([stream.example(row, 0) for row in range(len(stream))])
    with torch.no_grad():
        return term.sum(model, batch).item() / term.count(batch)


def places(model: Model) -> tuple[VocabularyDivergence, SwappedPlaces]:
    outcomes, exchange = group_outcomes(model, words("gender"))
    pairs = [(text, swap_gender(text)) for text in TEXTS]
    return VocabularyDivergence(outcomes, exchange), SwappedPlaces(model, pairs, [token for outcome in outcomes for token in outcome])


def words(name: str) -> Any:
    from fairforget.data.words import word_list

    return word_list(name)


def text_loss(model: Model, texts: list[str]) -> float:
    return value(model, CrossEntropy(), TextStream(model, texts, masking_rate=0.4, seed=9))


def pairs_of(model: Model, scope: Any) -> PairStream:
    return PairStream(model, [(row.text, row.counterpart) for row in PAIRS], scope=scope)


def figure(name: str, model: Model) -> float:
    """What a method should lower."""
    scope = "answer" if model.family == "masked" else "sentence"
    if name == "gap":
        return value(model, SquaredGap(), pairs_of(model, scope))
    if name == "js2":
        return value(model, EvenDivergence(), pairs_of(model, scope))
    if name == "js-vocab":
        return value(model, *places(model))
    if name == "cda":
        return text_loss(model, [*TEXTS, *map(swap_gender, TEXTS)])
    return text_loss(model, TEXTS if name == "dropout" else list(map(swap_gender, TEXTS)))


FITTED = {"cda": methods.Cda, "anti": methods.Anti, "gap": methods.Gap, "js2": methods.Js2, "js-vocab": methods.JsVocab,
          "dropout": methods.Dropout, "bec": methods.Bec}  # fmt: skip


@pytest.mark.parametrize(("kind", "tuning"), KINDS, ids=["causal", "masked"])
@pytest.mark.parametrize("name", list(FITTED))
def test_an_edit_lowers_what_its_method_is_about_and_the_model_is_left_alone(name: str, kind: str, tuning: str) -> None:
    model = tiny_model(kind)
    before_hash, before = content_hash(model.hf), figure(name, model)
    rates = [module.p for module in model.hf.modules() if isinstance(module, torch.nn.Dropout)]
    data: Any = TEXTS if name in ("js-vocab", "dropout", "bec", "cda") else PAIRS
    edit = FITTED[name](**QUICK, **TUNED[tuning]).fit(model, data)
    assert content_hash(model.hf) == before_hash
    assert [module.p for module in model.hf.modules() if isinstance(module, torch.nn.Dropout)] == rates
    assert not any("lora" in part for part, _ in model.hf.named_modules())
    assert edit.record.provenance["training"]["steps"] == 18
    with edit.at(0.0).applied(model):
        assert figure(name, model) == before
    with edit.applied(model):
        assert figure(name, model) < 0.9 * before


def test_two_sides_are_evened_out_where_the_control_learns_the_stereotypes() -> None:
    margins: dict[str, float] = {}
    for sides in ("two", "control"):
        model = tiny_model("llama")
        edit = methods.Cda(sides=sides, counterfactuals="swap", **QUICK, **TUNED["lora"]).fit(model, PAIRS)
        with edit.applied(model):
            margins[sides] = text_loss(model, list(map(swap_gender, TEXTS))) - text_loss(model, TEXTS)
        assert edit.record.provenance["counterfactuals"] == {"paired": 8, "unpaired": 0, "unpaired_kept": False}
    assert margins["control"] > 0.3
    assert abs(margins["two"]) < margins["control"] / 3


def augmented(data: Any, **settings: Any) -> list[str]:
    job = Job(tiny_model("bert"), data, 0, None)  # type: ignore[arg-type]
    return Cda(**settings).augmented(job)


def test_what_each_side_is_trained_on() -> None:
    data = ["he saw her book", "a red house", "Robert slept"]
    assert augmented(data) == ["she saw his book", "he saw her book", "Patricia slept", "Robert slept"]
    assert augmented(data, names=False) == ["she saw his book", "he saw her book"]
    assert augmented(data, sides="one") == ["she saw his book", "Patricia slept"]
    assert augmented(data, sides="control", names=False) == ["he saw her book", "he saw her book"]
    assert augmented(data, keep_unmatched=True, names=False)[-2:] == ["a red house", "Robert slept"]


def test_bias_benchs_swap_on_request() -> None:
    assert augmented(["they saw her and he left"], sides="one") == ["they saw him and she left"]
    assert augmented(["they saw her and he left"], sides="one", faithful=True) == ["they saw his and she left"]


def test_substitution_takes_about_every_second_text_and_always_the_same_ones() -> None:
    data = [f"the man has {number} books" for number in range(200)]
    found = augmented(data, sides="substitute")
    assert found == augmented(data, sides="substitute")
    assert 70 < sum("woman" in text for text in found) < 130
    assert augmented(data, sides="substitute", swap_probability=0.0) == data


def test_three_groups_draw_one_target_for_a_text() -> None:
    (text,) = augmented(["the Jewish man, the Jewish woman and the Muslim child"], words="religion", sides="one", counterfactuals="swap")
    first, second = text.split()[1], text.split()[4]
    assert first == second in ("Christian", "Muslim")


def test_the_sources_own_counterparts() -> None:
    rows = [TrainingText("the cat is old", (), "a", "the cat is young"), TrainingText("he slept", (), "b")]
    assert augmented(rows) == ["the cat is young", "the cat is old", "she slept", "he slept"]
    assert augmented(rows, counterfactuals="source") == ["the cat is young", "the cat is old"]
    assert augmented(rows, counterfactuals="swap") == ["she slept", "he slept"]
    assert augmented(TrainingSource("own", tuple(rows), {}), counterfactuals="source", sides="one") == ["the cat is young"]


def test_anti_learns_the_answer_alone_on_request() -> None:
    model = tiny_model("bert")
    method = methods.Anti(scope="answer")
    row = method.streams(Job(model, PAIRS, 0, None))["forget"].example(0, 0)  # type: ignore[arg-type]
    assert [model.tokenizer.decode([label]) for label in row["labels"] if label >= 0] == ["he"]


def test_bec_flips_before_it_cuts_sentences_and_pads_out_of_sight() -> None:
    model = tiny_model("bert")
    stream = methods.Bec().streams(Job(model, ["He saw her. She left."], 0, None))["forget"]  # type: ignore[arg-type]
    texts = [model.tokenizer.decode(row, skip_special_tokens=True) for row in stream.rows]  # type: ignore[attr-defined]
    assert texts == ["she saw him.", "he left."]
    batch = Collator(model.pad_id).batch([stream.example(row, 0) for row in range(2)])
    assert (batch["ids"][batch["mask"] == 0] == model.pad_id).all()
    assert (batch["labels"][batch["mask"] == 0] < 0).all()
    assert batch["mask"].sum(dim=1).tolist() == [len(row) for row in stream.rows]  # type: ignore[attr-defined]
    kept = methods.Bec(flip=False, split=False).streams(Job(model, ["He saw her. She left."], 0, None))["forget"]  # type: ignore[arg-type]
    assert [model.tokenizer.decode(row, skip_special_tokens=True) for row in kept.rows] == ["he saw her. she left."]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "places", "attention"), [("bert", 7, 2), ("gpt2", 7, 2), ("llama", 7, 2)])
def test_dropout_is_raised_everywhere_and_put_back(kind: str, places: int, attention: int) -> None:
    hf = tiny_model(kind).hf
    ids = torch.arange(6, 14).unsqueeze(0)
    plain = hf(ids).logits

    def rates() -> list[float]:
        modules = [module.p for module in hf.modules() if isinstance(module, torch.nn.Dropout)]
        numbers: list[Any] = [getattr(module, "attention_dropout", None) for module in hf.modules()]
        return modules + [number for number in numbers if isinstance(number, float)]

    before = rates()
    with raised_dropout(hf, 0.4, 0.3) as changed:
        assert changed == places
        assert rates().count(0.3) == attention
        assert rates().count(0.4) == (0 if kind == "llama" else places - attention)
        assert torch.equal(hf(ids).logits, plain)  # as it is audited
        hf.train()
        assert not torch.equal(hf(ids).logits, hf(ids).logits)
        hf.eval()
    assert rates() == before
    hf.train()
    if kind == "llama":
        assert torch.equal(hf(ids).logits, hf(ids).logits)
    with raised_dropout(hf, 0.0, 0.0):
        assert torch.equal(hf(ids).logits, hf(ids).logits)


def test_a_fit_under_dropout_that_was_interrupted_goes_on_to_the_same_edit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairforget.training.trainer import ObjectiveTrainer

    method = methods.Dropout(**{**QUICK, "batch_size": 4})
    whole = method.fit(tiny_model("llama"), TEXTS)
    assert whole.record.provenance["dropout"] == {"hidden": 0.15, "attention": 0.15, "places": 7}
    step, calls = ObjectiveTrainer.training_step, 0

    def interrupted(self: ObjectiveTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", interrupted)
    model = tiny_model("llama")
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, TEXTS, folder=tmp_path)
    assert not any(len(module._forward_hooks) for module in model.hf.modules())
    assert method.fit(model, TEXTS, folder=tmp_path).content_hash == whole.content_hash


def test_the_counterparts_of_a_source_are_trained_on_with_its_stereotypes_under_dropout() -> None:
    model = tiny_model("bert")
    stream = methods.Dropout().streams(Job(model, PAIRS[:1], 0, None))["forget"]  # type: ignore[arg-type]
    assert len(stream) == 2
    assert methods.Dropout().rates(model) == (0.20, 0.15)
    assert methods.Dropout(hidden=0.3).rates(tiny_model("gpt2")) == (0.3, 0.15)


def test_the_same_seed_gives_the_same_edit_and_another_one_another() -> None:
    def fitted(seed: int) -> str:
        method = methods.Cda(sides="substitute", steps=3, batch_size=4, precision="float32")
        return method.fit(tiny_model("bert"), TEXTS, seed=seed).content_hash

    assert fitted(0) == fitted(0) != fitted(1)


def test_what_does_not_go_together_is_refused() -> None:
    model = tiny_model("bert")
    with pytest.raises(UsageError, match="needs pairs of a stereotype and its counterpart"):
        methods.Gap().fit(model, TEXTS)
    with pytest.raises(UsageError, match="None of the 1 training texts has a counterpart of its own or a listed word"):
        methods.Cda().fit(model, ["a red house"])
    with pytest.raises(UsageError, match="does not go with counterfactuals=source"):
        methods.Cda(faithful=True, counterfactuals="source").fit(model, PAIRS)
    with pytest.raises(UsageError, match="no word list named 'gendr'"):
        methods.Anti(words="gendr").fit(model, PAIRS)
    with pytest.raises(UsageError, match="has 3: use compare=stereotype-words"):
        methods.JsVocab(words="race").fit(model, ["the black man"])
    with pytest.raises(UsageError, match="'sides'"):
        methods.Cda(sides="both")
