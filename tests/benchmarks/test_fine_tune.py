"""Fine-tuning as a benchmark: what is trained, what is held out, which figures come out, and that nothing is paid for twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from glue_files import HEADERS, glue_row, with_pair_template, write_glue, write_tsv
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from tiny import tiny_model
from torch import nn

from fairforget.benchmarks import _fine_tuned, evaluate, resolve
from fairforget.benchmarks._fine_tune_figures import spearman_values
from fairforget.benchmarks._fine_tune_tasks import TASKS, load_task
from fairforget.benchmarks.fine_tune import FineTune
from fairforget.data.glue import GLUE
from fairforget.data.overlap import folded_key
from fairforget.edits import Dense, EditRecord, LowRank, ProjectionEdit, SelfDebiasEdit, WeightEdit
from fairforget.edits.independent_copy import independent_copy
from fairforget.errors import DataError, UsageError
from fairforget.forgetting.ledger import balance, build_ledger
from fairforget.models import Model
from fairforget.models.hashing import content_hash
from fairforget.scoring import Scorer
from fairforget.tables import item_table
from fairforget.training import classification
from fairforget.training.classification import HeadObjective, LabelledStream, head_outputs
from fairforget.training.monitor import ProgressCallback
from fairforget.workflows.audit import measure

QUICK: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 3, "batch_size": 8, "precision": "float32"}


def benchmark_of(folder: Path, task: str, **settings: Any) -> FineTune:
    found = resolve("fine-tune", {"tasks": [task], "folder": str(folder), **QUICK, **settings})
    assert isinstance(found, FineTune)
    return found


def made_up_table(task: str, answers: np.ndarray, gold: np.ndarray, names: tuple[str, str] = ("", "")) -> pl.DataFrame:
    """An item table of (seeds, rows) answers: classes with their names, or scores where there are none."""
    rows = []
    for seed, own in enumerate(answers):
        ranked = spearman_values(own, gold) if not names[0] else None
        for number, (guess, right) in enumerate(zip(own, gold, strict=True)):
            row = {
                "benchmark": "fine-tune", "protocol": "x", "task": f"fine-tune-{task}", "role": "ability", "part": "test",
                "item": f"{number} seed {seed}", "cluster": str(number), "stratum": "x", "groups": [f"seed {seed}"], "texts": [],
            }
            if names[0]:
                row |= {"answer": names[int(guess)], "correct": float(guess == right), "nll": 1.0, "tokens": 1}
            else:
                row |= {"scores": [right, guess, ranked[number]], "value": guess}
            rows.append(row)
    return item_table(rows)


def figure(metrics: pl.DataFrame, metric: str, group: str = "all", state: str = "base") -> dict[str, Any]:
    found = metrics.filter((pl.col("metric") == metric) & (pl.col("group") == group) & (pl.col("state") == state)).to_dicts()
    assert len(found) == 1
    return found[0]


def test_figures_of_classes_are_those_of_scikit_learn_by_seed_and_in_the_mean() -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 2, 60)
    answers = np.where(generator.random((3, 60)) < [[0.7], [0.8], [0.9]], gold, 1 - gold)
    benchmark = FineTune()
    for task, names, metric, wanted in (
        ("cola", ("unacceptable", "acceptable"), "mcc", lambda y: matthews_corrcoef(gold, y)),
        ("mrpc", ("not_equivalent", "equivalent"), "f1", lambda y: 100 * f1_score(gold, y)),
        ("edos", ("not sexist", "sexist"), "macro_f1", lambda y: 100 * f1_score(gold, y, average="macro")),
    ):
        metrics = evaluate(benchmark, made_up_table(task, answers, gold, names), resamples=400)
        by_seed = [wanted(own) for own in answers]
        whole = figure(metrics, metric)
        assert whole["value"] == pytest.approx(np.mean(by_seed))
        assert whole["low"] < whole["value"] < whole["high"]
        assert (whole["n"], whole["clusters"]) == (180, 60)
        for seed, value in enumerate(by_seed):
            alone = figure(metrics, metric, f"seed {seed}")
            assert alone["value"] == pytest.approx(value)
            assert alone["low"] < alone["value"] < alone["high"]
        assert set(metrics["metric"]) == {"accuracy", "answer_nll", metric} | ({"f1"} if task == "edos" else set())
        assert {one.name for one in benchmark.task_metrics(f"fine-tune-{task}")} == set(metrics["metric"])
    assert figure(metrics, "accuracy")["value"] == pytest.approx(100 * (answers == gold).mean())


def test_correlations_are_those_of_scipy_by_seed_and_in_the_mean() -> None:
    generator = np.random.default_rng(1)
    gold = np.round(generator.uniform(0, 5, 80), 1)
    answers = gold + generator.normal(0, [[1.0], [2.0]], (2, 80))
    benchmark = resolve("fine-tune", {"seeds": [0, 1]})
    metrics = evaluate(benchmark, made_up_table("stsb", answers, gold), resamples=400)
    for metric, wanted in (("pearson", pearsonr), ("spearman", spearmanr)):
        by_seed = [wanted(own, gold).statistic for own in answers]
        assert figure(metrics, metric)["value"] == pytest.approx(np.mean(by_seed))
        for seed, value in enumerate(by_seed):
            assert figure(metrics, metric, f"seed {seed}")["value"] == pytest.approx(value)
            assert figure(metrics, metric, f"seed {seed}")["low"] < value < figure(metrics, metric, f"seed {seed}")["high"]
    assert set(metrics["metric"]) == {"pearson", "spearman"}


def test_the_interval_of_spearman_is_that_of_a_bootstrap_that_ranks_anew() -> None:
    generator = np.random.default_rng(2)
    gold = np.round(generator.uniform(0, 5, 300))  # many ties
    guess = gold + generator.normal(0, 1.5, 300)
    values = spearman_values(guess, gold)
    assert values is not None
    again = []
    for _ in range(800):
        drawn = generator.integers(0, 300, 300)
        again.append(spearmanr(guess[drawn], gold[drawn]).statistic)
    error = values.std() / np.sqrt(300)
    assert error == pytest.approx(np.std(again), rel=0.1)
    fixed = (guess.argsort().argsort() - 149.5) * (gold - gold.mean())  # ranks held fast: another, wrong, error
    assert abs(fixed.std() / fixed.mean() * values.mean() / np.sqrt(300) - error) > 0.2 * error
    # The derivative by a row's weight, seen by doubling the row.
    for row in (0, 17):
        longer = [*range(300), row]
        moved = spearmanr(guess[longer], gold[longer]).statistic - values.mean()
        assert 301 * moved == pytest.approx(values[row] - values.mean(), rel=0.05, abs=0.02)


def test_undefined_figures_have_no_value() -> None:
    gold = np.arange(40) % 2
    constant = made_up_table("cola", np.zeros((3, 40)), gold, ("unacceptable", "acceptable"))
    found = figure(evaluate(FineTune(), constant, resamples=200), "mcc")
    assert np.isnan(found["value"])
    assert found["note"].startswith("not defined")
    assert spearman_values(np.ones(10), np.arange(10.0)) is None


def reference(model: Model, texts: list[tuple[str, ...]], labels: torch.Tensor, held_out: list[tuple[str, ...]]) -> torch.Tensor:
    """Three full-batch steps of AdamW on a linear head and the body, written out; texts one at a time."""
    torch.manual_seed(0)
    head = nn.Linear(32, 2)
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        head.bias.zero_()
    body = model.hf.base_model

    def logits(rows: list[tuple[str, ...]]) -> torch.Tensor:
        found = []
        for row in rows:
            if model.family == "masked":
                made = model.tokenizer(*row, return_tensors="pt")
                found.append(head(body(**made)[0][0, 0]))
            else:
                ids = [model.prefix_id, *model.tokenizer("\n".join(row), add_special_tokens=False)["input_ids"]]
                found.append(head(body(input_ids=torch.tensor([ids]))[0][0, -1]))
        return torch.stack(found)

    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-3 * (3 - step) / 3
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(texts), labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return logits(held_out).detach()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_fine_tuning_is_the_one_written_out(kind: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "DROPOUT", 0.0)
    write_glue(tmp_path, "rte", train=14, dev=6)
    models = [tiny_model(kind) for _ in range(2)]
    for model in models:
        if kind == "bert":
            with_pair_template(model)
        for module in model.hf.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    data = load_task("rte", str(tmp_path))
    settings = {"batch_size": len(data.train), "learning_rate": 1e-3, "seeds": [0]}
    table = benchmark_of(tmp_path, "rte", **settings).measure(Scorer(models[0], store=False), "test")
    labels = torch.tensor([int(row.label) for row in data.train])
    wanted = reference(models[1], [row.texts for row in data.train], labels, [row.texts for row in data.test])
    np.testing.assert_allclose(np.array(table["scores"].to_list()), torch.log_softmax(wanted, dim=-1).numpy(), atol=2e-4)


def test_it_learns_is_kept_and_leaves_the_model_alone(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_glue(tmp_path, "sst2", train=96)
    model = tiny_model("bert")
    before, flags = content_hash(model.hf), [parameter.requires_grad for parameter in model.hf.parameters()]
    settings = {"seeds": [0, 1], "epochs": 8, "learning_rate": 5e-3}
    benchmark = benchmark_of(tmp_path, "sst2", **settings)
    table = measure(model, [benchmark], "test", "test")[0]
    assert content_hash(model.hf) == before
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == flags
    assert not model.hf.training
    assert table.height == 48
    assert table["cluster"].n_unique() == 24
    metrics = evaluate(benchmark, table, resamples=300)
    assert figure(metrics, "accuracy")["value"] > 90
    assert set(metrics["group"]) == {"all", "seed 0", "seed 1"}
    assert "86 rows x 8 epochs, lr 0.005, batch 8, 128 tokens" in table["protocol"][0]  # ten of 96 are `select`
    assert set(table["answer"]) == {"negative", "positive"}
    assert not (own_cache / "fine-tuned").is_dir() or not list((own_cache / "fine-tuned").glob("*.work"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(_fine_tuned, "train", refuse)
    assert measure(model, [benchmark], "test", "test")[0].equals(table)
    select = measure(model, [benchmark], "select", "test")[0]  # judged by the same fine-tuning
    assert (select.height, select["part"].unique().to_list()) == (20, ["select"])
    for other in ({"epochs": 2}, {"train_limit": 20}, {"seeds": [2]}, {"limit": 10}):
        with pytest.raises(AssertionError, match="trained again"):
            measure(model, [benchmark_of(tmp_path, "sst2", **{**settings, **other})], "test", "test")


def test_an_edit_is_part_of_what_is_fine_tuned(tmp_path: Path, own_cache: Path) -> None:
    write_glue(tmp_path, "stsb")
    model = with_pair_template(tiny_model("bert"))
    benchmark = benchmark_of(tmp_path, "stsb", seeds=[0], epochs=1)
    record = EditRecord.for_model(model, "test")
    plain = content_hash(model.hf)
    name = "bert.encoder.layer.1.attention.self.query.weight"
    generator = torch.Generator().manual_seed(0)
    tables = [measure(model, [benchmark], "test", "base")[0]]
    for edit in (
        WeightEdit({name: Dense(torch.randn(32, 32, generator=generator))}, record),
        WeightEdit({name: LowRank(torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator))}, record),
        ProjectionEdit(torch.linalg.qr(torch.randn(32, 4, generator=generator))[0], record),
    ):
        with edit.applied(model):
            edited = content_hash(model.hf)
            # The scorer's inference mode leaves tensors in hooks that no gradient can pass.
            with torch.inference_mode():
                model.hidden(torch.tensor([[2, 40, 41]]), torch.ones((1, 3), dtype=torch.long))
            tables.append(measure(model, [benchmark], "test", "edited")[0])
            assert content_hash(model.hf) == edited
            assert model.edits == [edit]
        assert content_hash(model.hf) == plain
        metrics = evaluate(benchmark, tables[0], tables[-1], resamples=100)
        change = figure(metrics, "pearson", state="difference")
        assert change["value"] == pytest.approx(figure(metrics, "pearson", state="edited")["value"] - figure(metrics, "pearson")["value"])
        balance(build_ledger(tables[0], tables[-1]))
    assert len({tuple(table["value"].to_list()) for table in tables}) == 4
    with SelfDebiasEdit([[40, 41]], record).applied(model), pytest.raises(UsageError, match="Self-Debias"):
        measure(model, [benchmark], "test", "edited")


def test_a_copy_is_in_the_same_state_and_apart() -> None:
    model = tiny_model("gpt2")
    record = EditRecord.for_model(model, "test")
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.tensor([[5, 40, 41, 42]]), torch.ones((1, 4), dtype=torch.long)
    edits = [
        WeightEdit({"transformer.h.0.mlp.c_fc.weight": Dense(torch.randn(32, 128, generator=generator))}, record),
        WeightEdit({"transformer.h.1.mlp.c_fc.weight": LowRank(torch.randn(2, 32), torch.randn(128, 2))}, record, 0.5),
        ProjectionEdit(torch.eye(32)[:, :3], record, layer=0),
    ]
    for edit in edits:
        edit.attach(model)
    with torch.no_grad():
        wanted = model.hf(input_ids=ids, attention_mask=mask).logits
        twin = independent_copy(model)
        assert twin.state_id == model.state_id
        assert torch.equal(twin.hf(input_ids=ids, attention_mask=mask).logits, wanted)
        for parameter in twin.hf.parameters():
            parameter.zero_()
        assert torch.equal(model.hf(input_ids=ids, attention_mask=mask).logits, wanted)
    for edit in reversed(edits):
        edit.detach(model)
    assert content_hash(model.hf) == model.base_hash


class Killed(Exception):
    """Stands for a kill."""


def test_a_fine_tuning_that_was_killed_goes_on_and_ends_the_same(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_glue(tmp_path, "cola", train=96)
    model, benchmark = tiny_model("gpt2"), benchmark_of(tmp_path, "cola", seeds=[0])
    whole = measure(model, [benchmark], "test", "test")[0]
    for path in (own_cache / "fine-tuned").iterdir():
        path.unlink()
    steps: list[int] = []

    def watch(kill_at: int | None) -> None:
        def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps.append(state.global_step)
            if state.global_step == kill_at:
                raise Killed

        monkeypatch.setattr(ProgressCallback, "on_step_end", on_step_end)

    watch(kill_at=25)
    with pytest.raises(Killed):
        measure(model, [benchmark], "test", "test")
    steps.clear()
    watch(kill_at=None)
    again = measure(model, [benchmark], "test", "test")[0]
    assert 1 < steps[0] <= 25
    np.testing.assert_allclose(np.array(again["scores"].to_list()), np.array(whole["scores"].to_list()), atol=1e-5)
    assert [path.suffix for path in (own_cache / "fine-tuned").iterdir()] == [".parquet"]


@pytest.mark.slow
def test_every_glue_task_runs_and_gives_its_figures(tmp_path: Path, own_cache: Path) -> None:
    for task in GLUE:
        write_glue(tmp_path, task, train=24, dev=12)
    model = with_pair_template(tiny_model("bert"))
    benchmark = resolve("fine-tune:glue", {"folder": str(tmp_path), **QUICK, "epochs": 1, "batch_size": 24, "seeds": [0]})
    table = measure(model, [benchmark], "test", "test")[0]
    assert set(table["task"]) == {f"fine-tune-{task}" for task in (*GLUE, "mnli-mismatched")}
    # A random model may say one class only, whose MCC is undefined; the mean is looked at where all nine are defined.
    names = TASKS["cola"].classes
    flip = pl.col("task").is_in(["fine-tune-cola"]) & (pl.int_range(pl.len()) % 3 == 0)
    table = table.with_columns(
        correct=pl.when(flip).then(1 - pl.col("correct")).otherwise("correct"),
        answer=pl.when(flip).then(pl.col("answer").replace(dict(zip(names, names[::-1], strict=True)))).otherwise("answer"),
    )
    metrics = evaluate(benchmark, table, resamples=200)
    found = {task: set(metrics.filter(pl.col("task") == f"fine-tune-{task}")["metric"]) for task in GLUE}
    both = {"accuracy", "answer_nll"}
    assert found == {
        **dict.fromkeys(("sst2", "mnli", "qnli", "rte", "wnli"), both), "cola": both | {"mcc"}, "mrpc": both | {"f1"}, "qqp": both | {"f1"},
        "stsb": {"pearson", "spearman"},
    }
    main = {"cola": ("mcc", 100), "mrpc": ("f1", 1), "stsb": ("pearson", 100)}
    values = []
    for task in GLUE:
        metric, factor = main.get(task, ("accuracy", 1))
        values.append(factor * figure(metrics.filter(pl.col("task") == f"fine-tune-{task}"), metric)["value"])
    mean = metrics.filter(pl.col("task") == "fine-tune-glue").to_dicts()
    assert [(row["metric"], row["group"]) for row in mean] == [("glue", "all")]
    assert mean[0]["value"] == pytest.approx(np.mean(values))
    assert mean[0]["low"] < mean[0]["value"] < mean[0]["high"]
    assert {"in-domain", "out-of-domain"} <= set(metrics.filter(pl.col("task") == "fine-tune-cola")["group"])
    assert "fiction" in set(metrics.filter(pl.col("task") == "fine-tune-mnli")["group"])


def test_nothing_held_out_is_trained_on(tmp_path: Path) -> None:
    folder = write_glue(tmp_path, "mrpc", train=60)
    lines = [line.split("\t") for line in (folder / "train.tsv").read_text(encoding="utf-8").splitlines()]
    dev = glue_row("mrpc", 3, "dev")
    write_tsv(folder / "train.tsv", [*lines, [*dev[:3], dev[4].upper(), f"{dev[3]} ."]])  # a held-out pair, turned round
    data = load_task("mrpc", str(tmp_path))
    assert data.left_out == 1
    parts = {name: {tuple(folded_key(text) for text in row.texts) for row in getattr(data, name)} for name in ("train", "select", "test")}
    assert [len(parts[name]) for name in ("train", "select", "test")] == [54, 6, 24]
    assert not parts["train"] & (parts["select"] | parts["test"])
    assert not parts["select"] & parts["test"]
    write_tsv(folder / "test.tsv", [HEADERS["mrpc"], *(glue_row("mrpc", number, "test") for number in range(9))])
    data = load_task("mrpc", str(tmp_path), "test")
    assert [len(data.train), len(data.select), len(data.test), data.left_out] == [60, 24, 9, 1]
    write_tsv(folder / "train.tsv", [HEADERS["mrpc"], dev])
    with pytest.raises(DataError, match="Nothing is left to train on"):
        load_task("mrpc", str(tmp_path))


def test_rows_that_share_a_text_are_one_cluster(tmp_path: Path) -> None:
    pairs = [("a dog", "a cat"), ("A DOG.", "rain"), ("sun", "rain"), ("hill", "river")]
    lines = [HEADERS["rte"], *([str(number), *pair, "entailment"] for number, pair in enumerate(pairs))]
    write_glue(tmp_path, "rte")
    write_tsv(tmp_path / "RTE/dev.tsv", lines)
    clusters = [row.cluster for row in load_task("rte", str(tmp_path)).test]
    assert clusters[0] == clusters[1] == clusters[2] != clusters[3]


def test_the_built_in_tasks(data_folder: Path) -> None:
    sizes = {"stsb": (5749, 1500, 1379), "edos": (14000, 2000, 4000), "ethics-justice": (None, None, 4756)}
    for name, (train, select, test) in sizes.items():
        data = load_task(name)
        assert len(data.test) == test
        assert train is None or (len(data.train) + data.left_out, len(data.select)) == (train, select)
        held = {tuple(sorted(folded_key(text) for text in row.texts)) for row in (*data.select, *data.test)}
        assert not any(tuple(sorted(folded_key(text) for text in row.texts)) in held for row in data.train)
        strata: dict[str, str] = {}
        assert all(strata.setdefault(row.cluster, row.stratum) == row.stratum for row in data.test)
        assert not TASKS[name].classes or {row.label for row in data.train} == {0.0, 1.0}
    assert len(data.train) > 15_000
    assert len(data.select) > 3_000
    homes: dict[str | None, set[str]] = {}
    for row in data.test:
        homes.setdefault(row.block, set()).add(row.cluster)
    assert len(homes) == 4756 // 4
    assert all(len(clusters) == 1 for clusters in homes.values())
    assert {row.suffix for row in data.test} == {"", "-hard"}
    with pytest.raises(UsageError, match="no development file"):
        load_task("ethics-justice", reported="dev")
    assert len(load_task("edos", reported="dev").test) == 2000


def test_blocks_of_ethics_are_right_together(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("justice_train", 40), ("justice_test", 8), ("justice_test_hard", 8)):
        rows = [
            f"{number % 2},I like to walk the {'good' if number % 2 else 'bad'} dog of {name} {number} because of rain"
            for number in range(count)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["label,scenario", *rows]) + "\n", encoding="utf-8")
    monkeypatch.setattr("fairforget.data.ethics.fetch", lambda _, name: tmp_path / name)
    benchmark = resolve("fine-tune:ethics-justice", {**QUICK, "seeds": [0]})
    assert benchmark.datasets == ("ethics",)
    table = benchmark.measure(Scorer(tiny_model("bert"), store=False), "test")
    assert set(table["task"]) == {"fine-tune-ethics-justice", "fine-tune-ethics-justice-hard"}
    for task in table["task"].unique():
        own = table.filter(pl.col("task") == task)
        right = own["correct"].to_numpy().reshape(2, 4).all(axis=1)
        assert own["value"].drop_nulls().to_list() == right.astype(float).tolist()
        assert own["value"].null_count() == 6
        assert figure(evaluate(benchmark, own, resamples=200), "exact_match")["value"] == pytest.approx(100 * right.mean())


def test_inputs_are_cut_and_joined() -> None:
    model = with_pair_template(tiny_model("bert"))
    texts = [("a cat", "the dog is at home"), ("a good day",)]
    stream = LabelledStream(model, texts, max_length=9)
    words = [model.tokenizer.convert_ids_to_tokens(row["ids"]) for row in stream.rows]
    assert words == ["[CLS] a cat [SEP] the dog is at [SEP]".split(), "[CLS] a good day [SEP]".split()]
    assert stream.example(2, 5) == {**stream.rows[0], "row": [0]}
    assert stream.rows[0]["type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    causal = tiny_model("llama")
    rows = LabelledStream(causal, texts, max_length=6).rows
    assert causal.tokenizer.convert_ids_to_tokens(rows[0]["ids"]) == "<s> a cat the dog is".split()
    with pytest.raises(UsageError, match="no template for a pair"):
        LabelledStream(tiny_model("bert"), texts)


def test_a_head_says_the_same_in_any_batch() -> None:
    for kind in ("bert", "roberta", "llama"):
        model = tiny_model(kind)
        texts = [("a cat",), ("the dog is at home by the river",), ("rain",)]
        objective = HeadObjective([1.0, 2.0, 4.5], 0, seed=0)
        objective.prepare(model)
        together = head_outputs(model, objective, LabelledStream(model, texts))
        alone = torch.cat([head_outputs(model, objective, LabelledStream(model, [text])) for text in texts])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert together.mean().item() == pytest.approx(2.5, abs=1.5)  # the head starts at the mean score


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["stsbb"]}, "stsb"), ({"tasks": []}, "one or more"), ({"seeds": [1, 1]}, "each once"), ({"seeds": [-1]}, "0 or more"),
        ({"batch_size": 6, "accumulation": 4}, "divides"), ({"learning_rate": 0}, "learning_rate"), ({"reported": "train"}, "reported"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve("fine-tune", settings)
