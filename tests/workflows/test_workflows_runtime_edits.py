"""Runtime edits through the workflows: a run leaves the edit and a card that says so, and it loads with its base."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import tiny_model

import fairforget as ff
from fairforget.edits import EditRecord, ProjectionEdit, RuntimeEdit
from fairforget.errors import UsageError
from fairforget.models import load
from fairforget.scoring import ContinuationRequest, Scorer
from fairforget.workflows.debias import _runtime
from fairforget.workflows.push import push


def test_a_run_of_self_debias_leaves_an_edit_and_no_model(tmp_path, own_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    # The page knows nothing of kinds of edits, and its charts take longer than the rest.
    monkeypatch.setattr("fairforget.workflows.debias.write_report", lambda folder: (folder / "report.html").touch())
    base = tmp_path / "base"
    tiny_model("llama").save(base)
    choices = {
        "method": {"name": "self-debias", "domains": ["gender"], "decay": 500.0},
        "benchmarks": ["starter"], "budget": {}, "search": {"strength": 1.0}, "resamples": 200,
    }
    result = ff.debias(base, out=tmp_path / "run", **choices)
    assert result.strength == 1.0
    assert not (tmp_path / "run" / "model").exists()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["runtime"]["kind"] == "self-debias"
    card = (tmp_path / "run" / "edit" / "README.md").read_text()
    said = ("Edit of base", "it works while the model runs", "No edited weights were saved", "SelfDebiasProcessor", "name: fairforget")
    assert [words for words in said if words not in card] == []
    with pytest.raises(UsageError, match="push it with --what edit"):
        push(tmp_path / "run", "owner/name")
    request = ContinuationRequest((5,), (20, 21, 22, 23))
    models = (ff.load(base, edit=tmp_path / "run" / "edit"), load(base))
    edited, plain = (Scorer(model, store=False).score([request])[0] for model in models)
    assert not np.array_equal(edited, plain)
    zero = Scorer(ff.load(base, edit=tmp_path / "run" / "edit", strength=0), store=False).score([request])[0]
    assert np.array_equal(zero, plain)
    monkeypatch.setattr("fairforget.workflows.debias.measure", None)  # a finished run is read, not computed again
    again = ff.debias(base, out=tmp_path / "run", **choices)
    assert isinstance(again.edit, RuntimeEdit)
    assert again.edit.content_hash == result.edit.content_hash


def test_what_the_record_says_of_an_edit_that_could_be_merged_and_of_one_that_could_not() -> None:
    said = {}
    for kind in ("bert", "gpt2"):
        model = tiny_model(kind)
        said[kind] = _runtime(ProjectionEdit(torch.eye(32)[:, :2], EditRecord.for_model(model, "test")), model)
    assert said["bert"] == {"kind": "projection", "description": "takes 2 of 32 directions out of the final hidden states", "reason": ""}
    assert "input embedding" in said["gpt2"]["reason"]
