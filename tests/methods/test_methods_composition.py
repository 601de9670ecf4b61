"""Free composition: its loss is the weighted sum of its terms', each on data of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.errors import UsageError
from fairforget.methods._trained import Job
from fairforget.training.streams import Collator
from fairforget.training.trainer import batch_of

PAIRS = [TrainingText("the nurse said she is late", ("gender",), "a", "the nurse said he is late"),
         TrainingText("the doctor said he is old", ("gender",), "b", "the doctor said she is old")] * 4


def test_the_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    model = tiny_model("llama")
    method = methods.Composition(terms=[{"method": "gap", "weight": 0.5}, {"method": "gradient-ascent", "weight": 2.0}])
    job = Job(model, PAIRS, 0, tmp_path)
    streams = method.streams(job)
    batches = {name: Collator(model.pad_id).batch([stream.example(0, 0), stream.example(1, 0)]) for name, stream in streams.items()}
    terms = method.objectives(job, lambda: torch.no_grad())
    total = sum(float(term.sum(model, batch_of(term, batches)).detach()) * term.weight for term in terms)
    expected = 0.0
    for number, (name, weight) in enumerate([("Gap", 0.5), ("GradientAscent", 2.0)]):
        part = getattr(methods, name)()
        own = Job(model, PAIRS, number, tmp_path)
        alone = {key: Collator(model.pad_id).batch([row.example(0, 0), row.example(1, 0)]) for key, row in part.streams(own).items()}
        expected += weight * sum(
            float(term.sum(model, batch_of(term, alone)).detach()) * term.weight for term in part.objectives(own, lambda: torch.no_grad())
        )
    assert total == pytest.approx(expected, rel=1e-5)
    assert [entry["method"] for entry in job.notes["terms"]] == ["gap", "gradient-ascent"]


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
