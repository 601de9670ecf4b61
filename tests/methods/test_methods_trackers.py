"""What a training logs goes to the tracker that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from fairforget import methods
from fairforget.data.training import TrainingText

PAIRS = [TrainingText("the nurse said she is late", ("gender",), "a", "the nurse said he is late")] * 8


@pytest.mark.parametrize("method", [
    lambda **settings: methods.TaskVector(contrast=False, **settings), lambda **settings: methods.Cda(**settings),
])
def test_the_named_tracker_hears_of_every_logged_loss(method: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            heard.extend(value for name, value in (logs or {}).items() if name == "loss")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Tracker)
    common = {"steps": 4, "batch_size": 4, "precision": "float32"}
    method(**common).fit(tiny_model("gpt2"), PAIRS, folder=tmp_path / "none")
    assert not heard
    method(**common, report_to="mlflow").fit(tiny_model("gpt2"), PAIRS, folder=tmp_path / "named")
    assert heard and all(loss > 0 for loss in heard)
