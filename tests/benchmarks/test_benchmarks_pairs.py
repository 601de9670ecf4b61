"""CrowS-Pairs and the starter set: every protocol against the spec's hand-worked answers and a slow, obvious reference."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.benchmarks._base import Item
from fairforget.benchmarks._components import components
from fairforget.benchmarks._evaluate import evaluate
from fairforget.benchmarks._metrics import PCT_STEREOTYPE
from fairforget.benchmarks._sentences import masked_requests, sentence_requests
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, Scorer
from fairforget.scoring.alignment import changed_positions, shared_positions

LLAMA, GPT2, BERT = tiny_model("llama"), tiny_model("gpt2"), tiny_model("bert")
TEXTS = [
    ("The old man was at home.", "The young man was at home."),
    ("She said that the doctor was good, by the river.", "He said that the nurse was good, by the river."),
    ("a man works", "a woman in the city works"),
]


def make_items(texts: list[tuple[str, str]]) -> list[Item]:
    return [
        Item(str(number), "crows-pairs", "bias", "test", f"cluster {number}", "domain", ("domain",), pair)
        for number, pair in enumerate(texts)
    ]


def scores_of(model: Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model.hf(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def reference_causal(model: Model, text: str, split_first: bool) -> list[float]:
    """Log-probability of every token after the prefix, or of the first after it and the others without it."""
    ids = model.token_ids(text)
    after_prefix = scores_of(model, [model.prefix_id, *ids])
    scores = [float(after_prefix[place, token]) for place, token in enumerate(ids)]
    if split_first:
        alone = scores_of(model, ids)
        scores[1:] = [float(alone[place, ids[place + 1]]) for place in range(len(ids) - 1)]
    return scores


def reference_masked(model: Model, first: str, second: str, kind: str) -> list[list[float]]:
    """The loops of Nangia et al. (kind "equal") and of bias-bench (every other kind)."""
    sides = [model.sequence_ids(first), model.sequence_ids(second)]
    places: list[list[int]] = [[], []]
    for code, a1, a2, b1, b2 in difflib.SequenceMatcher(None, *[[str(token) for token in ids] for ids in sides]).get_opcodes():
        if (code == "equal") == (kind == "equal"):
            places[0] += range(a1, a2)
            places[1] += range(b1, b2)
    result: list[list[float]] = [[], []]
    for side in (0, 1):
        chosen = places[side][1:-1] if kind == "equal" else places[side]
        for place in chosen:
            masked = list(sides[side])
            masked[place] = model.mask_id
            result[side].append(float(scores_of(model, masked)[place, sides[side][place]]))
    return result


def measured(model: Model, name: str, texts: list[tuple[str, str]] = TEXTS) -> pl.DataFrame:
    benchmark = resolve(name)
    items = make_items(texts)
    requests = benchmark.requests(items, model)
    scores = [Scorer(model, store=False).score(group) if group else [] for group in requests]
    return benchmark.table(items, scores, model)


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(("name", "reduce", "split"), [
    ("crows-pairs", sum, False), ("crows-pairs:mean", np.mean, False), ("crows-pairs:bias-bench-causal", np.mean, True),
])
def test_causal_protocols_equal_the_reference(model, name, reduce, split):
    table = measured(model, name)
    for row, pair in zip(table.iter_rows(named=True), TEXTS, strict=True):
        parts = [reference_causal(model, text, split) for text in pair]
        expected = [float(reduce(part)) for part in parts]
        np.testing.assert_allclose(row["scores"], expected, atol=1e-4)
        assert row["margin"] == pytest.approx(expected[0] - expected[1], abs=1e-4)
        assert row["prefers_stereotype"] == (expected[0] > expected[1])
        assert row["tokens"] == sum(map(len, parts))
        assert row["nll"] == pytest.approx(-sum(map(sum, parts)), abs=1e-3)
    assert set(table["prefix"]) == {"id 5"}


@pytest.mark.parametrize(("name", "kind", "reduce"), [("crows-pairs", "equal", sum), ("crows-pairs:changed", "diff", np.mean)])
def test_masked_protocols_equal_the_reference(name, kind, reduce):
    table = measured(BERT, name)
    for row, pair in zip(table.iter_rows(named=True), TEXTS, strict=True):
        parts = reference_masked(BERT, *pair, kind)
        if not all(parts):
            assert row["skipped"] == "no token differs on one side"
            assert row["margin"] is None
            continue
        np.testing.assert_allclose(row["scores"], [float(reduce(part)) for part in parts], atol=1e-4)
        assert row["tokens"] == sum(map(len, parts))
    # Both sides of a shared-token comparison hold the same tokens; only what differs is compared by the other protocol.
    assert table["skipped"].is_null().all() or name.endswith("changed")


def test_masked_protocols_choose_opposite_tokens():
    # Spec test 22: [CLS] a b c [SEP] against [CLS] a d c [SEP].
    first, second = [2, 10, 11, 12, 3], [2, 10, 13, 12, 3]
    assert shared_positions(first, second) == ([1, 3], [1, 3])
    assert changed_positions(first, second) == ([2], [2])
    requests = masked_requests(BERT, first, [1, 3])
    assert [request.ids for request in requests] == [(2, 4, 11, 12, 3), (2, 10, 11, 4, 3)]
    assert [request.targets for request in requests] == [(10,), (12,)]


def test_a_difference_on_one_side_only_is_skipped_by_the_changed_protocol():
    table = measured(BERT, "crows-pairs:changed", [("the man works", "the old man works")])
    assert table["skipped"].to_list() == ["no token differs on one side"]
    assert table["prefers_stereotype"].to_list() == [None]


@given(st.lists(st.integers(5, 9), max_size=12), st.lists(st.integers(5, 9), max_size=12))
def test_shared_and_changed_tokens_make_up_both_sentences(first, second):
    first, second = [2, *first, 3], [2, *second, 3]
    shared, changed = shared_positions(first, second), changed_positions(first, second)
    for side, ids in enumerate((first, second)):
        assert sorted([0, *shared[side], *changed[side], len(ids) - 1]) == list(range(len(ids)))
    assert [first[place] for place in shared[0]] == [second[place] for place in shared[1]]


def score_pairs(name: str, pairs: list[tuple[float, float]]) -> pl.DataFrame:
    """The table of pairs whose sentences have these scores, through a benchmark's own row."""
    benchmark = resolve(name)
    items = make_items([("more", "less")] * len(pairs))
    return benchmark.table(items, [[np.array([more]), np.array([less])] for more, less in pairs], GPT2)


def test_share_of_stereotypes_counts_ties_in_the_denominator_only():
    # Spec test 20: the tie is no hit, and it stays in N.
    table = score_pairs("crows-pairs:lm-eval", [(-1, -2), (-3, -2), (-2, -2), (-1, -5)])
    assert table["margin"].abs().mean() == pytest.approx(1.5)
    assert table["prefers_stereotype"].to_list() == [1, 0, 0.5, 1]
    values = components(table, PCT_STEREOTYPE)
    assert values.numerators.sum() / values.denominators.sum() == pytest.approx(50)


def test_lm_eval_reports_the_size_of_the_difference_and_sub_scores_leave_ties_out():
    table = score_pairs("crows-pairs:lm-eval", [(-1, -2), (-3, -2), (-2, -2), (-1, -5)])
    metrics = evaluate(resolve("crows-pairs:lm-eval"), table, resamples=100).filter(pl.col("state") == "base")
    found = {(row["metric"], row["group"]): row["value"] for row in metrics.iter_rows(named=True)}
    assert found["likelihood_diff", "all"] == pytest.approx(1.5)
    assert found["pct_stereotype", "domain"] == pytest.approx(50)
    assert found["pct_stereotype_of_decided", "domain"] == pytest.approx(100 * 2 / 3)
    assert ("pct_stereotype_of_decided", "all") not in found
    assert "likelihood_diff" not in {definition.name for definition in resolve("crows-pairs").metrics()}


def test_sentences_as_in_lm_eval_are_those_of_its_own_model_class():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'fairforget[eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = tiny_model("gpt2")
    model.prefix_id = model.token_ids("rain")[0]  # ours is another token than the tokenizer's own, which lm-eval takes
    peer = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, device="cpu", batch_size=1)
    texts = [text for pair in TEXTS for text in pair]
    scored = peer.loglikelihood([Instance("loglikelihood", {}, ("", text), 0) for text in texts], disable_tqdm=True)
    expected = np.array([value for value, _ in scored]).reshape(-1, 2)
    for name, equal in (("crows-pairs:lm-eval", True), ("crows-pairs:sum", False)):
        table = resolve(name).measure_items(Scorer(model, store=False), make_items(TEXTS), "scoring")
        assert np.allclose(table["scores"].to_list(), expected, atol=1e-4) is equal
    assert set(table["prefix"]) == {model.prefix_policy}


def test_sum_and_mean_disagree_about_length():
    # Spec test 21: probabilities (.5, .5) against (.5, .5, .9).
    items = make_items([("a man", "a man works")])
    scores = [[np.log([0.5, 0.5]), np.log([0.5, 0.5, 0.9])]]
    total, mean = (resolve(name).table(items, scores, GPT2) for name in ("crows-pairs", "crows-pairs:mean"))
    assert np.exp(total["scores"][0].to_list()) == pytest.approx([0.25, 0.225])
    assert total["prefers_stereotype"].to_list() == [1.0]
    assert np.exp(mean["scores"][0].to_list()) == pytest.approx([0.5, 0.60822], abs=1e-5)
    assert mean["prefers_stereotype"].to_list() == [0.0]


def test_rounding_makes_the_published_ties():
    pairs = [(-10.0001, -10.0004), (-10.0, -10.0012)]
    assert score_pairs("crows-pairs:sum", pairs)["prefers_stereotype"].to_list() == [1, 1]
    rounded = resolve("crows-pairs:nangia").settings
    benchmark = type(resolve("crows-pairs"))(rounded.model_copy(update={"protocol": "sum"}))
    table = benchmark.table(make_items([("x", "y")] * 2), [[np.array([a]), np.array([b])] for a, b in pairs], GPT2)
    assert table["prefers_stereotype"].to_list() == [0.5, 1]
    assert set(table["protocol"]) == {"sum, rounded"}


def test_split_first_pass_has_no_prefix_after_the_first_token():
    assert sentence_requests(GPT2, [7, 8, 9], split_first=True) == (ContinuationRequest((5,), (7,)), ContinuationRequest((7,), (8, 9)))
    assert sentence_requests(GPT2, [7], split_first=True) == (ContinuationRequest((5,), (7,)),)


def test_without_a_prefix_the_first_token_is_not_scored():
    bare = tiny_model("llama")
    bare.prefix_id = None
    table = measured(bare, "crows-pairs", [("a man works", "a dog works"), ("man", "dog")])
    assert table["tokens"].to_list() == [4, None]
    assert table["skipped"].to_list() == [None, "no token can be scored without a prefix"]
    assert set(table["prefix"]) == {"none"}


def test_a_masked_protocol_is_refused_for_a_causal_model():
    with pytest.raises(UsageError, match=r"'changed' of crows-pairs is for masked models.*choose sum, mean"):
        measured(GPT2, "crows-pairs:changed")
    with pytest.raises(UsageError, match="choose shared-pll, changed"):
        measured(BERT, "crows-pairs:sum")


def test_a_text_longer_than_the_model_is_skipped():
    table = measured(GPT2, "crows-pairs", [("man " * 300, "dog " * 300)])
    assert table["skipped"].to_list() == ["longer than the model's 256 positions"]


def test_plans_follow_the_model():
    benchmark, items = resolve("crows-pairs"), make_items(TEXTS)
    causal, masked = benchmark.requests(items, GPT2), benchmark.requests(items, BERT)
    assert benchmark.requests(items, GPT2) == causal
    assert causal != masked


@pytest.mark.parametrize("model", [LLAMA, BERT], ids=["llama", "bert"])
def test_starter_audit_end_to_end(model):
    benchmark = resolve("starter")
    some = benchmark.items(model.family, "select")[::12]
    benchmark.items = lambda family, part: some
    table, again = (benchmark.measure(Scorer(model, store=False, token_budget=budget), "select") for budget in (1024, 200))
    np.testing.assert_allclose(table["margin"].to_numpy(), again["margin"].to_numpy(), atol=1e-3)
    assert table["skipped"].is_null().all()
    rows = evaluate(benchmark, table, table, resamples=200)
    difference = rows.filter((pl.col("state") == "difference") & (pl.col("metric") == "margin") & (pl.col("group") == "all"))
    assert difference["value"].item() == 0
    assert rows["note"].str.contains("starter set: for a first look").all()


def test_real_parts_are_halves_of_every_domain(data_folder: Path):
    benchmark = resolve("crows-pairs")
    select, test, everything = (benchmark.items("masked", part) for part in ("select", "test", "all"))
    assert len(everything) == 1508
    assert len(select) + len(test) == 1508
    assert {item.cluster for item in select}.isdisjoint({item.cluster for item in test})
    domains = {item.stratum for item in everything}
    assert len(domains) == 9
    for domain in domains:
        count = sum(item.stratum == domain for item in select)
        assert count == pytest.approx(sum(item.stratum == domain for item in everything) / 2, abs=4)
