"""The options of every command that loads a model, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fairforget.cli.terminal import quiet_libraries, say

if TYPE_CHECKING:
    from pathlib import Path

    from fairforget.models import Model


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; None where the user did not say."""

    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps or a torch device. [default: auto]")] = None
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; scores are meant for float32. [default: float32]")] = None
    revision: Annotated[str | None, typer.Option(help="Hub revision: branch, tag or commit.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything that is drawn at random. [default: 0]")] = None
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Quantise on load (bitsandbytes); LoRA methods only.")] = False
    device_map: Annotated[str | None, typer.Option(help="Handed to transformers, e.g. auto, for models larger than one device.")] = None
    prefix: Annotated[
        str | None, typer.Option(help="Token before a causal sequence: auto, bos, eos, none or an id. [default: auto]")
    ] = None
    scoring_dtype: Annotated[
        str | None, typer.Option(help="auto (the weights' own), or bfloat16: faster, close items again in float32. [default: auto]")
    ] = None
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code from the model's hub repository.")] = False

    def given(self) -> dict[str, Any]:
        """What the user said, without the seed: arguments of ``fairforget.load``."""
        return {name: value for name, value in asdict(self).items() if name != "seed" and value not in (None, False)}

    def load(self, ref: str, **defaults: Any) -> Model:
        """Load a model and say so.

        Args:
            ref: as :func:`fairforget.load`.
            **defaults: options of it that hold where the user said nothing.

        Raises:
            FairforgetError: as :func:`fairforget.load`.
        """
        quiet_libraries()
        from transformers import set_seed

        from fairforget.models import load

        say(f"Loading {ref}.")
        set_seed(self.seed or 0)
        return load(ref, **{**defaults, **self.given()})

    def load_edited(self, ref: str, edit: Path | None, strength: float | None) -> tuple[Model, str]:
        """Load a model, put a saved edit on it where one is named, and give both with a name for folders.

        Args:
            ref: as :func:`fairforget.load`.
            edit: folder of the edit.
            strength: of the edit; the one it was saved at by default.

        Raises:
            FairforgetError: as :func:`fairforget.load` and :func:`fairforget.edits.load_edit`.
        """
        model, label = self.load(ref), short_name(ref)
        if edit is None:
            return model, label
        from fairforget.edits import load_edit

        found = load_edit(edit)
        found = found if strength is None else found.at(strength)
        found.attach(model)
        return model, f"{label}-edit-{found.content_hash[:8]}@{found.strength:g}"


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with a parameter ``loading`` the options of :class:`Loading` in its place."""
    hints = get_type_hints(Loading, include_extras=True)
    defaults = Loading()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, name), annotation=hint)
        for name, hint in hints.items()
    ]
    own = [parameter for parameter in inspect.signature(command, eval_str=True).parameters.values() if parameter.name != "loading"]

    def wrapper(**values: Any) -> None:
        loading = Loading(**{name: values.pop(name) for name in hints})
        command(**values, loading=loading)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *options)]
    vars(wrapper)["__signature__"] = inspect.Signature(parameters)
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


def short_name(ref: str | Path) -> str:
    """Name of a model for folders: the last part of a path or hub id, without ``.gguf``."""
    from pathlib import Path

    path = Path(str(ref))
    name = path.resolve().name if path.exists() else path.name
    return name.removesuffix(".gguf") or "model"
