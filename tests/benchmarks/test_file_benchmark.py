"""One's own benchmark from a table file: three scorers, and a sentence for everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve, resolve_all
from fairforget.benchmarks._base import Item
from fairforget.benchmarks._pairs import PairBenchmark
from fairforget.cli import main
from fairforget.errors import DataError, UsageError
from fairforget.workflows.audit import measure
from fairforget.workflows.compare import compare

PEOPLE = ("nurse", "doctor", "teacher", "child")
PAIRS = "one,other,domain,frame,who\n" + "\n".join(
    f"the {who} is {word} {end},the {who} is {word} {other},{'city' if number % 2 else 'river'},{who},{'red' if number % 3 else 'blue'}"
    for number, (who, word) in enumerate((who, word) for who in PEOPLE for word in ("old", "young", "short"))
    for end, other in [("today", "here")]
)
DESCRIPTION = {
    "file": "pairs.csv", "scorer": "pairs",
    "columns": {"stereotype": "one", "counterpart": "other", "groups": ["domain", "who"], "cluster": "frame", "stratum": "domain"},
}


def described(folder: Path, changes: dict[str, Any] | None = None, name: str = "mine.yaml") -> Path:
    (folder / "pairs.csv").write_text(PAIRS, encoding="utf-8")
    path = folder / name
    path.write_text(yaml.safe_dump({**DESCRIPTION, **(changes or {})}), encoding="utf-8")
    return path


class SamePairs(PairBenchmark):
    """The same pairs as a benchmark in code."""

    name = "same"
    description = ""

    def items(self, family: str, part: str) -> list[Item]:
        rows = [line.split(",") for line in PAIRS.splitlines()[1:]]
        return [Item(str(n), "same", "bias", part, row[3], row[2], (), (row[0], row[1])) for n, row in enumerate(rows, start=1)]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_pairs_are_scored_as_pairs_in_code_are(kind: str, tmp_path: Path) -> None:
    model, benchmark = tiny_model(kind), resolve(str(described(tmp_path)))
    table = measure(model, [benchmark], "all", "mine", store=False)[0]
    same = measure(model, [SamePairs()], "all", "same", store=False)[0]
    assert table["margin"].to_list() == same["margin"].to_list()
    assert set(table["benchmark"]) == {"file:mine"}
    assert set(table["task"]) == {"mine"}
    assert table["protocol"].to_list() == same["protocol"].to_list()
    assert table["groups"].to_list()[:2] == [["river", "blue"], ["city", "red"]]
    metrics = evaluate(benchmark, table, resamples=200)
    assert {"pct_stereotype", "margin"} <= set(metrics["metric"])
    assert {"all", "river", "city", "red", "blue"} == set(metrics["group"])
    parts = {part: {item.cluster for item in benchmark.items("causal", part)} for part in ("select", "test")}
    assert not parts["select"] & parts["test"]
    assert parts["select"] | parts["test"] == {"nurse", "doctor", "teacher", "child"}


def test_settings_of_the_scorer_and_of_the_part(tmp_path: Path) -> None:
    path = described(tmp_path, {"options": {"protocol": "mean"}, "share": 0.5})
    model, benchmark = tiny_model("gpt2"), resolve(str(path))
    table = measure(model, [benchmark], "all", "mine", store=False)[0]
    assert set(table["protocol"]) == {"mean"}
    assert table["cluster"].n_unique() == 2
    with pytest.raises(UsageError, match="there is no field 'protocl'; did you mean protocol"):
        resolve(str(described(tmp_path, {"options": {"protocl": "mean"}})))
    with pytest.raises(UsageError, match="write it beside the scorer"):
        resolve(str(described(tmp_path, {"options": {"limit": 3}})))
    with pytest.raises(UsageError, match="is for masked models"):
        resolve(str(described(tmp_path, {"options": {"protocol": "shared-pll"}}))).check(model)


QUESTIONS = [
    {"q": "the nurse is", "a": ["old", "young", "a tree"], "gold": 2, "letter": "C", "answer": "a tree"},
    {"q": "the doctor is", "a": ["good", "bad"], "gold": 0, "letter": "a", "answer": "good"},
    {"q": "the doctor is", "a": ["red", "blue"], "gold": 1, "letter": "B", "answer": "blue"},
]


def questions(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    return {"file": str(path), "scorer": "choices", "columns": {"context": "q", "options": "a", "right": "gold"}, **changes}


@pytest.mark.parametrize("kind", ["llama", "roberta"])
def test_choices_by_index_letter_and_text_are_the_same(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    columns = {"index": "gold", "letter": "letter", "text": "answer"}
    tables = [
        measure(model, [resolve("file", questions(tmp_path, right=form, columns={"context": "q", "options": "a", "right": column}))], "all",
                "choices", store=False)[0]
        for form, column in columns.items()
    ]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    row = tables[0].row(0, named=True)
    assert row["correct"] == float(row["scores"].index(max(row["scores"])) == 2)
    assert row["nll"] == pytest.approx(-row["scores"][2])
    assert tables[0]["cluster"].to_list() == ["row 1", "row 2", "row 2"]  # the same context: one cluster
    assert {metric.name for metric in resolve("file", questions(tmp_path)).metrics()} == {"accuracy", "answer_nll"}


def test_options_of_a_bias_benchmark_have_a_margin(tmp_path: Path) -> None:
    (tmp_path / "options.csv").write_text("c,x,y,z\nthe nurse is,old,young,\nthe doctor is,good,bad,a tree\n", encoding="utf-8")
    columns = {"context": "c", "options": ["x", "y", "z"]}
    benchmark = resolve("file:opinions", {"file": str(tmp_path / "options.csv"), "scorer": "choices", "role": "bias", "columns": columns})
    table = measure(tiny_model("llama"), [benchmark], "all", "options", store=False)[0]
    assert [len(texts) for texts in table["texts"].to_list()] == [2, 3]
    assert table["margin"].to_list() == [row[0] - row[1] for row in table["scores"].to_list()]
    assert benchmark.name == "file:opinions"
    assert {metric.name for metric in benchmark.metrics()} == {"pct_stereotype", "margin"}


def test_likelihoods_are_perplexities(tmp_path: Path) -> None:
    import numpy as np
    import torch

    texts = ["the old nurse is good", "a young doctor works", "the tree is green"]
    (tmp_path / "texts.tsv").write_text("text\tgroup\n" + "\n".join(f"{text}\tg{n}" for n, text in enumerate(texts)), encoding="utf-8")
    settings = {"file": str(tmp_path / "texts.tsv"), "scorer": "likelihood", "columns": {"text": "text", "groups": "group"}}
    benchmark, model = resolve("file", settings), tiny_model("llama")
    table = measure(model, [benchmark], "all", "texts", store=False)[0]
    for text, nll in zip(texts, table["nll"].to_list(), strict=True):
        ids = torch.tensor([[*model.prefix, *model.token_ids(text)]])
        loss = model.hf(ids, labels=ids).loss.item()
        assert nll == pytest.approx(loss * (ids.shape[1] - 1), abs=1e-4)
    metrics = evaluate(benchmark, table, resamples=200)
    value = metrics.filter((pl.col("metric") == "perplexity") & (pl.col("group") == "all"))["value"].item()
    assert value == pytest.approx(np.exp(table["nll"].sum() / table["tokens"].sum()))
    masked = measure(tiny_model("bert"), [benchmark], "all", "texts", store=False)[0]
    assert masked["tokens"].to_list() == [5, 4, 4]
    assert set(masked["protocol"]) == {"pseudo-likelihood"}


@pytest.mark.parametrize(("changes", "words"), [
    ({"file": "none.csv"}, "There is no file .*none.csv"),
    ({"columns": {**DESCRIPTION["columns"], "counterpart": "othr"}}, "has no column 'othr': did you mean other"),
    ({"columns": {"stereotype": "one"}}, "needs 'counterpart'"),
    ({"columns": {**DESCRIPTION["columns"], "cluter": "frame"}}, "no use for 'cluter': did you mean cluster"),
    ({"columns": {**DESCRIPTION["columns"], "cluster": ["frame", "who"]}}, "'cluster' is one column"),
    ({"columns": {**DESCRIPTION["columns"], "id": "frame"}}, "stands in two rows"),
    ({"scorer": "pair"}, "'scorer' = 'pair'"),
    ({"scorrer": "pairs"}, "there is no field 'scorrer'; did you mean scorer"),
    ({"role": "ability"}, "use choices without a context"),
    ({"scorer": "choices", "columns": {"options": "one"}}, "choices need 'right'"),
    ({"scorer": "choices", "role": "bias", "columns": {"options": "one"}}, "name one column for each option"),
    ({"sha256": "0" * 64}, "is not the file that"),
])
def test_mistakes_are_sentences(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = described(tmp_path, changes)
    with pytest.raises((UsageError, DataError), match=words):
        resolve(str(path)).items("causal", "all")


@pytest.mark.parametrize(("row", "changes", "words"), [
    ("the tree is old,the tree is red,,tree,red", {}, "row 13 has an empty group"),
    ("the tree is old,,city,tree,red", {}, "row 13: the column 'other' .* is blank"),
])
def test_bad_rows_are_named(row: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = described(tmp_path, {**changes, "columns": {**DESCRIPTION["columns"], "stratum": "who"}})
    (tmp_path / "pairs.csv").write_text(f"{PAIRS}\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        resolve(str(path)).items("causal", "all")


def test_an_empty_group_may_be_allowed(tmp_path: Path) -> None:
    path = described(tmp_path, {"blank_groups": True, "columns": {**DESCRIPTION["columns"], "stratum": "who"}})
    (tmp_path / "pairs.csv").write_text(f"{PAIRS}\nthe tree is old,the tree is red,,tree,red\n", encoding="utf-8")
    assert resolve(str(path)).items("causal", "all")[-1].groups == ("red",)


def test_right_answers_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: 'right' is none of 1 to 3.*now: number"):
        resolve("file", {**questions(tmp_path, right="number"), "columns": {"options": "a", "right": "letter"}}).items("causal", "all")
    with pytest.raises(DataError, match="no option's"):
        resolve("file", {**questions(tmp_path, right="text"), "columns": {"options": "a", "right": "letter"}}).items("causal", "all")


def test_damaged_descriptions_are_told(tmp_path: Path) -> None:
    for text, words in (("a: [", "line 1: this is not YAML"), ("- a", "describes no benchmark"), ("scorer: pairs", "must name its file")):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=words):
            resolve(str(tmp_path / "bad.yaml"))
    with pytest.raises(UsageError, match="cannot be read"):
        resolve(str(tmp_path / "missing.yaml"))
    with pytest.raises(UsageError, match="needs a file"):
        resolve("file").items("causal", "test")


def test_validate_says_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(described(tmp_path))]) == 0
    assert "12 items in 4 clusters and 2 strata" in capsys.readouterr().out
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"benchmarks: [{tmp_path / 'mine.yaml'}, 'perplexity:starter']\n", encoding="utf-8")
    assert main(["validate", str(recipe)]) == 0
    described(tmp_path, {"columns": {**DESCRIPTION["columns"], "counterpart": "othr"}})
    assert main(["validate", str(recipe)]) == 2
    assert "line 1, field benchmarks.0: " in (said := capsys.readouterr().err)
    assert "no column 'othr'" in said


def test_the_command_line_audits_it_and_compares(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    described(tmp_path)
    tiny_model("llama").save(tmp_path / "model")
    assert main(["audit", "model", "--benchmarks", "./mine.yaml", "--resamples", "200", "--out", "a"]) == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert record["benchmarks"][0]["name"] == "file:mine"
    assert len(record["benchmarks"][0]["settings"]["sha256"]) == 64
    (tmp_path / "pairs.csv").unlink()  # what was measured can be compared without the data
    metrics = compare("a", "a", resamples=200)
    assert set(metrics["benchmark"]) == {"file:mine"}


def test_the_same_file_twice_is_told(tmp_path: Path) -> None:
    path = str(described(tmp_path))
    with pytest.raises(UsageError, match="named twice"):
        resolve_all([path, path])
