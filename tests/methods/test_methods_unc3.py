"""(U)NC3 as a setting of methods that train: which words, which term, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from fairforget.data.training import TrainingText
from fairforget.errors import UsageError
from fairforget.methods._retain import collapse_terms
from fairforget.methods._trained import TrainedSettings
from fairforget.methods.adept import Adept
from fairforget.methods.ase import Ase
from fairforget.methods.bec import Bec
from fairforget.methods.context_debias import ContextDebias
from fairforget.objectives import Collapse
from fairforget.training.streams import Collator

TEXTS = [
    "the nurse said that he had no time", "she was in the house with his dog", "a man met the young woman at home", "her cat is very old",
    "the doctor would not work by day", "no child was at the river", "the small bird is red", "water and food for the city",
]
ROWS = [TrainingText(text, ("g",), f"c{number}") for number, text in enumerate(TEXTS)]
SETTINGS = {"steps": 3, "batch_size": 8, "learning_rate": 1e-2, "names": False}


def the_term(kind: str = "bert", **settings: object) -> Collapse:
    terms, facts = collapse_terms(TrainedSettings(unc3=7.0, **settings), tiny_model(kind), TEXTS, "forget", 0)  # type: ignore[arg-type]
    (term,) = terms
    assert isinstance(term, Collapse)
    assert facts["unc3"]["classes"] == len(term.words)
    return term


def test_settings_become_the_term() -> None:
    assert collapse_terms(TrainedSettings(), tiny_model("bert"), TEXTS, "forget", 0) == ([], {})
    plain = the_term()
    assert (plain.weight, plain.gradient, plain.reset, plain.pairing, plain.site) == (7.0, "weights", "never", "auto", "pre_decoder")
    released = the_term(unc3_protocol="xu2025", unc3_means="epoch")
    assert (released.reset, released.pairing, released.site) == ("epoch", "next", "encoder_last")
    assert len(released.words) > len(plain.words)  # first pieces
    assert the_term(unc3_means="ema:0.99").reset == 0.99
    for control in ("random:gender", "matched:gender"):
        other = the_term(unc3_words=control)
        assert len(other.words) == 6  # as many as the texts hold of the list
        assert not set(other.words.tolist()) & set(plain.words.tolist())
    with pytest.raises(ValueError, match="unc3_means"):
        TrainedSettings(unc3_means="sometimes")
    assert ContextDebias.collapse_stream == Adept.collapse_stream == "attribute"


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_method_trains_with_it(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    before = {name: parameter.detach().clone() for name, parameter in model.hf.named_parameters()}
    settings = {**SETTINGS, "flip": False, "tuning": "full", "masking_rate": 0.6, "unc3_gradient": "both"}
    rows = [{"ids": [*model.prefix, *model.sequence_ids(text)]} for text in TEXTS]
    batch = Collator(model.pad_id).batch([row | {"labels": row["ids"]} for row in rows])
    term = the_term(kind)
    term.prepare(model)

    def spread(weight: float) -> float:
        method = Bec(**settings, unc3=weight)  # type: ignore[arg-type]
        edit = method.fit(model, ROWS, seed=0, folder=tmp_path / f"{weight}")
        assert all(torch.equal(before[name], parameter) for name, parameter in model.hf.named_parameters())
        assert ("unc3" in edit.record.provenance) == bool(weight)
        edit.attach(model)
        with torch.no_grad():
            found = float(term.sum(model, batch))
        edit.detach(model)
        return found

    assert spread(100.0) != spread(0.0)


def test_a_head_that_is_not_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Collapse reaches no parameter"):
        Bec(**SETTINGS, unc3=1.0).fit(tiny_model("llama"), ROWS, folder=tmp_path / "a")  # type: ignore[arg-type]
    edit = Bec(**SETTINGS, unc3=1.0, unc3_gradient="features").fit(tiny_model("llama"), ROWS, folder=tmp_path / "b")  # type: ignore[arg-type]
    assert edit.record.provenance["unc3"]["stream"] == "forget"
    with pytest.raises(UsageError, match="longer text"):
        Bec(**SETTINGS, unc3=1.0, unc3_words="random:gender").fit(tiny_model("llama"), ROWS[-2:], folder=tmp_path / "c")  # type: ignore[arg-type]


def test_words_that_nothing_calls_for_are_told(tmp_path: Path) -> None:
    """Of ASE only pronouns are masked, so a control of other words is never called for: it ran as the method alone, in silence."""
    model = tiny_model("bert")
    settings = {**SETTINGS, "flip": False, "tuning": "full", "masking_rate": 0.6, "unc3": 7.0}
    own = Bec(**settings).fit(model, ROWS, seed=0, folder=tmp_path / "own").record  # type: ignore[arg-type]
    assert own.provenance["unc3"]["seen"] >= 2  # type: ignore[index, call-overload, operator]
    assert own.warnings == []
    ase = Ase(steps=3, batch_size=8, learning_rate=1e-2, tuning="full", unc3=7.0, unc3_words="random:gender")
    told = ase.fit(model, ROWS, seed=0, folder=tmp_path / "ase").record
    assert told.provenance["unc3"]["seen"] == 0  # type: ignore[index, call-overload]
    assert len(told.warnings) == 1
    assert "unc3 added nothing: 0 of the 6 words of unc3_words=random:gender" in told.warnings[0]
