"""Free composition: its loss is the weighted sum of its terms', each on data of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.errors import UsageError
from fairforget.methods._retain import retain_stream, retain_terms
from fairforget.methods._trained import Job
from fairforget.models import Model
from fairforget.training.streams import Collator
from fairforget.training.trainer import batch_of

PAIRS = [TrainingText("the nurse said she is late", ("gender",), "a", "the nurse said he is late"),
         TrainingText("the doctor said he is old", ("gender",), "b", "the doctor said she is old")] * 4


def test_the_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    model = tiny_model("llama")
    method = methods.Composition(terms=[
        {"method": "gap", "weight": 0.5}, {"method": "gradient-ascent", "weight": 2.0}, {"method": "gradient-difference", "weight": 0.25},
    ])
    job = Job(model, PAIRS, 0, tmp_path)
    streams = method.streams(job)
    batches = {name: Collator(model.pad_id).batch([stream.example(0, 0), stream.example(1, 0)]) for name, stream in streams.items()}
    terms = method.objectives(job, lambda: torch.no_grad())
    total = sum(float(term.sum(model, batch_of(term, batches)).detach()) * term.weight for term in terms)
    expected = 0.0
    for number, (name, weight) in enumerate([("Gap", 0.5), ("GradientAscent", 2.0), ("GradientDifference", 0.25)]):
        part = getattr(methods, name)()
        own = Job(model, PAIRS, number, tmp_path)
        own_streams = dict(part.streams(own))
        if part.settings.retain != "none":
            own_streams["retain"] = retain_stream(part.settings, model, PAIRS, number)[0]
        alone = {key: Collator(model.pad_id).batch([row.example(0, 0), row.example(1, 0)]) for key, row in own_streams.items()}
        parts = [*part.objectives(own, lambda: torch.no_grad()), *retain_terms(part.settings, None, lambda: torch.no_grad())]
        expected += weight * sum(float(term.sum(model, batch_of(term, alone)).detach()) * term.weight for term in parts)
    assert total == pytest.approx(expected, rel=1e-5)
    assert {term.stream for term in terms} == set(streams) == {"0/forget", "0/retain", "1/forget", "2/forget", "2/retain"}
    assert [entry["method"] for entry in job.notes["terms"]] == ["gap", "gradient-ascent", "gradient-difference"]


class Once:
    """A monitor that looks three times and stops nothing."""

    looks = 3

    def look(self, model: Model, step: int) -> str | None:
        del model, step
        return None


def test_a_term_may_retain_otherwise_than_its_method() -> None:
    method = methods.Composition(terms=[{"method": "gap", "retain": "none"}, {"method": "rmu"}], retain_text="own")
    assert method.parts[0].common.retain == "none"
    assert [part.common.retain_text for part in method.parts] == ["own", "own"]


def test_what_a_term_does_beside_its_loss_is_done(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    common = {"steps": 6, "batch_size": 4, "tuning": "full", "precision": "float32"}
    raised, plain = (
        methods.Composition(terms=[{"method": "dropout", "hidden": rate, "attention": rate}], **common).fit(model, PAIRS)
        for rate in (0.3, 0.0)
    )
    alone = methods.Dropout(hidden=0.3, attention=0.3, **common).fit(model, PAIRS)
    assert raised.record.provenance["dropout"] == alone.record.provenance["dropout"]
    assert raised.content_hash != plain.content_hash  # nothing else tells the two apart
    ascent = methods.Composition(terms=[{"method": "gradient-ascent", "stop_accuracy": 1.0}], steps=20, learning_rate=5e-2)
    stopped = ascent.fit(model, PAIRS, folder=tmp_path, monitor=Once())
    assert "memorisation accuracy" in stopped.record.provenance["training"]["stopped"]  # type: ignore[index, operator]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_it_trains_and_leaves_the_model(kind: str) -> None:
    model = tiny_model(kind)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    method = methods.Composition(
        terms=[{"method": "gap"}, {"method": "gradient-ascent", "train": "starter"}], steps=2, batch_size=4, retain="kl", l2_sp=0.1,
        precision="float32",
    )
    edit = method.fit(model, PAIRS)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.hf.named_parameters())
    assert method.fit(model, PAIRS).content_hash == edit.content_hash


@pytest.mark.parametrize(("term", "message"), [
    ({"method": "inlp"}, "not a loss"),
    ({"method": "composition"}, "not a loss"),
    ({"method": "gapp"}, "gap"),
    ({"method": "gap", "steps": 3}, r"set method\.steps"),
    ({"method": "gap", "scop": "answer"}, "scope"),
    ({"method": "gap", "scope": "word"}, "scope"),
])
def test_terms_that_are_none_are_refused(term: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        methods.Composition(terms=[term])
    with pytest.raises(UsageError, match="terms"):
        methods.Composition(terms=[])
