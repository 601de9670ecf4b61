"""BOLD and RealToxicityPrompts on made-up prompts, with a tiny causal model and a tiny classifier."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import tiny_model
from tiny_classifier import save_classifier

from fairforget import methods
from fairforget.benchmarks import _text_measures, evaluate, resolve
from fairforget.benchmarks._open_ended import NOT_MEASURED, SAMPLE_SEPARATOR
from fairforget.benchmarks._text_measures import distinct_bigrams, gender_polarity, sentiment, words_of
from fairforget.data import bold as bold_data
from fairforget.data import real_toxicity_prompts as toxicity_data
from fairforget.errors import UsageError
from fairforget.forgetting import build_ledger
from fairforget.scoring import Scorer
from fairforget.scoring.generation import Answer, Generator

TEMPLATE = "{% for message in messages %}[SEP] {{ message['content'] }} [SEP]{% endfor %}{% if add_generation_prompt %} said{% endif %}"


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six prompts for BOLD in two domains, and six for RealToxicityPrompts."""
    pages = {f"Page {number}": [f"the {word} is "] for number, word in enumerate(("nurse", "doctor", "teacher"))}
    files = {}
    for domain in ("profession", "gender"):
        files[domain] = tmp_path / f"{domain}.json"
        content = {f"{domain} group": {f"{domain} {page}": [f"{prompt}{domain} "] for page, (prompt,) in pages.items()}}
        files[domain].write_text(json.dumps(content), encoding="utf-8")
    bold = bold_data.load_bold(files)
    monkeypatch.setattr(bold_data, "load_bold", lambda: bold)
    kinds = {}
    for kind, toxicity in (("toxic", 0.9), ("nontoxic", 0.1)):
        kinds[kind] = tmp_path / f"{kind}.jsonl"
        rows = [
            {"filename": f"{kind} {word}", "challenging": False, "prompt": {"text": f"a {word} {kind}", "toxicity": toxicity}}
            for word in ("river", "hill", "book")
        ]
        kinds[kind].write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts = toxicity_data.load_real_toxicity_prompts(kinds)
    monkeypatch.setattr(toxicity_data, "load_real_toxicity_prompts", lambda: prompts)


def test_measures_of_a_text() -> None:
    assert words_of("He’s here; she-wolf, 2 x") == ["he's", "here", "she", "wolf", "2", "x"]
    assert gender_polarity("He's a man, and she is here.") == 1.0
    assert gender_polarity("Her mother knew him.") == -1.0
    assert gender_polarity("he and she") == gender_polarity("the tree") == 0.0
    assert distinct_bigrams("a b a b a") == 0.5
    assert distinct_bigrams("word") is None
    assert sentiment("a good and happy day") > 0.5
    assert sentiment("a bad and sad day") < -0.5


def test_gender_words_of_a_users_file_and_a_list_of_four_groups(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text('[["sun", "moon"]]', encoding="utf-8")
    assert gender_polarity("the moon and she", str(tmp_path / "words.json")) == -1.0
    with pytest.raises(UsageError, match="gender polarity needs two"):
        resolve("bold", {"gender_words": "race"}).check(tiny_model("llama"))


def test_a_row_for_each_measure_and_prompt_and_one_that_says_what_is_not_measured(made_up: None) -> None:
    benchmark, model = resolve("bold"), tiny_model("llama")
    table = benchmark.measure(Scorer(model, store=False), "all")
    counts = dict(table.group_by("task").len().iter_rows())
    assert counts == {"bold-sentiment": 6, "bold-polarity": 3, "bold-repetition": 6, "bold-regard": 1, "bold-toxicity": 1}
    for row in table.filter(pl.col("value").is_not_null()).to_dicts():
        text = row["answer"].strip()
        expected = {"sentiment": sentiment, "polarity": gender_polarity, "repetition": distinct_bigrams}[row["task"][5:]](text)
        assert row["value"] == pytest.approx(expected)
        assert row["scores"] == [row["value"]]
        assert "top-p 0.9, 20 tokens, seed 0" in row["protocol"]
    missing = table.filter(pl.col("item") == NOT_MEASURED)
    assert all("set toxicity_classifier to" in text or "set regard_classifier to" in text for text in missing["skipped"])
    metrics = evaluate(benchmark, table, table, resamples=100)
    base = metrics.filter((pl.col("state") == "base") & (pl.col("group") == "all"))
    figures = {row["metric"]: row for row in base.to_dicts()}
    assert figures["sentiment"]["value"] == pytest.approx(table.filter(pl.col("task") == "bold-sentiment")["value"].mean())
    assert figures["distinct_2"]["n"] == 6
    for measure in ("toxicity", "regard"):
        assert math.isnan(figures[measure]["value"])
        assert "no classifier is named" in figures[measure]["note"]
    groups = set(metrics.filter(pl.col("metric") == "sentiment")["group"])
    assert groups == {"all", "profession", "profession: profession group", "gender", "gender: gender group"}
    assert metrics.filter((pl.col("state") == "difference") & (pl.col("metric") == "sentiment"))["value"].abs().max() == 0


def test_two_states_are_compared_item_by_item(made_up: None) -> None:
    benchmark, model = resolve("bold", {"measures": ["repetition", "sentiment"], "domains": ["gender"]}), tiny_model("llama")
    scorer = Scorer(model, store=False)
    before = benchmark.measure(scorer, "all")
    edit = methods.SelfDebias(domains=["gender"], decay=1000.0, epsilon=1e-6).fit(model, [])
    with edit.applied(model):
        after = benchmark.measure(scorer, "all")
    assert before["answer"].to_list() != after["answer"].to_list()
    metrics = evaluate(benchmark, before, after, resamples=100)
    change = metrics.filter((pl.col("state") == "difference") & (pl.col("metric") == "distinct_2") & (pl.col("group") == "all"))
    mean = [table.filter(pl.col("task") == "bold-repetition")["value"].mean() for table in (before, after)]
    assert change["value"].item() == pytest.approx(100 * (mean[1] - mean[0]))  # type: ignore[operator]
    assert build_ledger(before, after).height == before.height


def test_toxicity_over_samples(made_up: None, tmp_path: Path, own_cache: Path) -> None:
    save_classifier(tmp_path / "c")
    settings = {"samples": 3, "toxicity_classifier": str(tmp_path / "c"), "measures": ["toxicity"], "measured": "whole"}
    benchmark, model = resolve("real-toxicity-prompts", settings), tiny_model("gpt2")
    table = benchmark.measure(Scorer(model), "all")
    assert table["answer"].str.split(SAMPLE_SEPARATOR).list.len().to_list() == [3] * 6
    scores = np.array(table["scores"].to_list())
    np.testing.assert_allclose(table["value"], scores.mean(1))
    figures = {
        row["metric"]: row["value"] for row in evaluate(benchmark, table, resamples=100).filter(pl.col("group") == "all").to_dicts()
    }
    assert figures["toxicity"] == pytest.approx(scores.mean())
    assert figures["expected_maximum_toxicity"] == pytest.approx(scores.max(1).mean())
    assert figures["toxicity_probability"] == pytest.approx(100 * (scores.max(1) >= 0.5).mean())
    again = resolve("real-toxicity-prompts", settings).measure(Scorer(model), "all")
    assert again.equals(table)
    items = benchmark.items("causal", "all")
    assert benchmark.table(items, [[] for _ in benchmark.requests(items, model)], model).equals(table)  # as an audit asks for it
    with pytest.raises(UsageError, match="no label 'rude'"):
        resolve("real-toxicity-prompts", {**settings, "toxicity_label": "rude"}).check(model)


def test_regard_through_a_named_classifier(made_up: None, tmp_path: Path, own_cache: Path) -> None:
    save_classifier(tmp_path / "c", labels=("positive", "neutral", "negative"))
    settings = {"regard_classifier": str(tmp_path / "c"), "measures": ["regard"], "domains": ["gender"]}
    benchmark, model = resolve("bold", settings), tiny_model("gpt2")
    table = benchmark.measure(Scorer(model), "all")
    values = table["value"].drop_nulls()
    assert values.len() == 3 and values.is_between(0, 1).all() and values.n_unique() == 3
    total = values
    for label in ("positive", "neutral"):
        total = total + resolve("bold", {**settings, "regard_label": label}).measure(Scorer(model), "all")["value"].drop_nulls()
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    row = evaluate(benchmark, table, resamples=100).filter((pl.col("metric") == "regard") & (pl.col("group") == "all")).row(0, named=True)
    assert row["value"] == pytest.approx(values.mean()) and row["better"] == "lower"


def test_an_answer_without_words_has_no_figure(made_up: None) -> None:
    benchmark = resolve("bold", {"domains": ["gender"], "measures": ["sentiment", "repetition"]})
    items = benchmark.items("causal", "all")
    answers = [(Answer(" ... !"),), (Answer("good"),), (Answer("", "the prompt is too long"),)]
    rows = benchmark.answered(items, answers, tiny_model("llama"), store=False)  # type: ignore[attr-defined]
    assert [row.get("skipped") for row in rows] == [
        "no answer with a word", None, "the prompt is too long",
        "no answer of two words", "no answer of two words", "the prompt is too long",
    ]
    assert [row.get("value") is None for row in rows] == [True, False, True, True, True, True]


def test_the_chat_format_and_who_is_refused(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"measures": ["sentiment"], "domains": ["gender"]}
    model, chat = tiny_model("llama"), resolve("bold:chat", settings)
    with pytest.raises(UsageError, match="no chat template"):
        chat.check(model)
    with pytest.raises(UsageError, match="masked one, which writes no text"):
        resolve("bold").check(tiny_model("bert"))
    with pytest.raises(UsageError, match="samples above 1"):
        resolve("bold", {"samples": 2, "temperature": 0})
    model.tokenizer.chat_template = TEMPLATE
    asked: list[list[int]] = []
    whole = Generator.generate

    def listening(self: Generator, prompts: list[list[int]], **options: object) -> object:
        asked.extend(prompts)
        return whole(self, prompts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "generate", listening)
    table = chat.measure(Scorer(model, store=False), "all")
    assert set(table["prompt_format"]) == {"chat"}
    words = model.tokenizer.decode(asked[0])
    assert words.startswith("[SEP]")
    assert words.endswith("said")
    assert "continue this text, and write the continuation only : the nurse is gender [SEP]" in words
    plain = resolve("bold", settings).measure(Scorer(model, store=False), "all")
    assert set(plain["prompt_format"]) == {"plain"}
    assert asked[3] == [*model.prefix, *model.token_ids("the nurse is gender")]


def test_a_missing_package_is_named(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _text_measures.sentiment_analyzer.cache_clear()
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UsageError, match=r"fairforget\[generation\]"):
        resolve("bold").check(tiny_model("llama"))
    resolve("bold", {"measures": ["repetition"]}).check(tiny_model("llama"))
