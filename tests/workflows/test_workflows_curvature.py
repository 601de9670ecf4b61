"""Curvature as a workflow: rows of benchmarks are what they score, tables on disk, and the verb on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny import tiny_model

from fairforget.benchmarks import resolve
from fairforget.cli import main
from fairforget.cli.curvature import print_result
from fairforget.edits import Dense, EditRecord, LowRank, WeightEdit
from fairforget.errors import DataError, UsageError
from fairforget.forgetting.row_loss import row_loss
from fairforget.models import Model
from fairforget.objectives import CrossEntropy
from fairforget.scoring import Scorer
from fairforget.training import IGNORED
from fairforget.workflows.curvature import CurvatureSettings, measure_curvature, resolve_scope
from fairforget.workflows.loss_rows import benchmark_rows, drawn, request_row, text_rows

QUESTIONS = [
    ("the nurse has a book . the book is", "red", "long", "man"), ("the dog is at the river . the dog is", "home", "there", "woman"),
    ("the tree is green . it is not", "blue", "green", "man"), ("rain on the hill . the hill is", "good", "young", "woman"),
]
QUICK = CurvatureSettings(vectors=2, probes=2, nodes=2)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """A benchmark of questions in a file."""
    rows = [
        {"id": str(place), "context": context, "options": [first, second], "right": "0", "group": group, "cluster": str(place)}
        for place, (context, first, second, group) in enumerate(QUESTIONS * 2)
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "questions.parquet")
    description = {
        "file": "questions.parquet", "scorer": "choices",
        "columns": {"id": "id", "context": "context", "options": "options", "right": "right", "groups": "group", "cluster": "cluster"},
    }
    (tmp_path / "questions.yaml").write_text(json.dumps(description), encoding="utf-8")
    return str(tmp_path / "questions.yaml")


def step_of(model: Model, size: float = 2e-3) -> tuple[WeightEdit, WeightEdit]:
    """A low-rank and a dense edit of a tiny llama."""
    generator = torch.Generator().manual_seed(3)
    record = EditRecord.for_model(model, "test")
    first, second = (torch.randn(shape, generator=generator) for shape in ((2, 32), (64, 2)))
    dense = size * torch.randn(32, 64, generator=generator)
    return (
        WeightEdit({"model.layers.0.mlp.up_proj.weight": LowRank(first, second, scale=size)}, record),
        WeightEdit({"model.layers.1.mlp.down_proj.weight": Dense(dense)}, record),
    )


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_loss_of_rows_is_what_the_benchmark_scores(questions: str, kind: str) -> None:
    model, benchmark = tiny_model(kind), resolve(questions)
    items = benchmark.items(model.family, "all")
    table = benchmark.measure_items(Scorer(model, store=False), items, "scoring")
    rows = benchmark_rows(benchmark, items, model)
    assert sum(label != IGNORED for row, _ in rows for label in row["labels"]) == table["tokens"].sum()
    loss = row_loss(model, [row for row, _ in rows], CrossEntropy(), groups=[groups for _, groups in rows])
    found = dict(zip(loss.names, loss.average(loss.sums()), strict=True))
    assert found["all"] == pytest.approx(table["nll"].sum() / table["tokens"].sum(), rel=1e-5)
    for group in ("man", "woman"):
        own = table.filter(pl.col("groups").list.contains(group))
        assert found[group] == pytest.approx(own["nll"].sum() / own["tokens"].sum(), rel=1e-5)


def test_a_first_token_without_context_is_no_label() -> None:
    from fairforget.scoring import ContinuationRequest, MaskedRequest

    assert request_row(ContinuationRequest((), (4, 5))) == {"ids": [4, 5], "labels": [IGNORED, 5]}
    assert request_row(ContinuationRequest((1,), (4, 5))) == {"ids": [1, 4, 5], "labels": [IGNORED, 4, 5]}
    assert request_row(MaskedRequest((2, 9, 3), (1,), (7,))) == {"ids": [2, 9, 3], "labels": [IGNORED, 7, IGNORED]}


def test_a_benchmark_without_right_answers_is_refused() -> None:
    model, benchmark = tiny_model("llama"), resolve("starter")
    with pytest.raises(UsageError, match="No item of starter"):
        benchmark_rows(benchmark, benchmark.items("causal", "select")[:3], model)


def test_lines_of_a_file_and_a_draw(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the nurse is late\n\n  a dog by the river\n", encoding="utf-8")
    rows = text_rows(tiny_model("bert"), tmp_path / "text.txt")
    assert len(rows) == 2
    assert rows == text_rows(tiny_model("bert"), tmp_path / "text.txt")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        text_rows(tiny_model("bert"), tmp_path / "empty.txt")
    chosen = drawn(range(100), 40)
    assert len(chosen) == len(set(chosen)) == 40
    assert chosen == sorted(chosen) == drawn(range(100), 40) != drawn(range(100), 40, seed=1)
    assert drawn(range(3), 4) == drawn(range(3), None) == [0, 1, 2]


def test_a_step_from_one_edit_to_another(questions: str, tmp_path: Path) -> None:
    model, benchmark = tiny_model("llama"), resolve(questions)
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    rows = benchmark_rows(benchmark, benchmark.items("causal", "all"), model)
    first, second = step_of(model)
    result = measure_curvature(model, rows, edit=[first, second], start=first, settings=QUICK, out=tmp_path / "out", facts={"part": "all"})
    assert model.edits == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())

    def losses(edits: list[WeightEdit]) -> float:
        for edit in edits:
            edit.attach(model)
        loss = row_loss(model, [row for row, _ in rows], CrossEntropy())
        value = loss.sums()[0] / loss.units
        for edit in edits:
            edit.detach(model)
        return value

    assert result.step is not None
    assert result.attribution is not None
    whole = result.step.groups.row(0, named=True)
    assert whole["loss"] == pytest.approx(losses([first]), abs=1e-5)
    assert whole["measured"] == pytest.approx(losses([first, second]) - losses([first]), abs=1e-5)
    by_layer = result.attribution.by("block").filter(pl.col("group") == "all")
    assert by_layer["place"].to_list() == ["model.layers.0", "model.layers.1"]
    assert by_layer["nats"][0] == 0  # the first edit is on at both ends
    assert by_layer["nats"][1] == pytest.approx(whole["measured"], rel=1e-2)
    assert result.bound is not None
    assert result.bound > abs(whole["slope"])
    for name, table in result.tables().items():
        assert pl.read_parquet(tmp_path / "out" / f"{name}.parquet").equals(table)
    assert set(result.tables()) == {"curvature", "ritz", "directional", "attribution", "completeness"}
    record = json.loads((tmp_path / "out" / "curvature.json").read_text(encoding="utf-8"))
    assert record["part"] == "all"
    assert record["parameters"] == model.parameter_count
    assert first.state_fragment() in record["state"]


def test_scopes_in_words(questions: str) -> None:
    model, benchmark = tiny_model("llama"), resolve(questions)
    assert resolve_scope(model, "all") == "all"
    assert all(".mlp." in name for name in resolve_scope(model, "mlp"))
    assert all(name.startswith("model.layers.1.") for name in resolve_scope(model, "layers:1"))
    assert resolve_scope(model, "*.mlp.*, lm_head.weight") == ["*.mlp.*", "lm_head.weight"]
    with pytest.raises(UsageError, match="scope 'edit'"):
        resolve_scope(model, "edit")
    rows = benchmark_rows(benchmark, benchmark.items("causal", "all"), model)
    first, second = step_of(model)
    inside = measure_curvature(model, rows, edit=first, settings=QUICK.model_copy(update={"scope": "edit"}))
    assert inside.spectrum is not None
    assert inside.spectrum.parameters == 64 * 32
    assert inside.bound is not None
    outside = measure_curvature(model, rows, edit=second, settings=QUICK.model_copy(update={"scope": "layers:0", "nodes": 0}))
    assert outside.bound is outside.attribution is None
    with pytest.raises(UsageError, match="nothing to measure"):
        measure_curvature(model, rows, settings=QUICK.model_copy(update={"vectors": 0}))


def test_the_verb(questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    model.save(tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    from fairforget.models import load

    edit = step_of(load("./llama"))[1]
    edit.save(tmp_path / "edit")
    quick = ("--vectors", "2", "--probes", "2", "--nodes", "2", "--limit", "6")
    assert main(["curvature", "./llama", "--benchmark", questions, "--part", "all", "--edit", "edit", *quick]) == 0
    printed = capsys.readouterr().out
    for words in ("spectral radius", "½ ΔᵀHΔ", "woman", "model.layers.1", "runs/curvature-llama/attribution.parquet", "all parameters"):
        assert words in printed, words
    (tmp_path / "text.txt").write_text("the nurse is late\na dog by the river\n", encoding="utf-8")
    assert main(["curvature", "./llama", "--text", "text.txt", "--product", "finite-difference", "--out", "of-text", *quick]) == 0
    assert (tmp_path / "of-text" / "curvature.parquet").is_file()
    assert not (tmp_path / "of-text" / "directional.parquet").exists()
    assert "finite-difference" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "words"), [
    ((), "--benchmark or a text file"), (("--benchmark", "arc", "--text", "x.txt"), "either a benchmark"),
    (("--benchmark", "arc", "--part", "dev"), "no part named 'dev'"), (("--text", "x.txt", "--strength", "1"), "belong to a step"),
    (("--text", "x.txt", "--product", "forward"), "'product' = 'forward'"), (("--text", "x.txt", "--probes", "1"), "no standard error"),
    (("--benchmark", "arcs"), "no benchmark named 'arcs'"),
])
def test_wrong_options_are_told_before_a_model_is_loaded(
    options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curvature", "./nowhere", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_spectrum_alone_is_printed_alone(questions: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, benchmark = tiny_model("llama"), resolve(questions)
    rows = benchmark_rows(benchmark, benchmark.items("causal", "all")[:2], model)
    print_result(measure_curvature(model, rows, settings=QUICK.model_copy(update={"power_iterations": 2, "scope": "layers:0"})))
    printed = capsys.readouterr().out
    assert "power iteration" in printed
    assert "Loss along the step" not in printed
