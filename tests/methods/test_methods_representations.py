"""Methods on the states of words and sentences: each fits both families, moves what it is to move, and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingSource, TrainingText, training_source
from fairforget.edits import Edit
from fairforget.errors import UsageError
from fairforget.methods._trained import Job
from fairforget.models import Model
from fairforget.training.streams import Collator
from fairforget.training.trainer import batch_of

TEXTS = ["The man said that he has time for the dog.", "The woman said that she has time for the dog.",
         "His son works at home by the river.", "Her daughter works at home by the river.",
         "In the old city a man has a red book.", "In the old city a woman has a red book."] * 2
NEUTRAL = ["In the city a nurse works by day.", "By the river an engineer has a house.", "At home the teacher has a good friend.",
           "For the people the doctor works at home."]
PAIRS = [
    TrainingText("A man has a dog.", (), "1", partner="The man has a dog."),
    TrainingText("A woman works.", (), "2", partner="She works."),
    TrainingText("The boy is at home.", (), "3", partner="A boy is at home."),
    TrainingText("Rain on the street.", (), "4", partner="Rain."),
]


def made(name: str, tmp_path: Path, **settings: Any) -> tuple[Any, Sequence[Any]]:
    """A method ready for a quick fit, and its data."""
    neutral = tmp_path / "neutral.txt"
    neutral.write_text("\n".join(NEUTRAL), encoding="utf-8")
    own: dict[str, Any] = {"steps": 8, "batch_size": 4, "learning_rate": 5e-3, "precision": "float32"}
    if name == "AutoDebias":
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("works as a\nis good at\n", encoding="utf-8")
        own["prompts"] = str(prompts)
    elif name != "Mabel":
        own["neutral_text"] = str(neutral)
    return getattr(methods, name)(**(own | settings)), PAIRS if name == "Mabel" else TEXTS


def loss(method: Any, model: Model, data: Sequence[Any], folder: Path, edit: Edit) -> float:
    """The first term of the method on fixed rows, at the base's prototypes."""
    job = Job(model, data, 0, folder)
    streams = method.streams(job)
    term = method.objectives(job, torch.no_grad)[0]
    torch.manual_seed(0)
    term.prepare(model)
    term.begin_pass(model, 0)
    collator = Collator(model.pad_id)
    batches = {name: collator.batch([stream.example(row, 0) for row in range(4)]) for name, stream in streams.items()}
    with torch.no_grad(), edit.applied(model):
        return float(term.sum(model, batch_of(term, batches)))


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("name", ["ContextDebias", "Adept", "Ase", "AutoDebias", "Mabel"])
def test_it_fits_and_leaves_the_model(name: str, kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    before = {key: parameter.clone() for key, parameter in model.hf.named_parameters()}
    method, data = made(name, tmp_path)
    edit = method.fit(model, data)
    assert all(torch.equal(before[key], parameter) for key, parameter in model.hf.named_parameters())
    assert not any("lora" in key or "terms" in key for key, _ in model.hf.named_parameters())
    if name != "Mabel":  # its projection is drawn anew and thrown away, so its loss has no value of its own
        assert loss(method, model, data, tmp_path, edit.at(1.0)) < loss(method, model, data, tmp_path, edit.at(0.0))
    assert method.fit(model, data).content_hash == edit.content_hash
    assert edit.record.provenance["training"]["steps"] == 8


def test_groups_are_known_equally_well_and_stereotypes_stand_alone(tmp_path: Path) -> None:
    method, _ = made("ContextDebias", tmp_path)
    model = tiny_model("bert")
    job = Job(model, [*TEXTS, "The man and the woman have time.", "He is a nurse by day.", "Her old father works."], 0, tmp_path)
    streams = method.streams(job)
    assert job.notes["sentences"] == {"of each group": 3, "neutral": 4}
    assert [len(group) for group in method.groups] == [3, 3]
    assert len(streams["attribute"]) == 6
    assert model.mask_id not in streams["neutral"].example(0, 0)["ids"]  # the words themselves are looked at


def test_a_causal_word_has_context_before_it(tmp_path: Path) -> None:
    method, data = made("ContextDebias", tmp_path)
    model = tiny_model("llama")
    stream = method.streams(Job(model, data, 0, tmp_path))["neutral"]
    for row in range(len(stream)):
        labelled = [place for place, label in enumerate(stream.example(row, 0)["labels"]) if label >= 0]
        assert min(labelled) >= 3 + len(model.prefix)


def test_ase_looks_at_causal_words_wherever_they_stand(tmp_path: Path) -> None:
    """That a causal word needs some context before it is asked of Context-Debias alone (collapse 3.3 and 3.6)."""
    model, texts = tiny_model("llama"), ["Nurse at work."]
    method, _ = made("Ase", tmp_path)
    (tmp_path / "neutral.txt").write_text("Nurse at work.", encoding="utf-8")
    stream = method.streams(Job(model, ["The man said that he has time.", *texts], 0, tmp_path))["neutral"]
    assert len(stream) == 1 and stream.example(0, 0)["labels"][len(model.prefix)] >= 0


def test_ase_does_not_learn_from_what_it_is_measured_on(tmp_path: Path) -> None:
    method, _ = made("Ase", tmp_path)
    held_out = TrainingSource("winogender", (TrainingText("The nurse said that he was late.", (), "nurse"),), {})
    with pytest.raises(UsageError, match="must not learn from them"):
        method.fit(tiny_model("bert"), held_out)


def test_pronouns_of_snippets_and_flips_are_predicted(tmp_path: Path) -> None:
    method, _ = made("Ase", tmp_path)
    model = tiny_model("bert")
    job = Job(model, ["The man said that he has time."], 0, tmp_path)
    stream = method.streams(job)["pronoun"]
    found = [[label for label in stream.example(row, 0)["labels"] if label >= 0] for row in range(2)]
    assert found == [model.token_ids("he"), model.token_ids("she")]
    assert job.notes["snippets"] == {"with flips": 2, "with a pronoun": 2}


def test_rows_that_are_compared_are_not_split(tmp_path: Path) -> None:
    for name, settings in (("Adept", {}), ("Mabel", {}), ("ContextDebias", {"square_of_mean": True})):
        method, data = made(name, tmp_path, accumulation=2, **settings)
        with pytest.raises(UsageError, match="cannot be split"):
            method.fit(tiny_model("bert"), data)


@pytest.mark.parametrize(("name", "data", "message"), [
    ("ContextDebias", ["Rain on the street."], "about the group"),
    ("Adept", ["Rain on the street."], "about the group"),
    ("Mabel", TEXTS, "train.source=stsb"),
])
def test_data_without_the_words_is_refused(name: str, data: list[str], message: str, tmp_path: Path) -> None:
    method, _ = made(name, tmp_path)
    with pytest.raises(UsageError, match=message):
        method.fit(tiny_model("bert"), data)


def test_prompts_are_searched_once(tmp_path: Path, data_folder: Path) -> None:
    del data_folder
    model = tiny_model("bert")
    method = methods.AutoDebias(vocabulary=6, beam=2, longest=2, search_pairs=2, steps=1)
    words = tmp_path / "words.txt"
    words.write_text("nurse\ndoctor\nengineer\nteacher\n", encoding="utf-8")
    method = methods.AutoDebias(vocabulary=6, beam=2, longest=2, search_pairs=2, steps=1, stereotypes=str(words))
    job = Job(model, TEXTS, 0, tmp_path / "work")
    stream = method.streams(job)["forget"]
    kept = (tmp_path / "work" / "prompts.json").read_text()
    assert job.notes["prompts"]["number"] == 4
    assert len(stream) == 4 * job.notes["prompts"]["pairs"]
    (tmp_path / "work" / "prompts.json").write_text('["works as"]')
    assert job.notes["prompts"]["pairs"] == len(method.streams(job)["forget"])
    assert kept != '["works as"]'


def test_pairs_of_sts_b(data_folder: Path) -> None:
    del data_folder
    source = training_source("stsb")
    assert len(source.texts) == 1406
    assert all(text.partner for text in source.texts)
