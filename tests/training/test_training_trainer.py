"""The composed loss: accumulation reduces exactly, monitors stop a run, divergence is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from fairforget.errors import FairforgetError, UsageError
from fairforget.models import Model
from fairforget.objectives import CrossEntropy, token_log_probabilities
from fairforget.training import IGNORED, StreamDataset, TextStream, train
from fairforget.training.streams import Collator

TEXTS = ["the nurse said that she would be late", "he is old", "the river is long and the hill is green", "a dog", "rain on the street",
         "red book",
         "she works at home every day", "a good friend has time"] * 2


def trained(folder: Path, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    model = tiny_model("llama")
    dataset = StreamDataset({"forget": TextStream(model, TEXTS)})
    train(
        model, [CrossEntropy(stream="forget")], dataset, steps=1, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-2,
        folder=folder, precision="float32",
    )
    return {name: parameter.detach() for name, parameter in model.hf.named_parameters()}


def test_one_batch_of_sixteen_is_four_of_four(tmp_path: Path) -> None:
    whole, parts = trained(tmp_path / "a", 16, 1), trained(tmp_path / "b", 4, 4)
    for name in whole:
        # AdamW's first step is the sign of the gradient, so that even a small error of scale in one micro-batch would show.
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=1e-5)


def test_cross_entropy_is_transformers_own_loss() -> None:
    for kind in ("llama", "gpt2"):
        model = tiny_model(kind)
        batch = Collator(model.pad_id)([{"x": TextStream(model, TEXTS).example(index, 0)} for index in range(4)])["x"]
        labels = batch["labels"].clone()
        expected = model.hf(input_ids=batch["ids"], attention_mask=batch["mask"], labels=labels).loss
        term = CrossEntropy()
        torch.testing.assert_close(term.sum(model, batch) / term.count(batch), expected, atol=1e-5, rtol=1e-5)


def test_masked_labels_are_predicted_where_they_stand() -> None:
    model = tiny_model("bert")
    batch = Collator(model.pad_id)([{"x": TextStream(model, TEXTS, masking_rate=0.5).example(0, 0)}])["x"]
    log_probabilities = torch.log_softmax(model.hf(input_ids=batch["ids"], attention_mask=batch["mask"]).logits, dim=-1)
    chosen = batch["labels"] != IGNORED
    expected = log_probabilities[chosen].gather(1, batch["labels"][chosen].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(token_log_probabilities(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_masks_differ_by_visit_and_repeat_by_seed() -> None:
    model = tiny_model("bert")
    stream = TextStream(model, TEXTS, masking_rate=0.3, seed=3)
    assert stream.example(2, 0) == TextStream(model, TEXTS, masking_rate=0.3, seed=3).example(2, 0)
    assert any(stream.example(row, 0) != stream.example(row, 1) for row in range(len(stream)))


class StopAtOnce:
    looks = 9

    def look(self, model: Model, step: int) -> str | None:
        return f"seen at {step}" if step >= 4 else None


def test_a_finished_training_is_taken_and_not_gone_on_with(tmp_path: Path) -> None:
    def run(model) -> dict:
        return train(
            model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}, visits=9), steps=5, batch_size=4,
            learning_rate=1e-2, folder=tmp_path, precision="float32",
        )

    first, second = tiny_model("llama"), tiny_model("llama")
    outcome, again = run(first), run(second)
    assert (outcome["steps"], again["steps"]) == (5, 5)
    weights = second.hf.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.hf.state_dict().items())


def test_a_monitor_ends_the_run(tmp_path: Path) -> None:
    model = tiny_model("llama")
    outcome = train(
        model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}, visits=9), steps=20, batch_size=4,
        learning_rate=1e-3, folder=tmp_path, precision="float32", monitor=StopAtOnce(),
    )
    assert outcome["stopped"] == "seen at 4"
    assert outcome["steps"] == 4


def test_divergence_is_a_sentence(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.hf.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FairforgetError, match="Training diverged"):
        train(
            model, [CrossEntropy(stream="forget")], StreamDataset({"forget": TextStream(model, TEXTS)}), steps=4, batch_size=4,
            learning_rate=1e-3, folder=tmp_path, precision="float32",
        )


def test_frozen_models_and_empty_texts_are_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="no text"):
        TextStream(model, ["", "  "])
    model.hf.requires_grad_(False)
    with pytest.raises(UsageError, match="Nothing can be trained"):
        dataset = StreamDataset({"forget": TextStream(model, TEXTS)})
        train(model, [CrossEntropy()], dataset, steps=1, batch_size=2, learning_rate=1e-3, folder=tmp_path)
