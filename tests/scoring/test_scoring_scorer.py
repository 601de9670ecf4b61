"""The scorer against a slow, obvious reference, over batch sizes, orders, sharing, interruptions and stores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer
from fairforget.scoring import scorer as scorer_module
from fairforget.scoring.store import ScoreStore
from fairforget.scoring.trie import build_trie


def reference_continuation(model: Model, request: ContinuationRequest) -> np.ndarray:
    """One unpadded forward over the whole text, all logits, plain log-softmax."""
    whole = torch.tensor([request.context + request.continuation])
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model.hf(input_ids=whole).logits[0].double(), dim=-1)
    start = len(request.context)
    return np.array([
        float(log_probabilities[start + place - 1, token]) if start + place else np.nan for place, token in enumerate(request.continuation)
    ])


def reference_masked(model: Model, request: MaskedRequest) -> np.ndarray:
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model.hf(input_ids=torch.tensor([request.ids])).logits[0].double(), dim=-1)
    return np.array([float(log_probabilities[position, token]) for position, token in zip(request.positions, request.targets, strict=True)])


tokens = st.lists(st.integers(6, 9), min_size=1, max_size=9).map(tuple)


@st.composite
def continuation_requests(draw: st.DrawFn) -> list[ContinuationRequest]:
    contexts = draw(st.lists(st.one_of(st.just(()), tokens), min_size=1, max_size=4))
    return [ContinuationRequest(context, draw(tokens)) for context in contexts for _ in range(draw(st.integers(1, 4)))]


LLAMA, GPT2, BERT = tiny_model("llama"), tiny_model("gpt2"), tiny_model("bert")


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=continuation_requests(), budget=st.sampled_from([1, 7, 40, 500]), share=st.booleans())
def test_causal_scores_equal_the_reference(model: Model, requests: list[ContinuationRequest], budget: int, share: bool) -> None:
    results = Scorer(model, store=False, token_budget=budget, share_prefixes=share).score(requests)
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_allclose(result, reference_continuation(model, request), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), budget=st.sampled_from([1, 12, 300]))
def test_masked_scores_equal_the_reference(data: st.DataObject, budget: int) -> None:
    requests = []
    for ids in data.draw(st.lists(tokens, min_size=1, max_size=6)):
        places = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=3))
        requests.append(MaskedRequest(ids, tuple(places), tuple(data.draw(st.integers(6, 20)) for _ in places)))
    results = Scorer(BERT, store=False, token_budget=budget).score(requests)
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_allclose(result, reference_masked(BERT, request), atol=1e-5)


def test_order_of_requests_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    requests = [ContinuationRequest((5,), tuple(generator.integers(6, 12, size=generator.integers(1, 12)).tolist())) for _ in range(60)]
    forward = Scorer(LLAMA, store=False, token_budget=64).score(requests)
    backward = Scorer(LLAMA, store=False, token_budget=64).score(requests[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=100, deadline=None)
@given(requests=continuation_requests())
def test_the_trie_never_runs_more_tokens_than_the_distinct_inputs(requests: list[ContinuationRequest]) -> None:
    distinct = list(dict.fromkeys(requests))
    shared = sum(root.subtree_tokens() for root in build_trie(distinct))
    apart = sum(root.subtree_tokens() for root in build_trie(distinct, share=False))
    assert shared <= apart


def test_twelve_options_run_their_context_once() -> None:
    context = tuple(range(6, 36))
    requests = [ContinuationRequest(context, (50 + option, 40, 41)) for option in range(12)]
    scorer = Scorer(LLAMA, store=False)
    scorer.score(requests)
    # 30 tokens of context, and per option all but the last token.
    assert scorer.counts.tokens == 30 + 12 * 2


def test_options_that_differ_in_their_last_token_are_one_input() -> None:
    requests = [ContinuationRequest((5, 6, 7), (8, option)) for option in range(9, 14)]
    scorer = Scorer(LLAMA, store=False)
    results = scorer.score(requests)
    assert scorer.counts.tokens == 4
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_allclose(result, reference_continuation(LLAMA, request), atol=1e-5)


def test_the_store_answers_what_was_scored_before(own_cache: object) -> None:
    requests = [ContinuationRequest((5,), (6, 7, 8)), ContinuationRequest((5,), (6, 9))]
    first = Scorer(LLAMA).score(requests)
    again = Scorer(LLAMA)
    second = again.score(requests)
    assert again.counts.forwards == 0
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    other_state = Scorer(tiny_model("llama", seed=1))
    other_state.score(requests)
    assert other_state.counts.forwards > 0


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_what_is_known_is_not_computed_over_among_other_requests(kind: str, own_cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kind)
    one, other = (
        (ContinuationRequest((5,), (6, 7, 8)), ContinuationRequest((5,), (6, 9))) if kind == "llama"
        else (MaskedRequest((2, 4, 7, 3), (1,), (6,)), MaskedRequest((2, 4, 8, 3), (1,), (6,)))
    )
    (known,) = Scorer(model).score([one])
    put, written = ScoreStore.put, list[bytes]()

    def watched(store: ScoreStore, values: dict[bytes, np.ndarray]) -> None:
        written.extend(values)
        put(store, values)

    monkeypatch.setattr(ScoreStore, "put", watched)
    again, _ = Scorer(model).score([one, other])
    np.testing.assert_array_equal(again, known)
    assert written == [other.key()], "a score that was stored is not written again, where other company may have rounded it differently"


def test_an_interrupted_scoring_goes_on_and_ends_in_the_same_bits(own_cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    requests = [ContinuationRequest((5,), tuple(generator.integers(6, 60, size=generator.integers(2, 20)).tolist())) for _ in range(50)]
    whole = Scorer(LLAMA, store=False, token_budget=40).score(requests)
    hidden, calls = Model.hidden, 0

    def failing(self: Model, *arguments: object, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return hidden(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "hidden", failing)
    with pytest.raises(KeyboardInterrupt):
        Scorer(LLAMA, token_budget=40).score(requests)
    before = calls
    resumed = Scorer(LLAMA, token_budget=40)
    results = resumed.score(requests)
    assert before == 6
    full = Scorer(LLAMA, store=False, token_budget=40)
    full.score(requests)
    assert resumed.counts.forwards < full.counts.forwards
    for one, other in zip(results, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_running_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [(6, 7, number) for number in range(20, 60)] + [(number, 6, 7) for number in range(20, 60)]
    requests = [ContinuationRequest((5,), text) for text in texts]
    expected = Scorer(LLAMA, store=False).score(requests)
    hidden = Model.hidden

    def greedy(self: Model, ids: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        if ids.numel() > 30:
            raise torch.OutOfMemoryError("out of memory")
        return hidden(self, ids, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "hidden", greedy)
    scorer = Scorer(LLAMA, store=False)
    for one, other in zip(scorer.score(requests), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert scorer.budget < scorer_module.CPU_BUDGET


def test_wrong_family_and_too_long_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot answer"):
        Scorer(BERT, store=False).score([ContinuationRequest((5,), (6,))])
    with pytest.raises(UsageError, match="longer than"):
        Scorer(LLAMA, store=False).score([ContinuationRequest((5,), tuple([6] * 300))])


def test_a_long_context_is_cut_on_the_left() -> None:
    request = ContinuationRequest(tuple(np.random.default_rng(0).integers(6, 60, 300).tolist()), (7, 8))
    result = Scorer(LLAMA, store=False).score([request])[0]
    kept = ContinuationRequest(request.context[-255:], request.continuation)
    np.testing.assert_allclose(result, reference_continuation(LLAMA, kept), atol=1e-5)


def test_only_the_first_token_without_context_is_unscored() -> None:
    result = Scorer(LLAMA, store=False).score([ContinuationRequest((), (6, 7))])[0]
    assert np.isnan(result[0])
    assert np.isfinite(result[1])
