"""The verbs study and stress: what they print, and how they end."""

from pathlib import Path

import pytest
from synthetic_study import write_synthetic_study

from fairforget.cli import main

STUDY = """
base: {method: task-vector}
axes:
  way:
    - {name: plain}
    - {name: fast, method: {learning_rate: 1e-2}}
exclude:
  - {way: fast, reason: too fast}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_a_dry_run_lists_the_cells_and_writes_nothing(recipe, tmp_path, capsys):
    assert main(["study", str(recipe), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "plain-seed0" in out
    assert "too fast" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "words"), [
    (["study", "{recipe}", "--backend", "slurm"], "known are processes and ray"),
    (["study", "{recipe}", "runs"], "goes after --out"),
    (["study", "{folder}/missing.yaml"], "cannot be read"),
    (["study", "scaling", "{folder}"], "holds no study"),
    (["stress", "{folder}"], "holds no finished debiasing run"),
    (["stress", "{folder}", "--relearn-steps", "ten"], "write whole numbers"),
    (["stress", "{folder}", "--relearn-rate", "0"], "learning rate lies between"),
])
def test_mistakes_are_sentences_with_code_2(recipe, tmp_path, capsys, arguments, words):
    filled = [argument.format(recipe=recipe, folder=tmp_path) for argument in arguments]
    assert main(filled) == 2
    assert words in capsys.readouterr().err


def test_the_page_of_a_study_is_made_again(tmp_path, capsys):
    folder = write_synthetic_study(tmp_path)
    assert main(["report", str(folder)]) == 0
    assert str(folder / "frontier.html") in capsys.readouterr().out


def test_the_tradeoff_study_lists_its_runs_and_says_what_is_wrong(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("arms: [cda0, cda2]\nsizes: [10]\n", encoding="utf-8")
    assert main(["study", "tradeoff", str(path), "--out", str(tmp_path / "out"), "--dry-run", "--set", "seeds=[7]"]) == 0
    out = capsys.readouterr().out
    assert "cda0-plain-n10-seed7" in out
    assert "2 runs" in out
    assert not (tmp_path / "out").exists()
    for arguments, words in (
        (["study", "tradeoff", str(path), "--set", "seeds=two"], "'seeds' = 'two'"),
        (["study", "tradeoff", str(tmp_path / "missing.yaml")], "cannot be read"),
        (["study", "tradeoff", str(path), "--backend", "slurm"], "known are processes and ray"),
        (["study", str(path), "--set", "seeds=[7]"], "--set goes with"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
