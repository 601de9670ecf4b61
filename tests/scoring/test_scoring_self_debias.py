"""Scores under Self-Debias equal a slow reference: one forward a text and prefix, whole distributions, no cache and no batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget.edits import EditRecord, SelfDebiasEdit
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer
from fairforget.scoring.masked import position_logits
from fairforget.scoring.representations import sentence_vectors

PREFIXES = ((40, 41, 42, 43, 44), (50, 51))


def edit_of(model: Model, decay: float = 200.0, floor: float = 1e-3) -> SelfDebiasEdit:
    return SelfDebiasEdit(PREFIXES, EditRecord.for_model(model, "self-debias"), decay=decay, floor=floor)


@torch.no_grad()
def distribution(model: Model, edit: SelfDebiasEdit, ids: tuple[int, ...], place: int, lead: int) -> torch.Tensor:
    def predicted(tokens: tuple[int, ...], at: int) -> torch.Tensor:
        return torch.softmax(model.hf(input_ids=torch.tensor([tokens])).logits[0, at].double(), dim=-1)

    kept = int(ids[0] == lead)
    plain = predicted(ids, place)
    biased = torch.stack([predicted((*ids[:kept], *prefix, *ids[kept:]), place + len(prefix)) for prefix in edit.prefixes]).amax(dim=0)
    mixed = plain * torch.exp(-edit.strength * edit.decay * (biased - plain).clamp(min=0)).clamp(min=edit.floor)
    return (mixed / mixed.sum()).log()


def causal_reference(model: Model, edit: SelfDebiasEdit, request: ContinuationRequest) -> list[float]:
    whole, start = (*request.context, *request.continuation), len(request.context)
    return [
        float("nan") if place == 0 else float(distribution(model, edit, whole[:place], place - 1, 5)[whole[place]])
        for place in range(start, len(whole))
    ]


CAUSAL = [
    ContinuationRequest((5,), (10, 11, 12, 13)),
    ContinuationRequest((5,), (10, 11, 12, 14, 15, 16, 17)),
    ContinuationRequest((5,), (10, 11, 30)),
    ContinuationRequest((5,), (10, 11, 12, 14, 15, 18, 19, 20)),
    ContinuationRequest((5, 10, 11), (12, 13)),
    ContinuationRequest((5,), (60, 61, 62)),
    ContinuationRequest((5, 60), (61, 63)),
    ContinuationRequest((), (10, 11, 12)),
    ContinuationRequest((70, 71), (72,)),
    ContinuationRequest((5,), (77,)),
]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_causal_scores_equal_the_slow_reference(kind: str, share: bool) -> None:
    model = tiny_model(kind)
    edit = edit_of(model).at(0.5)
    base = Scorer(model, store=False, share_prefixes=share).score(CAUSAL)
    with edit.applied(model):
        # A small budget cuts the level into many batches, whose rows go back to different pasts.
        scorer = Scorer(model, store=False, share_prefixes=share, token_budget=12)
        found = scorer.score(CAUSAL)
    for scores, request in zip(found, CAUSAL, strict=True):
        assert np.allclose(scores, causal_reference(model, edit, request), atol=2e-5, equal_nan=True)
    assert max(float(np.nanmax(np.abs(one - two))) for one, two in zip(base, found, strict=True)) > 0.05
    after = Scorer(model, store=False, share_prefixes=share).score(CAUSAL)
    assert all(np.array_equal(one, two, equal_nan=True) for one, two in zip(base, after, strict=True))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_masked_scores_equal_the_slow_reference(kind: str) -> None:
    model = tiny_model(kind)
    edit = edit_of(model)
    requests = [
        MaskedRequest((2, 10, 4, 12, 3), (2,), (11,)),
        MaskedRequest((2, 10, 4, 12, 4, 14, 15, 3), (2, 4), (11, 13)),
        MaskedRequest((2, 10, 4, 12, 3), (1, 2), (10, 20)),
        MaskedRequest((2, 30, 31, 32, 33, 34, 4, 3), (6,), (35,)),
    ]
    with edit.applied(model):
        found = Scorer(model, store=False).score(requests)
        whole = torch.log_softmax(position_logits(model, requests[1].ids, (2, 4)), dim=-1)
    for scores, request in zip(found, requests, strict=True):
        wanted = [
            float(distribution(model, edit, request.ids, place, 2)[token])
            for place, token in zip(request.positions, request.targets, strict=True)
        ]
        assert np.allclose(scores, wanted, atol=2e-5)
    for row, place in zip(whole, (2, 4), strict=True):
        assert torch.allclose(row.double(), distribution(model, edit, requests[1].ids, place, 2), atol=2e-5)


def test_the_scores_of_each_state_are_kept_apart(own_cache) -> None:
    model = tiny_model("llama")
    edit = edit_of(model)

    def total(strength: float) -> float:
        with edit.at(strength).applied(model):
            return float(np.nansum(np.concatenate(Scorer(model).score(CAUSAL))))

    base = float(np.nansum(np.concatenate(Scorer(model).score(CAUSAL))))
    half, whole = total(0.5), total(1.0)
    assert len({base, half, whole}) == 3
    assert total(0) == base
    assert (total(0.5), total(1.0)) == (half, whole)
    with edit.applied(model):
        again = Scorer(model)
        again.score(CAUSAL)
    assert again.counts.forwards == 0


def test_it_costs_one_more_forward_for_each_prefix() -> None:
    model = tiny_model("llama")
    plain = Scorer(model, store=False)
    plain.score(CAUSAL)
    with edit_of(model).applied(model):
        debiased = Scorer(model, store=False)
        debiased.score(CAUSAL)
    assert debiased.counts.forwards == 3 * plain.counts.forwards


def test_texts_leave_room_for_the_prefix() -> None:
    model = tiny_model("llama")
    long = ContinuationRequest((5, *[10] * 300), (11, 12))
    edit = edit_of(model)
    with edit.applied(model):
        (found,) = Scorer(model, store=False).score([long])
        room = model.max_length - len(PREFIXES[0])
        cut = ContinuationRequest(long.context[-(room - 1) :], long.continuation)
        assert np.allclose(found, causal_reference(model, edit, cut), atol=2e-5)
        with pytest.raises(UsageError, match="that its Self-Debias prefix leaves of 256"):
            Scorer(model, store=False).score([ContinuationRequest((5,), tuple([10] * 253))])
        with pytest.raises(UsageError, match="leaves hidden states as they are"):
            sentence_vectors(model, ["the nurse"])


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_sentence_vectors_are_means_over_tokens(kind: str) -> None:
    model = tiny_model(kind)
    texts = ["the nurse works", "a dog", "the old man has a very long day at the river"]
    for layer, number in (("final", 2), (0, 1)):
        found = sentence_vectors(model, texts, layer=layer, max_length=8)
        for text, vector in zip(texts, found, strict=True):
            ids = model.sequence_ids(text)
            if model.family == "causal":
                ids, skipped = [5, *ids][:8], 1
            else:
                ids, skipped = ids if len(ids) <= 8 else [*ids[:7], ids[-1]], 0
            with torch.no_grad():
                output = model.hf.base_model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            states = output.last_hidden_state if layer == "final" else output.hidden_states[number]
            assert np.allclose(vector, states[0, skipped:].mean(dim=0).numpy(), atol=1e-5)
    with pytest.raises(UsageError, match="without a single token"):
        sentence_vectors(tiny_model("llama"), [""])
