"""Perplexity: known answers for uniform models, windows that cover a text once, and even shares over articles."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.benchmarks._base import Item
from fairforget.benchmarks._evaluate import evaluate
from fairforget.benchmarks._targets import perplexity_ratio
from fairforget.benchmarks.perplexity import shares, windows
from fairforget.data.wikitext import harness_pages, joined_lines, load_wikitext, without_marks
from fairforget.errors import DataError, UsageError
from fairforget.scoring import Scorer
from fairforget.tables import item_table

LLAMA, BERT = tiny_model("llama"), tiny_model("bert")
ARTICLES = [
    "the man and the woman were at home by the river " * 3, "a dog was good and the sun was red", "she said that he works in the city",
]


def make_items(texts: list[str] = ARTICLES) -> list[Item]:
    return [Item(str(number), "perplexity-test", "ability", "test", str(number), "text", (), (text,)) for number, text in enumerate(texts)]


def measured(model, texts: list[str] = ARTICLES, **settings) -> pl.DataFrame:
    benchmark, items = resolve("perplexity", settings), make_items(texts)
    requests = benchmark.requests(items, model)
    return benchmark.table(items, [Scorer(model, store=False).score(group) for group in requests], model)


def value(table: pl.DataFrame, metric: str) -> float:
    rows = evaluate(resolve("perplexity"), table, resamples=100)
    return rows.filter(pl.col("metric") == metric)["value"].item()


@pytest.mark.parametrize("stride", [None, 1, 3, 7, 100])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(stride):
    # Spec test 24. With its output weights at zero a network is uniform over its vocabulary.
    model = tiny_model("llama")
    model.hf.get_output_embeddings().weight.data.zero_()
    table = measured(model, context=8, stride=stride)
    assert value(table, "perplexity") == pytest.approx(len(model.tokenizer))
    assert table["tokens"].sum() == sum(len(model.token_ids(text)) for text in ARTICLES)


def test_two_token_windows_without_a_prefix():
    # Spec test 24: windows of two tokens of which one is predicted, NLLs 1 and 3, four words.
    model = tiny_model("llama")
    model.prefix_id = None
    benchmark, items = resolve("perplexity", {"context": 2}), make_items(["man dog cat bird"])
    requests = benchmark.requests(items, model)
    assert [len(request.continuation) for request in requests[0]] == [2, 2]
    table = benchmark.table(items, [[np.array([np.nan, -1.0]), np.array([np.nan, -3.0])]], model)
    assert table["words"].to_list() == [2, 2]
    assert value(table, "perplexity") == pytest.approx(np.exp(2))
    assert value(table, "word_perplexity") == pytest.approx(np.exp(1))


@pytest.mark.parametrize("stride", [None, 4])
def test_causal_windows_equal_the_reference(stride):
    table = measured(LLAMA, context=12, stride=stride)
    total = count = 0
    for text in ARTICLES:
        ids = LLAMA.token_ids(text)
        for place, token in enumerate(ids):
            # The window of a token begins at a multiple of 11, or, with a stride, so that its last scored token is the eleventh.
            if stride is None or place < 11:
                start = place // 11 * 11
            else:
                last = min(11 + ((place - 11) // 4 + 1) * 4, len(ids))
                start = last - 11
            sequence = [LLAMA.prefix_id, *ids[start:place]]
            with torch.no_grad():
                total -= float(torch.log_softmax(LLAMA.hf(input_ids=torch.tensor([sequence])).logits[0, -1].double(), -1)[token])
            count += 1
    assert table["tokens"].sum() == count
    assert table["nll"].sum() == pytest.approx(total, abs=1e-3)
    assert table["words"].sum() == sum(len(text.split()) for text in ARTICLES)


@given(st.integers(0, 60), st.integers(1, 20), st.one_of(st.none(), st.integers(1, 30)))
def test_windows_score_every_token_once(length, size, stride):
    ids = list(range(length))
    found = list(windows(ids, size, stride))
    assert [token for _, _, scored in found for token in scored] == ids
    for start, context, scored in found:
        assert len(context) + len(scored) <= size
        assert [*context, *scored] == ids[start - len(context) : start + len(scored)]
        assert len(context) + len(scored) == size or start + len(scored) == length or not stride or stride >= size


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 400))
def test_shares_are_even(lengths, total):
    given_out = shares(lengths, total)
    assert sum(given_out) == min(total, sum(lengths))
    assert all(0 <= share <= length for share, length in zip(given_out, lengths, strict=True))
    busy = sum(length > 0 for length in lengths)
    if total >= busy:
        assert all(share > 0 for share, length in zip(given_out, lengths, strict=True) if length)
    for share, length in zip(given_out, lengths, strict=True):
        assert share <= max(total * length / max(sum(lengths), 1) + 1, 1)


def test_a_budget_of_tokens_is_cut_evenly_over_articles():
    table = measured(LLAMA, context=8, max_tokens=20)
    assert table["tokens"].sum() == 20
    lengths = np.array([len(LLAMA.token_ids(text)) for text in ARTICLES])
    by_article = table.group_by("cluster", maintain_order=True).agg(pl.col("tokens").sum())["tokens"].to_numpy()
    np.testing.assert_allclose(by_article, 20 * lengths / lengths.sum(), atol=1)


def test_the_select_part_may_be_scored_more_sparsely():
    benchmark = resolve("perplexity:starter", {"select_tokens": 100})
    scorer = Scorer(LLAMA, store=False)
    select, test = (benchmark.measure(scorer, part) for part in ("select", "test"))
    assert select["tokens"].sum() == 100
    assert test["tokens"].sum() > 1000
    assert "100 tokens" in select["protocol"][0]
    assert "tokens" not in test["protocol"][0]


def test_masked_places_equal_the_reference():
    table = measured(BERT, masked_context=12, positions=9)
    assert table.height == 9
    assert table["tokens"].to_list() == [1] * 9
    assert table["words"].null_count() == 9
    for row in table.iter_rows(named=True):
        article, place = row["item"].split(" @")
        ids, place = BERT.token_ids(ARTICLES[int(article)]), int(place)
        first = max(0, min(place - 5, len(ids) - 10))
        sequence = [2, *ids[first : first + 10], 3]
        sequence[1 + place - first] = BERT.mask_id
        with torch.no_grad():
            expected = torch.log_softmax(BERT.hf(input_ids=torch.tensor([sequence])).logits[0, 1 + place - first].double(), -1)[ids[place]]
        assert row["nll"] == pytest.approx(-float(expected), abs=1e-4)
    assert set(table["cluster"]) == {"0", "1", "2"}
    rows = evaluate(resolve("perplexity"), table, resamples=100)
    assert set(rows["metric"]) == {"perplexity"}


def test_masked_places_are_the_same_for_every_state_and_all_tokens_when_asked():
    other = tiny_model("bert", seed=7)
    first, second = (measured(model, masked_context=12, positions=9) for model in (BERT, other))
    assert first["item"].to_list() == second["item"].to_list()
    assert first["nll"].to_list() != second["nll"].to_list()
    everything = measured(BERT, positions=10_000)
    assert everything.height == sum(len(BERT.token_ids(text)) for text in ARTICLES)
    assert everything["item"].n_unique() == everything.height


def test_ratio_of_two_states():
    def table(shift: float) -> pl.DataFrame:
        generator = np.random.default_rng(0)
        return item_table({
            "benchmark": "perplexity", "task": "t", "item": str(number), "cluster": str(number // 4), "stratum": "text",
            "nll": float(generator.gamma(30) + shift * 10), "tokens": 10,
        } for number in range(80))

    interval = perplexity_ratio(table(0), table(0.02))
    assert interval.value == pytest.approx(np.exp(0.02))
    noisy = table(0.02).with_columns(pl.col("nll") + pl.Series(np.random.default_rng(1).normal(0, 1, 80)))
    interval = perplexity_ratio(table(0), noisy.sample(fraction=1, shuffle=True, seed=3))
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low < 0.2
    rows = evaluate(resolve("perplexity"), table(0), noisy, resamples=500)
    ratio = rows.filter(pl.col("metric") == "perplexity_ratio").row(0, named=True)
    assert (ratio["state"], ratio["neutral"], ratio["unit"], ratio["value"]) == ("difference", 1.0, "ratio", pytest.approx(interval.value))
    assert rows.filter((pl.col("metric") == "perplexity") & (pl.col("state") == "difference"))["neutral"].item() == 0


def test_the_users_own_text(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(f"Paragraph {number} " + "of plain words " * 50 for number in range(20)))
    benchmark = resolve("perplexity", {"source": str(path)})
    select, test, everything = (benchmark.items("causal", part) for part in ("select", "test", "all"))
    assert len(select) + len(test) == len(everything) == 10
    assert {item.texts for item in select}.isdisjoint({item.texts for item in test})
    assert sum(len(item.texts[0].split()) for item in everything) == 20 * 152
    assert {item.task for item in everything} == {"perplexity-mine"}
    path.write_text("one short line")
    with pytest.raises(DataError, match="too short to be halved"):
        resolve("perplexity", {"source": str(path)}).items("causal", "select")
    with pytest.raises(UsageError, match="no source 'wikitext3'"):
        resolve("perplexity", {"source": "wikitext3"}).items("causal", "test")


def test_starter_passages_end_to_end():
    benchmark = resolve("perplexity:starter", {"max_tokens": 300})
    table = benchmark.measure(Scorer(LLAMA, store=False), "select")
    assert table["tokens"].sum() == 300
    assert table["cluster"].n_unique() == len(benchmark.items("causal", "select"))
    assert set(table["task"]) == {"perplexity-starter"}


def test_wikitext_articles_are_clusters(data_folder: Path):
    benchmark = resolve("perplexity")
    select, test = benchmark.items("causal", "select"), benchmark.items("causal", "test")
    assert (len(select), len(test)) == (60, 60)
    assert benchmark.datasets == ("wikitext2",)
    requests = resolve("perplexity", {"positions": 200}).requests(test, BERT)
    assert sum(map(len, requests)) == 200
    assert all(requests)
    assert max(len(request.ids) for group in requests for request in group) == 128


def hugging_face_guide(model, ids: list[int], window: int, stride: int) -> float:
    """The loop of the guide "Perplexity of fixed-length models": labels before the new tokens are masked, the loss shifts by one."""
    total, counted, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        new = end - before
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = float(model.hf(inputs, labels=labels).loss)
        predicted = int((labels[:, 1:] != -100).sum())
        total, counted, before = total + loss * predicted, counted + predicted, end
        if end == len(ids):
            break
    return float(np.exp(total / counted))


def bias_bench(model, ids: list[int], window: int) -> float:
    """Windows without overlap, each loss times its length, over the last place."""
    total = 0.0
    for begin in range(0, len(ids), window):
        inputs = torch.tensor([ids[begin : begin + window]])
        with torch.no_grad():
            total += float(model.hf(inputs, labels=inputs).loss) * inputs.shape[1]
    return float(np.exp(total / len(ids)))


@pytest.mark.parametrize(("window", "stride"), [(40, None), (40, 15)])
def test_joined_text_equals_the_guide_of_hugging_face(window: int, stride: int | None) -> None:
    model = tiny_model("gpt2")
    benchmark = resolve("perplexity:joined", {"source": "starter", "context": window, "stride": stride})
    table = benchmark.measure(Scorer(model, store=False), "test")
    ids = model.token_ids(benchmark.items("causal", "test")[0].texts[0])
    rows = evaluate(benchmark, table, resamples=200).filter(pl.col("metric") == "perplexity")
    assert rows["value"].item() == pytest.approx(hugging_face_guide(model, ids, window, stride or window), rel=1e-5)
    assert table["cluster"].n_unique() == table.height > 5
    assert set(table["prefix"]) == {"none"}
    assert "joined text in windows of 40" in table["protocol"][0]


def test_joined_text_as_bias_bench_counts_it() -> None:
    model = tiny_model("gpt2")
    benchmark = resolve("perplexity:bias-bench", {"source": "starter", "context": 37})
    table = benchmark.measure(Scorer(model, store=False), "select")
    ids = model.token_ids(benchmark.items("causal", "select")[0].texts[0])
    assert np.exp(table["nll"].sum() / table["tokens"].sum()) == pytest.approx(bias_bench(model, ids, 37), rel=1e-5)
    with pytest.raises(UsageError, match="is for causal models"):
        benchmark.check(tiny_model("bert"))
    with pytest.raises(UsageError, match="choose one"):
        resolve("perplexity:bias-bench", {"lines": True})


MARKED = (
    " = Title = \n \n The well @-@ known river ( a long one ) is 1 @,@ 200 km long ; the \" old \" hill is 's own . \n"
    " = = Part = = \n It rains .",
    " = Other = \n \n She said : he works at home every day , and has time ! ? \n",
)


def test_rolling_windows_equal_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface")
    task = importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext")
    model = tiny_model("gpt2")
    benchmark = resolve("perplexity:lm-eval", {"context": 12})
    monkeypatch.setattr(benchmark, "_articles", lambda _: [("one", "text", MARKED[0]), ("two", "text", MARKED[1])])
    table = benchmark.measure(Scorer(model, store=False), "test")
    peer = harness.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, device="cpu", batch_size=1, max_length=12)
    assert set(table["prefix"]) == {f"id {peer.prefix_token_id}"}
    documents = [{"page": text} for text in MARKED]
    instances = [SimpleNamespace(args=(task.wikitext_detokenizer(document),)) for document in documents]
    found = peer.loglikelihood_rolling(instances, disable_tqdm=True)
    judged = [task.process_results(document, [total])["word_perplexity"] for document, total in zip(documents, found, strict=True)]
    ours = table.group_by("cluster", maintain_order=True).agg(pl.col("nll").sum(), pl.col("words").sum())
    assert ours["nll"].to_list() == pytest.approx([-total for total, _ in judged], rel=1e-5)
    assert ours["words"].to_list() == [words for _, words in judged]
    rows = evaluate(benchmark, table, resamples=200).filter(pl.col("metric") == "word_perplexity")
    assert rows["value"].item() == pytest.approx(math.exp(-sum(total for total, _ in judged) / sum(words for _, words in judged)), rel=1e-5)
    assert table["protocol"][0] == "rolling windows of 12, without its marks"
    with pytest.raises(UsageError, match="is for causal models"):
        benchmark.check(tiny_model("bert"))
    with pytest.raises(UsageError, match="has no stride"):
        resolve("perplexity:lm-eval", {"stride": 4})


def test_pages_begin_where_a_line_reads_as_a_title(tmp_path: Path, data_folder: Path) -> None:
    del data_folder
    (tmp_path / "wiki.raw").write_text(" \n = One = \n \n = = Part = = \n Text . \n = 1 rad / s and k = \n More . \n", encoding="utf-8")
    pages = harness_pages("test", tmp_path / "wiki.raw")
    assert [page.text for page in pages] == [" = One = \n \n = = Part = = \n Text . ", " = 1 rad / s and k = \n More . \n"]
    counts = {part: (len(found := harness_pages(part)), sum(len(page.text.split()) for page in found)) for part in ("select", "test")}
    assert {part: pages for part, (pages, _) in counts.items()} == {"select": 60, "test": 62}
    assert counts["test"][1] == sum(len(article.text.split()) for article in load_wikitext("test"))


def test_marks_are_taken_off_as_lm_eval_takes_them(data_folder: Path) -> None:
    task = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    del data_folder
    for article in load_wikitext("test"):
        assert without_marks(article.text) == task.wikitext_detokenizer({"page": article.text})


def test_joined_lines_are_those_of_the_hubs_table(tmp_path: Path) -> None:
    (tmp_path / "wiki.raw").write_text(" \n = Title = \n \n Some\u2028text . \n \n", encoding="utf-8")
    assert joined_lines("test", tmp_path / "wiki.raw") == "\n\n".join(["", " = Title = \n", "", " Some\u2028text . \n", ""])


@pytest.mark.parametrize("model", [LLAMA, BERT], ids=["causal", "masked"])
def test_lines_are_texts_of_their_own(model):
    lines = ["the man was at home", "a dog was good and the sun was red", "she works in the city"]
    inside = measured(model, ["\n".join(lines), lines[0]], lines=True)
    apart = measured(model, [*lines, lines[0]])
    assert inside["nll"].to_list() == pytest.approx(apart["nll"].to_list(), rel=1e-5)
    assert inside["tokens"].to_list() == apart["tokens"].to_list()
    assert inside["cluster"].n_unique() == 2
    joined = measured(model, ["\n".join(lines), lines[0]])
    assert abs(joined["nll"].sum() - inside["nll"].sum()) > 0.1, "a context that crosses lines changes what is predicted"
    if model is LLAMA:
        assert inside["words"].sum() == sum(len(line.split()) for line in [*lines, lines[0]])
        cut = measured(model, ["\n".join(lines)], lines=True, max_tokens=8)
        assert cut["tokens"].sum() == 8
        assert cut["nll"][0] == pytest.approx(inside["nll"][0], rel=1e-5)
