"""StereoSet: the authors' published figures through our metrics, and our requests against slow, obvious ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_model, tiny_network
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from fairforget.benchmarks import resolve
from fairforget.benchmarks._base import Item
from fairforget.benchmarks._evaluate import evaluate
from fairforget.benchmarks._targets import target_value
from fairforget.benchmarks.stereoset import candidate_word, compare
from fairforget.data.stereoset import PREDICTION_FILES, load_official_results, load_predictions, load_stereoset
from fairforget.models import Model
from fairforget.scoring import Scorer
from fairforget.tables import item_table

LLAMA, BERT = tiny_model("llama"), tiny_model("bert")
FIGURES = {"LM Score": "lms", "SS Score": "ss", "ICAT Score": "icat"}
INTRA = Item("i", "stereoset-intrasentence", "bias", "test", "term", "gender", ("gender",),
             ("The nurse was helpful.", "The nurse was rude.", "The nurse was purple."), {"context": "The nurse was BLANK."})
INTER = Item("j", "stereoset-intersentence", "bias", "test", "term", "gender", ("gender",),
             ("She is good.", "He is bad.", "The sun is red."), {"context": "My friend is a nurse."})


def metric_rows(rows: list[dict], **options) -> pl.DataFrame:
    return evaluate(resolve("stereoset"), item_table([{"benchmark": "stereoset", **row} for row in rows]), resamples=100, **options)


def value(rows: pl.DataFrame, metric: str, task: str, group: str = "all") -> float:
    return rows.filter((pl.col("metric") == metric) & (pl.col("task") == task) & (pl.col("group") == group))["value"].item()


@pytest.mark.parametrize("model", sorted(PREDICTION_FILES))
def test_official_predictions_give_the_published_figures(model: str, data_folder: Path):
    predictions, official = load_predictions(model), load_official_results()[PREDICTION_FILES[model]]
    examples = load_stereoset()
    rows = []
    for example in examples:
        texts = (example.stereotype, example.anti_stereotype, example.unrelated)
        row = {"task": f"stereoset-{example.task}", "item": example.id, "cluster": example.target, "stratum": example.stratum}
        rows.append(row | {"groups": [example.bias_type]} | compare([predictions[example.task][text.id] for text in texts], tie=0.0))
    found = metric_rows(rows)
    checked = 0
    for task, domains in official.items():
        for domain, figures in domains.items():
            for printed, metric in FIGURES.items():
                our_task, group = {"overall": "stereoset"}.get(task, f"stereoset-{task}"), {"overall": "all"}.get(domain, domain)
                ours = value(found, metric, our_task, group)
                assert ours == pytest.approx(figures[printed], abs=1e-10), (task, domain, printed)
                checked += 1
    assert checked == 33
    assert found.filter(pl.col("metric") == "ss")["n"].max() == 4229


def test_macro_average_over_terms():
    # Spec test 23: term X 1 item (stereo > anti, both related win), term Y 3 items (no stereo, 3 of 6 related win).
    def row(item: str, cluster: str, figures: list[float]) -> dict:
        columns = {"task": "stereoset-intrasentence", "item": item, "cluster": cluster, "stratum": "gender", "groups": ["gender"]}
        return columns | compare(figures)

    rows = [row("x", "X", [3, 2, 1]), row("y1", "Y", [1, 2, 0]), row("y2", "Y", [1, 2, 1.5]), row("y3", "Y", [0, 1, 2])]
    found = metric_rows(rows)
    task = "stereoset-intrasentence"
    assert [value(found, metric, task) for metric in ("ss", "lms", "icat")] == pytest.approx([50, 75, 75])
    assert value(found, "pct_stereotype", task) == pytest.approx(25)
    assert found["note"].str.contains("too few clusters").all()
    assert target_value(item_table(rows), "ss").distance == pytest.approx(0)


def test_macro_and_micro_figures_by_hand():
    """Section 6 of the spec on forgetting: three items of one term and one of another."""
    figures = {"x": [[3, 2, 1], [2, 3, 1], [3, 2, 2.5]], "y": [[1, 2, 3]]}
    rows = [
        {"task": "stereoset-intrasentence", "item": f"{term}{number}", "cluster": term, "stratum": "gender", "groups": ["gender"]}
        | compare([float(one) for one in item])
        for term, items in figures.items() for number, item in enumerate(items)
    ]
    found, task = metric_rows(rows), "stereoset-intrasentence"
    assert [value(found, name, task) for name in ("lms", "ss", "icat")] == pytest.approx([41.6667, 33.3333, 27.7778], abs=1e-4)
    assert value(found, "pct_stereotype", task) == pytest.approx(50)
    assert 100 * item_table(rows)["correct"].mean() == pytest.approx(62.5)


def test_ties_count_as_anti_stereotype_and_as_no_win():
    tied = compare([1.0, 1.0, 1.0])
    assert (tied["prefers_stereotype"], tied["correct"]) == (0.5, 0.0)
    assert compare([1.0, 1.0 - 1e-6, 0.0], tie=0.0)["prefers_stereotype"] == 1.0
    assert compare([1.0, 1.0 - 1e-6, 0.0])["prefers_stereotype"] == 0.5


def log_probabilities(model: Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model.hf(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def measured(model: Model, items: list[Item], name: str = "stereoset") -> pl.DataFrame:
    benchmark = resolve(name)
    requests = benchmark.requests(items, model)
    return benchmark.table(items, [Scorer(model, store=False).score(group) if group else [] for group in requests], model)


def test_bias_bench_scores_the_first_token_alone():
    """``StereotypeScoreRunner`` of bias-bench: p of the first token after the prefix, of the others in a pass without it, mean log."""
    expected: list[float] = []
    for text in INTRA.texts:
        ids = LLAMA.token_ids(text)
        first, rest = log_probabilities(LLAMA, [LLAMA.prefix_id, ids[0]]), log_probabilities(LLAMA, ids)
        own = [float(first[0, ids[0]]), *(float(rest[place - 1, ids[place]]) for place in range(1, len(ids)))]
        expected.append(float(np.mean(own)))
    table = measured(LLAMA, [INTRA], "stereoset:bias-bench")
    np.testing.assert_allclose(table["scores"].to_list(), [expected], atol=1e-4)
    assert table["protocol"].to_list() == ["sentence-mean, first token apart"]
    plain = measured(LLAMA, [INTRA])
    assert not np.allclose(plain["scores"].to_list(), [expected], atol=1e-3)  # the comparison could fail


def test_causal_scores_equal_the_reference():
    table = measured(LLAMA, [INTRA, INTER])
    expected: list[list[float]] = [[], []]
    for text in INTRA.texts:
        ids = LLAMA.token_ids(text)
        found = log_probabilities(LLAMA, [LLAMA.prefix_id, *ids])
        expected[0].append(float(np.mean([found[place, token] for place, token in enumerate(ids)])))
    context = LLAMA.token_ids(INTER.payload["context"])
    for text in INTER.texts:
        ids = LLAMA.token_ids(INTER.payload["context"] + " " + text)
        found = log_probabilities(LLAMA, [LLAMA.prefix_id, *ids])
        expected[1].append(float(np.mean([found[place, ids[place]] for place in range(len(context), len(ids))])))
    np.testing.assert_allclose(table["scores"].to_list(), expected, atol=1e-4)
    assert table["protocol"].to_list() == ["sentence-mean", "continuation-mean"]
    assert table["margin"].to_list() == pytest.approx([scores[0] - scores[1] for scores in expected], abs=1e-4)


def test_masked_scores_equal_the_reference():
    table = measured(BERT, [INTRA, INTER])
    fill: list[float] = []
    for word in ("helpful", "rude", "purple"):
        # The authors' loader: the text with the pieces so far and one mask, encoded anew.
        probabilities: list[float] = []
        pieces = BERT.token_ids(word)
        left, right = BERT.token_ids("The nurse was"), BERT.token_ids(".")
        for place, piece in enumerate(pieces):
            ids = [2, *left, *pieces[:place], BERT.mask_id, *right, 3]
            probabilities.append(float(log_probabilities(BERT, ids)[1 + len(left) + place, piece].exp()))
        fill.append(float(np.log(np.mean(probabilities))))
    follow: list[float] = []
    for text in INTER.texts:
        ids = BERT.sequence_ids(INTER.payload["context"] + " " + text)
        start = 1 + len(BERT.token_ids(INTER.payload["context"]))
        scores: list[float] = []
        for place in range(start, len(ids) - 1):
            masked = [*ids[:place], BERT.mask_id, *ids[place + 1 :]]
            scores.append(float(log_probabilities(BERT, masked)[place, ids[place]]))
        follow.append(float(np.mean(scores)))
    np.testing.assert_allclose(table["scores"].to_list(), [fill, follow], atol=1e-4)
    assert table["protocol"].to_list() == ["fill-probability", "continuation-pll"]
    assert table["correct"].to_list() == [np.mean([scores[0] > scores[2], scores[1] > scores[2]]) for scores in (fill, follow)]


def test_byte_level_fill_keeps_the_leading_space():
    inner = ByteLevelBPETokenizer()
    ends = {"cls_token": "<s>", "bos_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    inner.train_from_iterator(
        [" ".join(INTRA.texts)] * 5, vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<mask>"], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, pad_token="<pad>", mask_token="<mask>", **ends)
    model = Model(tiny_network("roberta", len(tokenizer)), tokenizer, family="masked", name="bytes", source="bytes")
    requests = resolve("stereoset").plan(INTRA, model).requests
    whole = tokenizer.convert_ids_to_tokens([requests[0][place].targets[0] for place in range(len(requests[0]))])
    assert "".join(whole) == "Ġhelpful"
    last = requests[0][-1]
    restored = [last.targets[0] if place in last.positions else token for place, token in enumerate(last.ids)]
    assert tokenizer.decode(restored) == INTRA.texts[0]


@pytest.mark.parametrize(("context", "text", "word"), [
    ("The Nurse was BLANK.", "The nurse was kind.", "kind"),
    ("BLANK people", "\"Well-read\", people", "Well-read"),
    ("a very long BLANK", "a very", ""),
])
def test_candidate_word_stands_at_the_blank(context, text, word):
    assert candidate_word(context, text) == word


def test_what_cannot_be_filled_is_skipped():
    twice = Item(**{**vars(INTRA), "payload": {"context": "A BLANK and a BLANK"}})
    short = Item(**{**vars(INTRA), "id": "s", "texts": ("The nurse was", "The nurse was bad.", "The nurse was red.")})
    table = measured(BERT, [twice, short])
    assert table["skipped"].to_list() == ["context without exactly one blank", "a text without tokens to score"]
    assert measured(LLAMA, [twice])["skipped"].to_list() == [None]


def test_real_items_by_part_and_task(data_folder: Path):
    both = resolve("stereoset")
    parts = {part: both.items("causal", part) for part in ("select", "test", "all")}
    assert len(parts["all"]) == 4229
    terms = {part: {item.cluster for item in items} for part, items in parts.items()}
    assert terms["select"].isdisjoint(terms["test"])
    assert len(resolve("stereoset:intrasentence").items("causal", "all")) == 2106
    words = [(item.payload["context"], text) for item in resolve("stereoset:intrasentence").items("masked", "all") for text in item.texts]
    assert all(candidate_word(*pair) for pair in words)
