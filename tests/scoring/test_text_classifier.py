"""A named classifier against its own forward, and the ones that must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from tiny_classifier import save_classifier
from transformers import BertModel

from fairforget.errors import UsageError
from fairforget.scoring.classifier import TextClassifier

TEXTS = ["a good day", "the old man and the small dog in the house", "a good day", "work"]


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_probabilities_are_those_of_the_model_and_are_kept(
    problem: str | None, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_classifier(tmp_path / "c", problem=problem), tiny_tokenizer("masked")
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        expected.append(float((logits.sigmoid() if problem else logits.softmax(-1))[1]))
    classifier = TextClassifier(str(tmp_path / "c"), "Toxic", "toxicity_classifier", torch.device("cpu"))
    np.testing.assert_allclose(classifier.probabilities(TEXTS), expected, atol=1e-6)
    assert len(set(expected)) == 3
    monkeypatch.setattr(classifier, "_model", None)  # what was computed comes from the store
    np.testing.assert_allclose(classifier.probabilities(TEXTS[::-1]), expected[::-1], atol=1e-6)


def test_a_label_may_be_a_number_where_labels_have_no_names(tmp_path: Path) -> None:
    save_classifier(tmp_path / "c", ("LABEL_0", "LABEL_1"))
    by_name, by_number = (TextClassifier(str(tmp_path / "c"), label, "x", torch.device("cpu")) for label in ("label_1", "1"))
    np.testing.assert_array_equal(by_name.probabilities(TEXTS, store=False), by_number.probabilities(TEXTS, store=False))
    assert by_name.probabilities(["work " * 200], store=False).shape == (1,)  # cut at the 64 positions of the model


def test_what_is_no_trained_classifier_is_refused(tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "c")
    device = torch.device("cpu")
    with pytest.raises(UsageError, match=r"has no label 'rude'.*fine, toxic"):
        TextClassifier(str(tmp_path / "c"), "rude", "toxicity_classifier", device)
    with pytest.raises(UsageError, match=r"regard_classifier = .* cannot be loaded"):
        TextClassifier(str(tmp_path / "none"), "toxic", "regard_classifier", device)
    BertModel(model.config).save_pretrained(tmp_path / "body")
    tiny_tokenizer("masked").save_pretrained(tmp_path / "body")
    with pytest.raises(UsageError, match="classifier was never trained"):
        TextClassifier(str(tmp_path / "body"), "toxic", "toxicity_classifier", device)
