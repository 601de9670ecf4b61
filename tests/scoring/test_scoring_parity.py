"""Item by item against other people's scorers: lm-eval for causal models, minicons for masked ones."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_model

from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer

SENTENCES = [
    "The nurse said that she had a good day at work.",
    "The nurse said that he had a good day at work.",
    "Old people will walk home by the river, not in the street!",
    "Young people will walk home by the river, not in the street!",
    "rain",
    "Xylophones",
    "The doctor and the engineer were at the house of a friend who lives on the hill with a dog, a cat and a small blue bird.",
]
CONTEXT = "The teacher and the child were at home.\n\nQ: Who had a long day?\nA:"
ANSWERS = [" the teacher", " the child", " the teacher and the child", " not known", " no", " no answer"]


@pytest.fixture(scope="module")
def harness():  # the class; building one is cheap
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'fairforget[eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def score(model, texts, batch):
        peer = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, device="cpu", batch_size=batch, prefix_token_id=model.prefix_id)
        return [value for value, _ in peer.loglikelihood([Instance("loglikelihood", {}, text, 0) for text in texts], disable_tqdm=True)]

    return score


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch", [1, 4])
def test_sentences_after_the_prefix_token_equal_lm_eval(harness, kind: str, batch: int) -> None:
    model = tiny_model(kind)
    expected = harness(model, [("", sentence) for sentence in SENTENCES], batch)
    requests = [ContinuationRequest(model.prefix, tuple(model.token_ids(sentence))) for sentence in SENTENCES]
    found = [values.sum() for values in Scorer(model, store=False).score(requests)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 1  # the comparison could fail


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch", [1, 4])
def test_choices_with_a_shared_context_equal_lm_eval(harness, kind: str, batch: int) -> None:
    model = tiny_model(kind)
    texts = [(context, answer) for context in (CONTEXT, CONTEXT + " not", "the ") for answer in ANSWERS]
    expected = harness(model, texts, batch)
    joined = [model.join_ids(*text) for text in texts]
    requests = [ContinuationRequest(tuple(context), tuple(continuation)) for context, continuation in joined]
    scorer = Scorer(model, store=False)
    found = [values.sum() for values in scorer.score(requests)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 1
    assert scorer.counts.tokens < sum(len(context) + len(continuation) for context, continuation in joined) / 3


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pseudo_log_likelihoods_equal_minicons(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorers = pytest.importorskip("minicons.scorer", reason="minicons is not installed: pip install 'fairforget[dev]'")
    model = tiny_model(kind)
    # transformers 5 took this name away; minicons 0.3.39 still calls it.
    monkeypatch.setattr(type(model.tokenizer), "batch_encode_plus", type(model.tokenizer).__call__, raising=False)
    peer = scorers.MaskedLMScorer(model.hf, "cpu", tokenizer=model.tokenizer)
    expected = [[value for _, value in tokens] for tokens in peer.token_score(SENTENCES)]
    requests, owners = [], []
    for number, sentence in enumerate(SENTENCES):
        ids = tuple(model.sequence_ids(sentence))
        for position in range(1, len(ids) - 1):
            requests.append(MaskedRequest((*ids[:position], model.mask_id, *ids[position + 1 :]), (position,), (ids[position],)))
            owners.append(number)
    values = np.concatenate(Scorer(model, store=False).score(requests))
    for number, tokens in enumerate(expected):
        np.testing.assert_allclose(values[np.array(owners) == number], tokens, atol=1e-4)
    assert np.ptp(values) > 1
