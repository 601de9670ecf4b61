"""The methods that unlearn by a loss: each finds an edit that goes the right way, leaves the model alone, and refuses what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget.data.training import TrainingText
from fairforget.edits import Edit
from fairforget.errors import UsageError
from fairforget.methods import method_registry
from fairforget.methods._memorisation import MemorisationStop, extraction_likelihood, memorisation_accuracy, ngram_overlap
from fairforget.models import Model
from fairforget.models.hashing import content_hash
from fairforget.objectives import Misdirection, row_log_probabilities
from fairforget.objectives.likelihood import row_labels
from fairforget.training import TextStream
from fairforget.training.streams import Collator

PAIRS = [
    ("the nurse said that she would be late", "the nurse said that he would be late", "gender"),
    ("the doctor said that he would be late", "the doctor said that she would be late", "gender"),
    ("the old man has a bad day at work", "the young man has a bad day at work", "age"),
    ("she is a good teacher", "he is a good teacher", "gender"),
]
DATA = [TrainingText(text, (group,), str(number), other) for number, (text, other, group) in enumerate(PAIRS * 4)]
METHODS = ("gradient-ascent", "gradient-difference", "npo", "simnpo", "rmu", "wga", "undial", "ce-u", "dpo", "biasunlearn")
OWN: dict[str, dict[str, Any]] = {
    "dpo": {"scope": "answer"},  # of a causal model too: shorter
    "rmu": {"layer": 0, "steering": 5.0},
    "simnpo": {"retain": "none"},  # its forget term is weighted lightly
    "wga": {"retain": "none"},  # a random model finds all texts unlikely
}


def make(name: str, **settings: Any) -> Any:
    quick: dict[str, Any] = {"steps": 8, "batch_size": 8, "learning_rate": 1e-2, "precision": "float32", "masking_rate": 0.3}
    return method_registry().get(name)(**{**quick, **OWN.get(name, {}), **settings})


def rows_of(model: Model, texts: list[str]) -> Any:
    stream = TextStream(model, texts, masking_rate=0.5)
    return Collator(model.pad_id).batch([stream.example(row, 0) for row in range(len(texts))])


@torch.no_grad()
def likelihoods(model: Model, side: int) -> torch.Tensor:
    """Mean log p of each text of one side."""
    batch = rows_of(model, [pair[side] for pair in PAIRS])
    return row_log_probabilities(model, batch) / row_labels(model, batch)


def figure(name: str, model: Model) -> float:
    """What the method is to lower."""
    if name == "rmu":
        term, batch = Misdirection(0, 5.0), rows_of(model, [pair[0] for pair in PAIRS])
        term.prepare(model)
        with torch.no_grad():
            return float(term.sum(model, batch))
    found = likelihoods(model, 0)
    if name == "dpo":
        found = found - likelihoods(model, 1)
    return float(found.mean())


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("name", METHODS)
def test_the_edit_goes_the_right_way_and_the_model_is_left_alone(name: str, kind: str) -> None:
    model = tiny_model(kind)
    before_hash, before, base = content_hash(model.hf), figure(name, model), likelihoods(model, 0)
    edit = make(name, masking_rate=1.0 if name == "dpo" else 0.3).fit(model, DATA)
    assert content_hash(model.hf) == before_hash
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    assert not model.hf.training
    with edit.at(0.0).applied(model):
        assert torch.equal(likelihoods(model, 0), base)
    with edit.applied(model):
        assert figure(name, model) < before
    assert edit.record.provenance["training"]["steps"] == 8


@pytest.mark.parametrize("name", ["gradient-ascent", "npo", "undial", "rmu", "biasunlearn"])
def test_all_weights_can_be_tuned(name: str) -> None:
    model = tiny_model("gpt2")
    before_hash, before = content_hash(model.hf), figure(name, model)
    edit = make(name, tuning="full", learning_rate=1e-3).fit(model, DATA)
    assert content_hash(model.hf) == before_hash
    with edit.applied(model):
        assert figure(name, model) < before


def test_one_batch_of_sixteen_is_four_of_four() -> None:
    edits = [
        make("npo", steps=2, batch_size=16, accumulation=accumulation).fit(tiny_model("llama"), DATA) for accumulation in (1, 4)
    ]
    one, other = (likelihoods_under(edit) for edit in edits)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def likelihoods_under(edit: Edit) -> torch.Tensor:
    model = tiny_model("llama")
    with edit.applied(model):
        return likelihoods(model, 0)


@pytest.mark.parametrize(("gap", "stops"), [(0.0, False), (2.0, True), (1.0, False)])
def test_biasunlearn_stops_where_every_domain_is_even(gap: float, stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairforget.methods.biasunlearn.preferred_share", lambda *_: 51.0)
    edit = make("biasunlearn", stop_gap=gap, steps=12, batch_size=4).fit(tiny_model("llama"), DATA)
    outcome = edit.record.provenance["training"]
    assert (outcome["stopped"] is not None) == stops
    assert not stops or (outcome["steps"] < 12 and "points of 50 %" in outcome["stopped"])


@pytest.mark.parametrize("name", ["npo", "biasunlearn"])
def test_the_same_seed_gives_the_same_edit_and_another_one_another(name: str) -> None:
    first, again, other = (make(name, steps=3).fit(tiny_model("bert"), DATA, seed=seed).content_hash for seed in (0, 0, 1))
    assert first == again != other


def test_a_fit_that_was_interrupted_goes_on_to_the_same_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairforget.training.trainer import ObjectiveTrainer

    method = make("biasunlearn", steps=12)
    whole = method.fit(tiny_model("llama"), DATA)
    step, calls = ObjectiveTrainer.training_step, 0

    def interrupted(self: ObjectiveTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        method.fit(tiny_model("llama"), DATA, folder=tmp_path)
    resumed = method.fit(tiny_model("llama"), DATA, folder=tmp_path)
    assert calls == 12 + 2  # went on from the checkpoint at step 10
    assert resumed.content_hash == whole.content_hash


def test_a_reversed_domain_learns_its_stereotypes() -> None:
    def change(turn_below: float) -> float:
        model = tiny_model("llama")
        before = likelihoods(model, 0).mean()
        edit = make("biasunlearn", turn_below=turn_below, mix=0.0, steps=12).fit(model, DATA)
        with edit.applied(model):
            return float(likelihoods(model, 0).mean() - likelihoods(model, 1).mean() - before)

    assert change(100.0) > change(0.0)


def test_what_does_not_fit_is_refused() -> None:
    model, plain = tiny_model("bert"), [text for text, _, _ in PAIRS]
    with pytest.raises(UsageError, match="counterpart"):
        make("biasunlearn").fit(model, plain)
    with pytest.raises(UsageError, match="needs pairs"):
        make("dpo").fit(model, plain)
    with pytest.raises(UsageError, match="something to retain"):
        make("gradient-difference", retain="none").fit(model, DATA)
    with pytest.raises(UsageError, match="no layer 9"):
        make("rmu", layer=9).fit(model, DATA)
    with pytest.raises(UsageError, match="needs a causal model"):
        make("gradient-ascent", stop_extraction=0.1).fit(model, DATA)
    with pytest.raises(UsageError, match="'beta'"):
        make("npo", beta=0.0)


def test_the_margin_of_simnpo_is_what_the_base_says_of_the_texts() -> None:
    model = tiny_model("llama")
    edit = make("simnpo", steps=1).fit(model, DATA)
    assert edit.record.provenance["delta"] == pytest.approx(-float(likelihoods(model, 0).mean()), abs=1e-3)
    assert make("simnpo", steps=1, delta=0.5).fit(model, DATA).record.provenance["delta"] == 0.5


def test_the_steering_of_rmu_is_the_norm_of_the_states_it_leads_away() -> None:
    model = tiny_model("llama")
    states = [
        model.hf(input_ids=torch.tensor([[*model.prefix, *model.token_ids(pair[0])]]), output_hidden_states=True).hidden_states[1][0, 1:]
        for pair in PAIRS
    ]
    norm = torch.cat(states).square().sum(dim=-1).mean().sqrt()
    edit = make("rmu", steps=1, steering=None).fit(model, DATA)
    assert edit.record.provenance["steering"] == pytest.approx(float(norm), rel=1e-3)
    assert edit.record.provenance["layer"] == 0


def test_the_layer_is_as_deep_as_the_papers_by_default() -> None:
    class Deep:
        def __init__(self, layers: int) -> None:
            text = type("Text", (), {"num_hidden_layers": layers})()
            self.hf = type("Network", (), {"config": type("Config", (), {"get_text_config": lambda _: text})()})()

    method: Any = method_registry().get("rmu")()
    assert [method.layer_of(Deep(layers)) for layers in (32, 12, 6, 1)] == [7, 3, 1, 0]


class Once:
    looks = 3

    def __init__(self) -> None:
        self.seen: list[int] = []

    def look(self, model: Model, step: int) -> str | None:
        del model
        self.seen.append(step)
        return None


def test_ascent_stops_once_the_texts_are_no_longer_known() -> None:
    model, monitor = tiny_model("llama"), Once()
    method = make("gradient-ascent", steps=20, learning_rate=5e-2, stop_accuracy=1.0)
    outcome = method.fit(model, DATA, monitor=monitor).record.provenance["training"]
    assert outcome["steps"] == monitor.seen[0] < 20
    assert "memorisation accuracy" in outcome["stopped"]


def test_overlap_is_the_share_of_ngrams_found() -> None:
    assert ngram_overlap([1, 2, 3, 9], [1, 2, 3, 4], 2) == pytest.approx(2 / 3)
    assert ngram_overlap([1, 1, 1], [2, 1, 1], 2) == 1
    assert ngram_overlap([1], [1], 2) == 0


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_memorisation_accuracy_is_the_share_of_tokens_guessed_right(kind: str) -> None:
    model = tiny_model(kind)
    stream = TextStream(model, [pair[0] for pair in PAIRS], masking_rate=1.0)
    right, count = 0, 0
    for row in range(len(stream)):
        example = stream.example(row, 0)
        with torch.no_grad():
            guesses = model.hf(input_ids=torch.tensor([example["ids"]])).logits[0].argmax(-1).tolist()
        shift = 1 if kind == "llama" else 0
        for place, label in enumerate(example["labels"]):
            if label != -100:
                right, count = right + (guesses[place - shift] == label), count + 1
    assert memorisation_accuracy(model, stream) == pytest.approx(right / count)


def test_what_a_model_says_by_itself_is_extracted_whole() -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[5, 20]])
    said = model.hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, min_new_tokens=8)[0].tolist()
    other = [token + 1 for token in said]
    one, none = extraction_likelihood(model, [said], 3), extraction_likelihood(model, [[5, 20, *other[2:]]], 3)
    # the first prefix holds one token and may go another way; from the second on all is said again
    assert one >= (len(said) - 3 - 1) / (len(said) - 3) > none
    assert extraction_likelihood(model, [[5, 20]], 3) == 0


def test_a_stop_asks_the_other_monitor_too() -> None:
    model = tiny_model("llama")
    stream = TextStream(model, ["a dog"])
    other, known = Once(), memorisation_accuracy(model, stream)
    stop = MemorisationStop(model, stream, accuracy=known, extraction=None, inner=other)
    assert stop.looks == 3
    assert stop.look(model, 7) is None  # not below
    assert other.seen == [7]
    alone = MemorisationStop(model, stream, accuracy=known + 0.01, extraction=0.5)
    assert alone.looks == 10
    reason = alone.look(model, 7)
    assert reason is not None
    assert "extraction likelihood 0.0000 < 0.5" in reason
