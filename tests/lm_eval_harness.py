"""Tasks of lm-eval made by its own code from its own files, on documents of a test."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fairforget.models import Model

Documents = Sequence[dict[str, Any]]


def harness_task(path: str, documents: Documents | Mapping[str, Documents]) -> Any:
    """A task of lm-eval, made by its own code from its own YAML file; documents may be given by task (`blimp` for all of its)."""
    datasets = pytest.importorskip("datasets")
    api, loader = importlib.import_module("lm_eval.api.task"), importlib.import_module("lm_eval.tasks._yaml_loader")
    root = Path(str(importlib.import_module("lm_eval").__file__)).parent / "tasks"
    config = loader.load_yaml(root / path)
    if isinstance(documents, Mapping):
        documents = documents["blimp" if path.startswith("blimp") else config["task"]]
    splits = filter(None, (config.get("test_split"), config.get("validation_split")))
    data = datasets.DatasetDict({split: datasets.Dataset.from_list(list(documents)) for split in splits})
    dropped = ("dataset_path", "dataset_name", "training_split", "fewshot_split", "num_fewshot", "metadata", "tag")
    kept = {key: value for key, value in config.items() if key not in dropped}
    return api.ConfigurableTask(config={**kept, "custom_dataset": lambda **_: data})


def harness_results(task: Any, model: Model) -> list[tuple[list[float], dict[str, float]]]:
    """For each document the log-likelihoods and lm-eval's judgement."""
    wrapper = importlib.import_module("lm_eval.models.huggingface").HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=4)
    results: list[tuple[list[float], dict[str, float]]] = []
    for document in task.eval_docs:
        context = task.fewshot_context(document, 0)
        requests = task.construct_requests(document, context, metadata=("task", 0, 1))
        found = wrapper.loglikelihood(requests if isinstance(requests, list) else [requests], disable_tqdm=True)
        results.append(([float(total) for total, _ in found], task.process_results(document, found)))
    return results


def judged_texts(task: Any, texts: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
    """For each document lm-eval's prompt, without shots, and the judgement of a text by every one of the task's filters."""
    results: list[tuple[str, dict[str, float]]] = []
    for document, text in zip(task.eval_docs, texts, strict=True):
        prompt = task.fewshot_context(document, 0)
        request = task.construct_requests(document, prompt, metadata=("task", 0, 1))
        request = request[0] if isinstance(request, list) else request
        request.resps.append(text)
        task._instances = [request]
        task.apply_filters()
        judged = {name: task.process_results(document, [found])["exact_match"] for name, found in request.filtered_resps.items()}
        results.append((prompt, judged))
    return results
