"""The edit of stereotype associations on tiny models that were taught some: pairs come out equal, the base is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.edits import Dense, LowRank, WeightEdit
from fairforget.errors import UsageError
from fairforget.methods import association_edit
from fairforget.methods._associations import find_associations, gather_sides
from fairforget.methods._blocks import find_blocks
from fairforget.methods._linear_memory import shrunk
from fairforget.methods._values import ValueSearch, find_keys, find_values, second_moments
from fairforget.models import Model
from fairforget.models.hashing import content_hash
from fairforget.objectives import CrossEntropy
from fairforget.training import TextStream
from fairforget.training.streams import Collator

SUBJECTS = {"nurse": "she", "teacher": "she", "doctor": "he", "engineer": "he"}
OTHER = {"she": "he", "he": "she"}
TEXTS = [(f"the {who} said that {word} is {what}", f"the {who} said that {OTHER[word]} is {what}")
         for who, word in SUBJECTS.items() for what in ("good", "old")]
DATA = [TrainingText(text, ("gender",), text, other) for text, other in TEXTS]
NEUTRAL = ["the sun and the river", "a small house by the hill", "the dog had food and water", "a long day in the city", "a red bird"]


def taught(kind: str) -> Model:
    """A tiny model that was trained until it holds the associations of SUBJECTS."""
    model = tiny_model(kind)
    stream = TextStream(model, [text for text, _ in TEXTS] + NEUTRAL, masking_rate=0.3)
    optimizer = torch.optim.AdamW(model.hf.parameters(), lr=3e-3)
    loss = CrossEntropy()
    sides = gather_sides(model, find_associations(model, TEXTS, kinds=("context",)))
    for visit in range(25):
        batch = Collator(model.pad_id).batch([stream.example(index, visit) for index in range(len(stream))])
        optimizer.zero_grad()
        (loss.sum(model, batch) / loss.count(batch) - sides.scores(model)[0::2].mean()).backward()
        optimizer.step()
    model.hf.zero_grad(set_to_none=True)
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, WeightEdit, str, Path]:
    neutral = tmp_path_factory.mktemp("neutral") / "neutral.txt"
    neutral.write_text("\n".join(3 * NEUTRAL), encoding="utf-8")
    model = taught(request.param)
    before = content_hash(model.hf)
    method = methods.AssociationEdit(layers="0-1", pairs=8, value_steps=15, retain_text=str(neutral), contexts=1, masked_places=1)
    return model, method.fit(model, DATA, seed=0), before, neutral


def margins(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return gather_sides(model, find_associations(model, TEXTS, kinds=("context",))).margins(model)


def test_the_margin_of_the_stereotypes_shrinks_and_the_base_stays(fitted: tuple[Model, WeightEdit, str, Path]) -> None:
    model, edit, before_hash, _ = fitted
    before = margins(model)
    assert before.mean() > 1  # the model was taught to prefer the stereotype
    with edit.applied(model):
        after = margins(model)
    with edit.at(0).applied(model):
        assert torch.equal(margins(model), before)
    with edit.at(0.5).applied(model):
        half = margins(model)
    assert after.abs().mean() < 0.5 * before.abs().mean()
    assert after.mean() < half.mean() < before.mean()
    assert content_hash(model.hf) == before_hash
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())
    assert not model.edits


def test_the_record_says_where_how_far_and_at_what_cost(fitted: tuple[Model, WeightEdit, str, Path]) -> None:
    model, edit, _, _ = fitted
    facts: dict[str, Any] = edit.record.provenance
    assert facts["layers"] == [0, 1]
    assert [layer["layer"] for layer in facts["edited"]] == [0, 1]
    assert facts["margins"]["edited"]["absolute_after"] < 0.7 * facts["margins"]["edited"]["absolute_before"]
    assert facts["margins"]["held_out"] == {"associations": 0}
    assert facts["locality"]["texts"] == 3  # a fifth of 15
    assert facts["locality"]["kl"] < facts["margins"]["edited"]["absolute_before"]
    assert facts["second_moment"]["texts"] == 12
    memories = [block.down(32) for block in find_blocks(model)]
    assert list(edit.deltas) == [f"{memory.name}.weight" for memory in memories]
    for memory, layer, delta in zip(memories, facts["edited"], edit.deltas.values(), strict=True):
        smaller = layer["keys"] * (memory.axes.inputs + memory.axes.outputs) <= memory.axes.inputs * memory.axes.outputs
        assert isinstance(delta, LowRank if smaller else Dense)  # a row per key, where that is smaller than the matrix


def test_the_same_seed_gives_the_same_edit(fitted: tuple[Model, WeightEdit, str, Path]) -> None:
    model, _, _, neutral = fitted

    def once(seed: int, **values: object) -> str:
        method = methods.AssociationEdit(**{
            "layers": "1", "pairs": 3, "value_steps": 2, "retain_text": str(neutral), "contexts": 1, "masked_places": 1, **values,
        })
        return method.fit(model, DATA, seed=seed).content_hash

    assert once(0) == once(0) != once(1)
    assert once(0) != once(0, reading="context")


def test_values_reach_the_wanted_margin_at_their_sites_and_keys_get_them_exactly() -> None:
    model = taught("gpt2")
    memory = find_blocks(model)[1].down(32)
    found = find_associations(model, [TEXTS[0], TEXTS[4]], kinds=("context",))
    search = ValueSearch(steps=40, learning_rate=0.3, kl_weight=0.0, norm_penalty=0.0, clamp=8.0)
    values = find_values(model, found, memory, search, 0.5)
    assert values.owner.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(values.after, values.before / 2, atol=0.1, rtol=0)
    keys = find_keys(model, found, memory, [])
    (moment,), _ = second_moments(model, TextStream(model, NEUTRAL), [memory])
    delta = association_edit.exact_update(keys, values.residuals, shrunk(moment, 0.05))
    record = association_edit.EditRecord.for_model(model, "test")
    with WeightEdit({f"{memory.name}.weight": delta}, record).applied(model):  # contexts and texts end at the same keys
        torch.testing.assert_close(gather_sides(model, found).margins(model), values.after, atol=2e-2, rtol=1e-2)


def test_layers_that_are_done_are_taken_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, find = tiny_model("llama"), association_edit.find_values
    method = methods.AssociationEdit(layers="0-1", pairs=3, value_steps=2)
    whole = method.fit(model, DATA)
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return find(*arguments)

    monkeypatch.setattr(association_edit, "find_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, DATA, folder=tmp_path)
    assert not model.edits
    resumed = method.fit(model, DATA, folder=tmp_path)
    assert len(calls) == 3  # one batch of the second layer; the first came from the folder
    assert resumed.content_hash == whole.content_hash


def test_what_cannot_be_edited_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="counterpart"):
        methods.AssociationEdit().fit(model, ["a text alone"])
    with pytest.raises(UsageError, match="layers 0 to 1"):
        methods.AssociationEdit(layers="2-3").fit(model, DATA)
    with pytest.raises(UsageError, match="layers"):
        methods.AssociationEdit(layers="first")
    with pytest.raises(UsageError, match="use constraint=least-squares"):
        methods.AssociationEdit(layers="0", constraint="exact", value_steps=1, contexts=0, reading="context").fit(model, DATA)


def test_layers_are_chosen_by_tracing_and_the_edit_can_be_saved(tmp_path: Path) -> None:
    model = tiny_model("roberta")
    edit = methods.AssociationEdit(spread=1, pairs=3, value_steps=2).fit(model, DATA)
    facts: dict[str, Any] = edit.record.provenance
    assert len(facts["layers"]) == 1
    assert [row["layer"] for row in facts["tracing"]] == [0, 1]
    assert facts["margins"]["held_out"]["associations"] > 0
    assert all(isinstance(delta, LowRank) for delta in edit.deltas.values())
    edit.save(tmp_path)
    assert WeightEdit.load(tmp_path).content_hash == edit.content_hash
