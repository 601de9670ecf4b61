"""The Self-Debias method: an edit without training, in the right direction, refused where there is nothing to compare with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.errors import UsageError
from fairforget.methods.self_debias import prefix_text
from fairforget.models.hashing import content_hash
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer
from fairforget.workflows.generate import generate


def test_prefixes_are_worded_as_in_the_survey() -> None:
    assert prefix_text("gender", " ") == "The following text discriminates against people because of their gender: "
    assert "race/color:" in prefix_text("race-color", "")
    model = tiny_model("llama")
    for separator, ending in (("auto", "\n"), ("space", " "), ("none", "")):
        edit = methods.SelfDebias(domains=["age"], separator=separator).fit(model, [])
        assert edit.record.provenance["prefixes"][0]["text"] == prefix_text("age", ending)
    assert methods.SelfDebias(domains=["age"]).fit(tiny_model("bert"), []).record.provenance["prefixes"][0]["text"].endswith("age:")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "roberta"])
def test_what_the_biased_model_prefers_becomes_less_likely_and_nothing_else_changes(kind: str) -> None:
    model = tiny_model(kind)
    digest = content_hash(model.hf)
    edit = methods.SelfDebias(domains=["gender", "religion"], decay=100.0).fit(model, ["unused"], seed=4)
    assert content_hash(model.hf) == digest
    assert len(edit.prefixes) == 2
    again = methods.SelfDebias(domains=["gender", "religion"], decay=100.0).fit(tiny_model(kind), [], seed=9)
    assert again.content_hash == edit.content_hash
    ids = (5, 20, 21) if model.family == "causal" else (2, 20, 4, 22, 3)
    place = len(ids) - 1 if model.family == "causal" else 2

    @torch.no_grad()
    def predicted(prefix: tuple[int, ...]) -> torch.Tensor:
        tokens = (ids[0], *prefix, *ids[1:])
        return torch.softmax(model.hf(input_ids=torch.tensor([tokens])).logits[0, place + len(prefix)], dim=-1)

    favoured = int((torch.stack([predicted(prefix) for prefix in edit.prefixes]).amax(dim=0) - predicted(())).argmax())
    request = ContinuationRequest(ids, (favoured,)) if model.family == "causal" else MaskedRequest(ids, (place,), (favoured,))

    def score() -> float:
        return float(Scorer(model, store=False).score([request])[0][0])

    base, by_strength = score(), []
    for strength in (-0.5, 0.0, 0.5, 1.0):
        with edit.at(strength).applied(model):
            by_strength.append(score())
    assert by_strength[1] == base
    assert by_strength[0] > base > max(by_strength[2:])
    assert np.isclose(base, score())


@pytest.mark.parametrize(("kind", "prompt"), [("llama", "the nurse said"), ("bert", "the [MASK] is old")])
def test_generated_text_and_fills_are_debiased(kind: str, prompt: str) -> None:
    model = tiny_model(kind, seed=2)
    edit = methods.SelfDebias(domains=["gender"], decay=1000.0, epsilon=1e-6).fit(model, [])
    (one,) = generate(model, [prompt], edit, max_new_tokens=8)
    (same,) = generate(model, [prompt], edit.at(0), max_new_tokens=8)
    assert one.base != one.edited
    assert same.base == same.edited == one.base
    with pytest.raises(UsageError, match="positions"):
        generate(model, [prompt.replace("is", "is " * 300) + " the nurse" * 300], edit, max_new_tokens=8)


def test_nothing_to_compare_with_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="at least one of domains= or prefixes="):
        methods.SelfDebias(domains=[]).fit(model, [])
    with pytest.raises(UsageError, match="no empty prefix"):
        methods.SelfDebias(prefixes=[" "]).fit(model, [])
    with pytest.raises(UsageError, match="leaves no room"):
        methods.SelfDebias(prefixes=["the nurse " * 200]).fit(model, [])
    assert len(methods.SelfDebias(domains=[], prefixes=["a bad text:"]).fit(model, []).prefixes) == 1
