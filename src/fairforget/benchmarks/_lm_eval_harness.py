"""lm-evaluation-harness as a library: its tasks and documents, and a run of chosen documents on a model that is in memory."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairforget.edits.self_debias import active_self_debias
from fairforget.errors import DataError, FairforgetError, UsageError, unknown_name

if TYPE_CHECKING:
    from fairforget.models.model import Model


def harness(module: str) -> Any:
    """A module of lm-eval.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(f"lm_eval.{module}")
    except ImportError as error:
        raise UsageError("This needs lm-eval: pip install 'fairforget[eval]'.") from error


def load_tasks(name: str, include_path: str | None) -> dict[str, Any]:
    """The tasks behind a name: one, or those of a group or tag, by their own names.

    Args:
        name: of a task, group or tag.
        include_path: folder of the user's own YAML files, looked at before those of the harness.

    Raises:
        UsageError: lm-eval is not installed, the folder is not there, or no task has this name.
        DataError: the task's data cannot be loaded.
    """
    tasks = harness("tasks")
    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise UsageError(f"lm-eval:{name}: there is no folder {include_path}: include_path is one of task YAML files.")
    folder = None if include_path is None else str(Path(include_path).expanduser())
    with quiet():
        manager = None if folder is None else tasks.TaskManager(include_path=folder, include_defaults=False)
        if manager is None or name not in manager.all_tasks:
            manager = tasks.TaskManager(include_path=folder)
        if name not in manager.all_tasks:
            raise unknown_name("task of lm-eval", name, manager.all_tasks)
        try:
            # Older versions have the function alone, newer ones warn of it.
            return _leaves(manager.load([name])["tasks"] if hasattr(manager, "load") else tasks.get_task_dict([name], manager))
        except Exception as error:  # whatever a task's own code, the datasets library or the hub raises
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"lm-eval:{name}: the task cannot be loaded ({type(error).__name__}: {first}): its data must be on this machine or the hub "
                "within reach; a task YAML of your own with dataset_path json or csv needs no hub."
            ) from error


def documents(task: Any) -> list[dict[str, Any]]:
    """The documents that a task is measured on, in its order."""
    with quiet():
        return list(task.eval_docs)


def document_texts(task: Any, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Question and options of a document where they are texts, to be looked for in training data."""
    question = task.doc_to_text(document)
    options: Sequence[Any] = task.doc_to_choice(document) if task.get_config("output_type") == "multiple_choice" else ()
    return tuple(text for text in (question, *options) if isinstance(text, str) and text.strip())


def filters(task: Any) -> list[str]:
    """Names of a task's filters, in its order."""
    return [str(found.name) for found in getattr(task, "_filters", None) or []] or ["none"]


def check_model(model: Model, name: str) -> None:
    """Refuse a state that the harness would not see.

    Raises:
        UsageError: a Self-Debias edit is on the model, which changes scores outside of the network.
    """
    if active_self_debias(model) is not None:
        raise UsageError(f"{name}: lm-eval reads the network's own outputs, and Self-Debias works on what comes after them: leave it out.")


def run_tasks(
    model: Model, tasks: Mapping[str, Any], chosen: Mapping[str, Sequence[int]], *, batch_size: int, num_fewshot: int | None,
    chat: bool, seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Run chosen documents of tasks and give the lines that ``--log_samples`` would write.

    Args:
        model: a causal model with its edits attached.
        tasks: as :func:`load_tasks`.
        chosen: numbers of the documents, in order, by task.
        batch_size: requests in a forward.
        num_fewshot: examples before the question; the task's own number when None.
        chat: put prompts into the tokenizer's chat template.
        seed: of the choice of examples.

    Raises:
        FairforgetError: the harness failed.
    """
    evaluator, huggingface = harness("evaluator"), harness("models.huggingface")
    with quiet():
        # The harness gives its tokenizer a padding token, so it has one of its own.
        peer = huggingface.HFLM(
            pretrained=model.hf, tokenizer=copy.deepcopy(model.tokenizer), device=str(model.device), batch_size=batch_size,
            prefix_token_id=model.prefix_id, max_length=model.max_length,
        )
        try:
            for name in chosen:
                _set_examples(tasks[name], num_fewshot, seed)
            # Not simple_evaluate, which seeds every generator of this process and asks the machine for all that is installed on it.
            found = evaluator.evaluate(
                lm=peer, task_dict={name: tasks[name] for name in chosen},
                samples={name: list(numbers) for name, numbers in chosen.items()}, bootstrap_iters=0, log_samples=True,
                apply_chat_template=chat,
            )
        except FairforgetError:
            raise
        except Exception as error:  # tasks run code of their own
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FairforgetError(f"lm-eval failed on {', '.join(chosen)} ({type(error).__name__}: {first}).") from error
    return found["samples"]


def _set_examples(task: Any, wanted: int | None, seed: int) -> None:
    """Examples before a question by the rule of ``simple_evaluate``: a task that says 0 keeps it."""
    own = task.get_config("num_fewshot")
    if own is None or (wanted is not None and own != 0):
        task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=seed)


def _leaves(found: Mapping[Any, Any]) -> dict[str, Any]:
    """Tasks of a tree of groups."""
    leaves: dict[str, Any] = {}
    for name, value in found.items():
        leaves |= _leaves(value) if isinstance(value, Mapping) else {str(name): value}
    return leaves


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep the bars and notes of the harness and of the datasets library from the terminal; errors come out as ours."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
