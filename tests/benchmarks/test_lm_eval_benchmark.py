"""lm-eval in this process: the harness's own figures in our table, edits seen, and our benchmarks as its tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from tiny import tiny_model

from fairforget.benchmarks import as_lm_eval_task, evaluate, resolve, write_lm_eval_tasks
from fairforget.benchmarks._lm_eval_harness import run_tasks
from fairforget.cli import main
from fairforget.data.lm_eval_logs import items_from_lm_eval
from fairforget.edits import Dense, EditRecord, SelfDebiasEdit, WeightEdit
from fairforget.errors import DataError, UsageError
from fairforget.models import Model
from fairforget.tables import read_table
from fairforget.workflows.audit import measure

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'fairforget[eval]'")

PEOPLE, WORDS = ("nurse", "doctor", "teacher", "engineer"), ("old", "young", "short", "long")


def metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two task YAML files on local data: questions with options, and answers to be generated, judged by two filters."""
    folder = tmp_path_factory.mktemp("tasks")
    documents = [
        {"q": f"the {who} is {word}", "a": ["good", "bad", "a old tree"], "gold": number % 3, "who": ["x", "y"][number % 2], "kind": who}
        for number, (who, word) in enumerate((who, word) for who in PEOPLE for word in WORDS)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    shared = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}}, "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    options = {**shared, "task": "tiny_options", "output_type": "multiple_choice", "doc_to_choice": "a", "doc_to_target": "gold"}
    answers = {
        **shared, "task": "tiny_answers", "output_type": "generate_until", "doc_to_target": "who",
        "generation_kwargs": {"max_gen_toks": 2, "until": ["."]}, "metric_list": [metric("exact_match")],
        "filter_list": [
            {"name": "first", "filter": [{"function": "take_first"}]},
            {"name": "lower", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
        ],
    }
    for task in (options | {"metric_list": [metric("acc"), metric("acc_norm")]}, answers):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama")


def harness_results(model: Model, task: Any, name: str, **options: Any) -> dict[str, Any]:
    """What lm-eval itself reports of a task, through its public interface."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    peer = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, device="cpu", batch_size=7, prefix_token_id=model.prefix_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "add_env_info", lambda _: None)  # it asks pip and the compilers, for seconds
        options.setdefault("task_manager", TaskManager(include_defaults=False))  # ten thousand YAML files otherwise
        return evaluator.simple_evaluate(model=peer, tasks=[task], bootstrap_iters=0, **options)["results"][name]


def changed(model: Model) -> WeightEdit:
    weight = model.hf.get_parameter("model.layers.1.mlp.down_proj.weight")
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return WeightEdit({"model.layers.1.mlp.down_proj.weight": Dense(noise)}, EditRecord.for_model(model, "noise"))


def test_the_table_holds_the_figures_of_the_harness(tasks: Path, model: Model) -> None:
    from lm_eval.tasks import TaskManager

    benchmark = resolve("lm-eval:tiny_options", {"include_path": str(tasks), "groups": "who", "cluster": "kind"})
    generator = torch.random.get_rng_state()
    table = measure(model, [benchmark], "all", "all")[0]
    assert torch.equal(generator, torch.random.get_rng_state())
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = harness_results(model, "tiny_options", "tiny_options", task_manager=manager)
    metrics = evaluate(benchmark, table, resamples=200).filter(pl.col("group") == "all")
    assert metrics.filter(pl.col("metric") == "accuracy")["value"].item() == pytest.approx(100 * results["acc,none"])
    assert set(metrics["metric"]) == {"accuracy", "answer_nll"}
    assert table["item"].to_list() == [str(number) for number in range(16)]
    assert table["cluster"].to_list() == [who for who in PEOPLE for _ in WORDS]
    assert table["groups"].to_list() == [["x"], ["y"]] * 8
    assert set(table["protocol"]) == {"lm-eval acc, 0-shot"}
    assert set(table["benchmark"]) == {"lm-eval:tiny_options"}
    # The likelihoods are those of our own scorer on the same options; a context gets no prefix from the harness.
    row = table.row(5, named=True)
    before, after = model.join_ids("the doctor is young", " bad")
    with torch.no_grad():
        logits = torch.log_softmax(model.hf(torch.tensor([[*before, *after]])).logits[0].double(), dim=-1)
    expected = sum(float(logits[len(before) - 1 + place, token]) for place, token in enumerate(after))
    assert row["scores"][1] == pytest.approx(expected, abs=1e-4)
    assert row["nll"] == pytest.approx(-row["scores"][2])
    norm = resolve("lm-eval:tiny_options", {"include_path": str(tasks), "metric": "acc_norm"})
    again = measure(model, [norm], "all", "all")[0]
    assert 100 * again["correct"].mean() == pytest.approx(100 * results["acc_norm,none"])


def test_parts_limits_and_edits(tasks: Path) -> None:
    model = tiny_model("llama")
    benchmark = resolve("lm-eval:tiny_options", {"include_path": str(tasks), "limit": 5})
    whole = resolve("lm-eval:tiny_options", {"include_path": str(tasks)})
    parts = {part: {item.id for item in whole.items("causal", part)} for part in ("select", "test", "all")}
    assert len(parts["select"]) == len(parts["test"]) == 8
    assert parts["select"] | parts["test"] == parts["all"]
    base = measure(model, [benchmark], "test", "base")[0]
    assert base.height == 5
    assert set(base["item"]) <= parts["test"]
    edit = changed(model)
    with edit.applied(model):
        edited = measure(model, [benchmark], "test", "edited")[0]
    assert edited["item"].to_list() == base["item"].to_list()
    assert edited["scores"].to_list() != base["scores"].to_list()
    assert measure(model, [benchmark], "test", "again")[0].equals(base)


def test_generated_answers_with_filters(tasks: Path, model: Model) -> None:
    settings = {"include_path": str(tasks), "limit": 2}
    table = measure(model, [resolve("lm-eval:tiny_answers", settings)], "test", "answers")[0]
    assert set(table["protocol"]) == {"lm-eval exact_match, 0-shot, first"}
    assert table["answer"].null_count() == 0
    assert table["nll"].null_count() == 2
    other = resolve("lm-eval:tiny_answers", {**settings, "filter": "upper"})
    with pytest.raises(UsageError, match="no filter 'upper': known are first, lower"):
        measure(model, [other], "test", "answers")


def test_what_cannot_be_run_is_told(tasks: Path, model: Model) -> None:
    options = resolve("lm-eval:tiny_options", {"include_path": str(tasks)})
    with pytest.raises(UsageError, match="scores causal models, and tiny-bert is a masked one"):
        options.check(tiny_model("bert"))
    with pytest.raises(UsageError, match="no chat template"):
        resolve("lm-eval:tiny_options", {"prompt_format": "chat"}).check(model)
    with pytest.raises(UsageError, match="lm-eval:TASK"):
        resolve("lm-eval").check(model)
    with pytest.raises(UsageError, match=r"no folder .*none"):
        resolve("lm-eval:tiny_options", {"include_path": str(tasks / "none")}).items("causal", "test")
    with pytest.raises(DataError, match="has no field 'sort'"):
        resolve("lm-eval:tiny_options", {"include_path": str(tasks), "groups": "sort"}).items("causal", "test")
    edit = SelfDebiasEdit(((7, 8),), EditRecord.for_model(model, "self-debias"))
    with edit.applied(model), pytest.raises(UsageError, match="Self-Debias"):
        options.check(model)


def test_data_that_are_not_there_are_told(tasks: Path, tmp_path: Path) -> None:
    task = yaml.safe_load((tasks / "tiny_options.yaml").read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"]["test"] = str(tmp_path / "missing.jsonl")
    (tmp_path / "tiny_options.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    with pytest.raises(DataError, match="the task cannot be loaded"):
        resolve("lm-eval:tiny_options", {"include_path": str(tmp_path)}).items("causal", "test")


CHOICES = {
    "file": "questions.jsonl", "scorer": "choices", "columns": {"context": "q", "options": "a", "right": "gold", "groups": "who"},
}


def test_our_pairs_as_a_task_have_our_figures(model: Model) -> None:
    ours = resolve("starter", {"limit": 6})
    table = measure(model, [ours], "test", "ours")[0]
    results = harness_results(model, as_lm_eval_task(ours), "fairforget_starter")
    figures = evaluate(ours, table, resamples=200).filter(pl.col("group") == "all")
    for name in ("pct_stereotype", "margin"):
        assert results[f"{name},none"] == pytest.approx(figures.filter(pl.col("metric") == name)["value"].item(), abs=1e-4)


def test_our_choices_as_a_task_have_our_figures(tasks: Path) -> None:
    # The harness puts no prefix before a context, so that the audit has none here either.
    model = tiny_model("gpt2")
    model.prefix_id = None
    ours = resolve("file", {**CHOICES, "file": str(tasks / "questions.jsonl"), "options": {"normalization": "character-mean"}})
    table = measure(model, [ours], "all", "ours")[0]
    results = harness_results(model, as_lm_eval_task(ours, "all", "mine"), "mine")
    assert results["acc,none"] == pytest.approx(table["correct"].mean())
    assert results["answer_nll,none"] == pytest.approx(table["nll"].mean(), abs=1e-4)
    assert 0 < results["acc,none"] < 1


@pytest.mark.parametrize("name", ["bbq:paper", "bbq:lm-eval", "winogender:coreference"])
def test_questions_whose_rows_are_our_own_have_our_figures(name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    model.prefix_id = None
    ours = resolve(name, {"prefix": "model"} | ({"category": "Age", "context": "ambig"} if name.startswith("bbq") else {}))
    items = ours.measured_items("causal", "test")
    short = [item for item in items if len(model.token_ids(f"{item.payload['context']} {max(item.texts, key=len)}")) < 200][:40]
    monkeypatch.setattr(type(ours), "measured_items", lambda *_: short)  # the harness cuts what is too long, and we skip it
    table = measure(model, [ours], "test", "ours")[0]
    results = harness_results(model, as_lm_eval_task(ours, "test", "mine"), "mine")
    assert table["skipped"].null_count() == table.height > 3
    assert results["acc,none"] == pytest.approx(table["correct"].mean())
    assert results["answer_nll,none"] == pytest.approx(table["nll"].mean(), abs=1e-4)


def test_what_lm_eval_cannot_carry_is_refused() -> None:
    refused = {
        "starter:mean": "protocol 'mean'", "perplexity:starter": "only pairs and choices", "winogender": "only pairs and choices",
        "starter:changed": "'changed'",
    }
    for name, words in refused.items():
        with pytest.raises(UsageError, match=words):
            as_lm_eval_task(name)


def test_a_folder_for_include_path_is_loaded_by_the_harness(tasks: Path, tmp_path: Path, model: Model) -> None:
    from lm_eval.tasks import TaskManager

    description = tasks / "questions-of-mine.yaml"
    description.write_text(yaml.safe_dump(CHOICES), encoding="utf-8")
    folder = tmp_path / "exported"
    assert main(["export", "lm-eval", "--benchmarks", f"starter,{description}", "--out", str(folder)]) == 0
    names = ["fairforget_starter", "fairforget_file_questions-of-mine"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["fairforget_tasks.py", *(f"{name}.yaml" for name in names)])
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    assert sorted(manager.all_tasks) == sorted(names)
    results = harness_results(model, names[1], names[1], task_manager=manager, limit=3)
    assert 0 <= results["acc,none"] <= 1
    with pytest.raises(UsageError, match="cannot be a task"):
        write_lm_eval_tasks(tmp_path / "other", ["perplexity"])


def logs(folder: Path, model: Model, benchmark: Any, date: str) -> Path:
    """A sample log as ``lm_eval --log_samples`` writes it."""
    task = benchmark._tasks()["tiny_options"]
    samples = run_tasks(
        model, {"tiny_options": task}, {"tiny_options": list(range(16))}, batch_size=4, num_fewshot=None, chat=False, seed=0
    )
    place = folder / "tiny__model"
    place.mkdir(parents=True, exist_ok=True)
    lines = [
        line | {
            "arguments": {f"gen_args_{j}": {f"arg_{i}": part for i, part in enumerate(args)} for j, args in enumerate(line["arguments"])},
            "filtered_resps": [[str(score), str(greedy)] for score, greedy in line["filtered_resps"]],
        }
        for line in samples["tiny_options"]
    ]
    path = place / f"samples_tiny_options_{date}.jsonl"
    path.write_text("\n".join(json.dumps(line, default=str) for line in lines), encoding="utf-8")
    (place / f"results_{date}.json").write_text(json.dumps({"model_name": "tiny/model"}), encoding="utf-8")
    return path


def test_two_folders_of_logs_make_a_comparison(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama")
    benchmark = resolve("lm-eval:tiny_options", {"include_path": str(tasks), "groups": "who", "cluster": "kind"})
    benchmark.items("causal", "all")
    path = logs(tmp_path / "before", model, benchmark, "2026-11-20T10-00-00.000001")
    older = path.with_name("samples_tiny_options_2025-01-01T00-00-00.000001.jsonl")
    older.write_text("{}", encoding="utf-8")  # an older run of the same task does not count
    in_process = measure(model, [benchmark], "all", "base")[0]
    with changed(model).applied(model):
        logs(tmp_path / "after", model, benchmark, "2026-11-21T10-00-00.000001")
        edited = measure(model, [benchmark], "all", "edited")[0]
    out = tmp_path / "out"
    options = ["--group", "who", "--cluster", "kind", "--resamples", "200", "--out", str(out)]
    assert main(["import", "lm-eval", str(tmp_path / "before"), str(tmp_path / "after"), *options]) == 0
    printed = capsys.readouterr().out
    assert "lm-eval:tiny_options" in printed
    assert (out / "report.html").exists()
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["model"]["name"]) == ("compare", "tiny/model")
    ledger = read_table(out / "tables" / "ledger.parquet")
    assert ledger["correct_before"].to_list() == in_process["correct"].to_list()
    assert ledger["correct_after"].to_list() == edited["correct"].to_list()
    assert ledger["nll_before"].to_list() == pytest.approx(in_process["nll"].to_list(), abs=1e-5)
    assert read_table(out / "tables" / "forgetting.parquet")["n"].to_list() == [16]
    assert set(read_table(out / "tables" / "biased.parquet")["scale"]) <= {"points"}  # the logs do not say how many tokens there are
    metrics = read_table(out / "tables" / "metrics.parquet")
    assert set(metrics["group"]) == {"all", "x", "y"}
    difference = metrics.filter((pl.col("state") == "difference") & (pl.col("metric") == "accuracy") & (pl.col("group") == "all"))
    assert difference["value"].item() == pytest.approx(100 * (edited["correct"].mean() - in_process["correct"].mean()))
    table = items_from_lm_eval(path, task="t", role="bias", metric=None)
    assert table["margin"].to_list() == [row[0] - row[1] for row in table["scores"].to_list()]
    assert table["correct"].null_count() == 16


@pytest.mark.parametrize(("arguments", "words"), [
    (["{a}", "{b}"], "holds no sample logs"),
    (["{a}", "{a}", "--tasks", "other"], "no task in both folders named 'other'"),
    (["{a}", "{c}"], "share no task"),
    (["{a}", "{a}", "--group", "sort"], "has no field 'sort'"),
    (["{a}", "{d}"], "not a line of a sample log"),
    (["{e}", "{e}"], "holds the filters first, last: choose one with --filter"),
    (["{e}", "{e}", "--filter", "last", "--metric", "f1"], "no figure 'f1'; its metrics are acc"),
])
def test_logs_that_do_not_go_together_are_told(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"doc_id": 0, "doc": {"q": "x"}, "target": "0", "metrics": ["acc"], "acc": 1.0, "filtered_resps": [["-1", "x"], ["-2", "x"]]}
    contents = {"a": [line], "b": None, "c": [line], "d": [[1]], "e": [line | {"filter": name} for name in ("first", "last")]}
    for name, lines in contents.items():
        (tmp_path / name).mkdir()
        if lines is not None:
            task = "theirs" if name == "c" else "ours"
            text = "\n".join(map(json.dumps, lines))
            (tmp_path / name / f"samples_{task}_2026-11-20T10-00-00.1.jsonl").write_text(text, encoding="utf-8")
    filled = [argument.format(**{name: tmp_path / name for name in contents}) for argument in arguments]
    assert main(["import", "lm-eval", *filled, "--out", str(tmp_path / "out")]) in (1, 2)
    assert words in capsys.readouterr().err
