"""A fit that was stopped goes on to the same edit: methods that keep something of their own beside the Trainer's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from fairforget import methods
from fairforget.data.training import TrainingText
from fairforget.training.trainer import ObjectiveTrainer

NEUTRAL = ["In the city a nurse works by day.", "By the river an engineer has a house.", "At home the teacher has a good friend.",
           "For the people the doctor works at home."]
GENDERED = ["The man said that he has time.", "The woman said that she has a dog.", "His father works at home.", "Her mother is old.",
            "In the house the boy has a book.", "By the river the girl has a friend."]
PAIRS = [TrainingText("the nurse said she is late", ("gender",), "a", "the nurse said he is late"),
         TrainingText("the doctor said he is old", ("gender",), "b", "the doctor said she is old")] * 4
ALIKE = [
    TrainingText(text, (), str(number), partner=partner)
    for number, (text, partner) in enumerate([
        ("A man has a dog.", "The man has a dog."), ("A woman works.", "She works."), ("The boy is at home.", "A boy is at home."),
        ("Rain.", "Rain here."),
    ])
]
Made = tuple[Callable[[], Any], Sequence[Any]]


def cases(folder: Path) -> dict[str, Made]:
    """A method ready for a quick fit, and its data."""
    files = {"neutral": NEUTRAL, "prompts": ["works as a", "is good at"], "words": ["nurse", "doctor"]}
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own: dict[str, Any] = {"steps": 12, "batch_size": 4, "learning_rate": 5e-3, "precision": "float32"}
    neutral, words = {"neutral_text": str(folder / "neutral.txt")}, str(folder / "words.txt")
    harmful = [text.text for text in PAIRS]
    return {
        "context-debias": (lambda: methods.ContextDebias(**own, **neutral), GENDERED),
        "adept": (lambda: methods.Adept(**own, **neutral), GENDERED),
        "ase": (lambda: methods.Ase(**own, **neutral), GENDERED),
        "auto-debias": (lambda: methods.AutoDebias(**own, prompts=str(folder / "prompts.txt")), GENDERED),
        "mabel": (lambda: methods.Mabel(**own), ALIKE),
        "mlm-unlearning": (lambda: methods.MlmUnlearning(**own, lexicon=words), harmful),
        "mlm-unlearning, contrast": (lambda: methods.MlmUnlearning(**own, finder="contrast", share=0.3), harmful),
        "composition": (lambda: methods.Composition(**own, terms=[
            {"method": "gap"}, {"method": "mlm-unlearning", "lexicon": words}, {"method": "dropout"},
        ], ewc=1.0), PAIRS),
    }


@pytest.mark.parametrize("name", [
    "context-debias", "adept", "ase", "auto-debias", "mabel", "mlm-unlearning", "mlm-unlearning, contrast", "composition",
])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_edit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, data = cases(tmp_path)[name]
    whole = make().fit(tiny_model("bert"), data)
    step, seen = ObjectiveTrainer.training_step, list[int]()

    def interrupted(self: ObjectiveTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.args.max_steps == 12:  # not the tuning of a finder
            seen.append(self.state.global_step)
            if len(seen) == 12:
                raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().fit(tiny_model("bert"), data, folder=tmp_path / "work")
    resumed = make().fit(tiny_model("bert"), data, folder=tmp_path / "work")
    assert seen == [*range(12), 10, 11]  # went on from the checkpoint of step 10
    assert resumed.content_hash == whole.content_hash
