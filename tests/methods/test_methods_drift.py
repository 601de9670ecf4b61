"""The drift limit: its formula, and that a vector tuned under it costs less on neutral text."""

from __future__ import annotations

import contextlib
import weakref

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText, training_source
from fairforget.edits import copy_parameters
from fairforget.methods._tuning import base_values, neutral_texts
from fairforget.methods.task_vector import retained_texts
from fairforget.objectives import KLToBase, drift, kl_divergence
from fairforget.scoring import ContinuationRequest, Scorer
from fairforget.training import TextStream
from fairforget.training.streams import Collator


def test_the_divergence_is_the_forward_one() -> None:
    reference, current = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(kl_divergence(reference, current)) == pytest.approx(0.14384, abs=1e-5)


def test_padding_adds_nothing() -> None:
    model, other = tiny_model("llama"), tiny_model("llama", seed=1)

    @contextlib.contextmanager
    def reference():
        own, model.hf = model.hf, other.hf
        try:
            yield
        finally:
            model.hf = own

    stream = TextStream(model, ["the nurse said that she would be late", "a dog"])
    term = KLToBase(reference)
    whole = Collator(model.pad_id)([{"x": stream.example(row, 0)} for row in range(2)])["x"]
    single = [Collator(model.pad_id)([{"x": stream.example(row, 0)}])["x"] for row in range(2)]
    assert float(term.sum(model, whole)) == pytest.approx(sum(float(term.sum(model, batch)) for batch in single), rel=1e-5)
    assert term.count(whole) == sum(term.count(batch) for batch in single)
    assert float(term.sum(model, whole)) > 0


def test_autocast_does_not_take_the_tuned_weights_for_the_base() -> None:
    model = tiny_model("llama")
    before, generator = copy_parameters(model.hf), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            parameter.requires_grad_()
    term = KLToBase(lambda: base_values(model.hf, before))
    batch = Collator(model.pad_id)([{"x": TextStream(model, ["the nurse said that she would be late"]).example(0, 0)}])["x"]
    exact = float(term.sum(model, batch))
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        model.hidden(batch["ids"], batch["mask"])  # fills the cache of autocast, as the other terms of a step do
        rounded = float(term.sum(model, batch))
    assert exact > 0.1
    assert rounded == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_limited_vector_moves_neutral_text_less(tuning: str) -> None:
    texts = ["the nurse said that she would be late", "the doctor said that he would be late"] * 8

    def drift(limit: float) -> float:
        model = tiny_model("llama")
        method = methods.TaskVector(
            tuning=tuning, steps=25, batch_size=8, targets="all-linear", precision="float32", drift_limit=limit,
            learning_rate=2e-2 if tuning == "lora" else 3e-3,
        )
        edit = method.fit(model, texts)
        requests = [ContinuationRequest(model.prefix, tuple(model.token_ids(text)[:200])) for text in neutral_texts(0)[:6]]
        before = np.concatenate(Scorer(model, store=False).score(requests))
        with edit.applied(model):
            after = np.concatenate(Scorer(model, store=False).score(requests))
        return float(np.mean(np.abs(after - before)))

    assert drift(10.0) < 0.7 * drift(0.0)


def test_counterparts_are_the_sources_own_else_gender_swaps_else_neutral_text() -> None:
    own = TrainingText("the old man is slow", ("old",), "a", "the young man is slow")
    swapped = TrainingText("she is a nurse", (), "b")
    neither = TrainingText("the river is long", (), "c")
    neutral = set(neutral_texts(0))
    retained = retained_texts([own, swapped, own, neither], 0, counterparts=True)
    assert retained[:2] == ["the young man is slow", "he is a nurse"]
    assert retained[2] in neutral  # every third row
    assert retained[3] in neutral  # nothing to swap
    assert set(retained_texts([own], 0, counterparts=False)) == neutral


def test_every_starter_text_has_its_counterpart() -> None:
    texts = training_source("starter").texts
    assert all(text.counterpart and text.counterpart != text.text for text in texts)


def test_no_more_than_one_batch_of_the_bases_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    sizes: list[tuple[int, ...]] = []
    original = drift.at_base

    def counted(*arguments):
        alive.append(sum(reference() is not None for reference in made))
        found = original(*arguments)
        made.append(weakref.ref(found))
        sizes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(drift, "at_base", counted)
    model = tiny_model("bert")
    texts = [TrainingText("the nurse said she is late", (), str(row), "the nurse said he is late") for row in range(12)]
    methods.Cda(retain="kl", steps=6, batch_size=4, accumulation=2, precision="float32").fit(model, texts)
    assert len(made) == 13  # a micro-batch each, and the look at what the term reaches
    assert max(alive) == 0  # those of the batch before are gone when the next ones are made
    assert not any(reference() is not None for reference in made)
    vocabulary = model.hf.get_input_embeddings().weight.shape[0]
    assert all(width == vocabulary for _, width in sizes)
