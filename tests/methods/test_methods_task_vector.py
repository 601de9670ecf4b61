"""The task vector on tiny models: it finds an edit, leaves the model alone, resumes, and refuses what does not go together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.edits import inner_product
from fairforget.errors import UsageError
from fairforget.models.hashing import content_hash
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer

TEXTS = 4 * [
    "the nurse said that she would be late", "the doctor said that he would be late", "the old man has a bad day", "she is a good teacher",
]


def mean_score(model: object, text: str) -> float:
    ids = model.sequence_ids(text)  # type: ignore[attr-defined]
    if model.family == "causal":  # type: ignore[attr-defined]
        request: object = ContinuationRequest(model.prefix, tuple(ids))  # type: ignore[attr-defined]
    else:
        places = tuple(range(1, len(ids) - 1))
        request = MaskedRequest(tuple(ids), places, tuple(ids[place] for place in places))
    return float(np.mean(Scorer(model, store=False).score([request])[0]))  # type: ignore[arg-type, list-item]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_the_edit_lowers_the_likelihood_of_what_was_learnt_and_the_model_is_left_alone(kind: str, tuning: str) -> None:
    model = tiny_model(kind)
    before_hash, before = content_hash(model.hf), mean_score(model, TEXTS[0])
    method = methods.TaskVector(
        tuning=tuning, steps=20, learning_rate=2e-2 if tuning == "lora" else 3e-3, batch_size=8, targets="all-linear", precision="float32"
    )
    edit = method.fit(model, TEXTS)
    assert content_hash(model.hf) == before_hash
    assert not any("lora" in name for name, _ in model.hf.named_modules())
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    assert edit.record.provenance["training"]["steps"] == 20
    with edit.at(-1.0).applied(model):
        learnt = mean_score(model, TEXTS[0])
    with edit.applied(model):
        unlearnt = mean_score(model, TEXTS[0])
    assert learnt > before > unlearnt
    assert mean_score(model, TEXTS[0]) == before


def test_the_same_seed_gives_the_same_edit_and_another_one_another() -> None:
    def fitted(seed: int) -> str:
        method = methods.TaskVector(steps=4, batch_size=4, targets="all-linear", precision="float32")
        return method.fit(tiny_model("llama"), TEXTS, seed=seed).content_hash

    assert fitted(0) == fitted(0) != fitted(1)


def test_a_fit_that_was_interrupted_goes_on_to_the_same_edit(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairforget.training.trainer import ObjectiveTrainer

    method = methods.TaskVector(steps=24, batch_size=4, dropout=0.1, targets="all-linear", precision="float32")
    whole = method.fit(tiny_model("llama"), TEXTS)
    step, calls = ObjectiveTrainer.training_step, 0

    def interrupted(self: ObjectiveTrainer, *arguments: object, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectiveTrainer, "training_step", interrupted)
    model = tiny_model("llama")
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, TEXTS, folder=tmp_path)  # type: ignore[arg-type]
    assert not any("lora" in name for name, _ in model.hf.named_modules())
    resumed = method.fit(model, TEXTS, folder=tmp_path)  # type: ignore[arg-type]
    assert calls - 15 == 24 - 12  # went on from the checkpoint at step 12
    assert resumed.content_hash == whole.content_hash


PAIRS = [
    TrainingText("the nurse said she is late", ("gender",), "a", "the nurse said he is late"),
    TrainingText("the doctor said he is old", ("gender",), "b", "the doctor said she is old"),
] * 4


@pytest.mark.parametrize(("kind", "tuning", "inside"), [
    ("llama", "attention", "self_attn"), ("bert", "mlp", "dense"), ("llama", "layers:1", "layers.1."), ("gpt2", "heads", "attn"),
])
def test_what_a_selector_picks_is_all_that_a_contrasted_vector_changes(kind: str, tuning: str, inside: str) -> None:
    model = tiny_model(kind)
    method = methods.TaskVector(tuning=tuning, selected_share=0.25, steps=4, batch_size=4, learning_rate=1e-2, precision="float32")
    edit = method.fit(model, PAIRS)
    assert edit.record.provenance["selection"]["selector"] == tuning.partition(":")[0] or ":" in tuning
    assert edit.deltas
    assert all(inside in name for name in edit.deltas)
    if tuning == "heads":
        weight = next(delta.delta for name, delta in edit.deltas.items() if name.endswith("c_proj.weight"))
        assert 0 < float((weight != 0).float().mean()) < 1, "one query head of four, not all of them"


@pytest.mark.parametrize("anchor", [{"l2_sp": 30.0}, {"ewc": 1e5, "ewc_rows": 8}])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_anchors_make_the_vector_smaller(anchor: dict[str, float], tuning: str) -> None:
    def size(**settings: float) -> float:
        method = methods.TaskVector(tuning=tuning, steps=12, batch_size=4, learning_rate=5e-3, precision="float32", **settings)
        edit = method.fit(tiny_model("llama"), TEXTS)
        return inner_product(edit, edit) ** 0.5

    assert size(**anchor) < 0.9 * size()


@pytest.mark.parametrize("anchor", [{"l2_sp": 1.0}, {"ewc": 1.0}])
def test_anchors_of_scaling_vectors_are_refused(anchor: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="tuning=ia3"):
        methods.TaskVector(tuning="ia3", **anchor).fit(tiny_model("llama"), TEXTS)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean learning_rate"):
        methods.TaskVector(learning_rat=1e-3)
    with pytest.raises(UsageError, match="no linear module named 'c_attn'"):
        methods.TaskVector(targets=["c_attn"]).fit(tiny_model("llama"), TEXTS)
    with pytest.raises(UsageError, match="empty"):
        methods.TaskVector().fit(tiny_model("llama"), [])
    with pytest.raises(UsageError, match="does not divide"):
        methods.TaskVector(accumulation=3).fit(tiny_model("llama"), TEXTS)
