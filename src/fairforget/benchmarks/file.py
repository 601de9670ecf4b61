"""One's own benchmark without code: a table file, which column is what, and one of the scorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores
from fairforget.benchmarks._file_scorers import SCORERS
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.user_files import HUB_PREFIX, Value, load_user_rows
from fairforget.errors import DataError, UsageError, nearest_names
from fairforget.files import sha256_file
from fairforget.settings import Settings, explain_validation

if TYPE_CHECKING:
    from fairforget.models.model import Model

NEEDED = {"pairs": ("stereotype", "counterpart"), "choices": ("options",), "likelihood": ("text",)}
"""Roles of columns that each scorer must have."""

ALLOWED = {"pairs": (), "choices": ("context", "right"), "likelihood": ("context",)}
COMMON = ("id", "cluster", "stratum", "groups", "part")
PARTS = ("train", "select", "test")
SEVERAL = ("options", "groups")
"""Roles that several columns may have."""


class FileSettings(SubsetSettings):
    """What is in the file, and how it is scored."""

    name: str = ""
    """Name in tables and pages; the file's own when empty."""
    file: str = ""
    """CSV, TSV, JSONL or Parquet file, also gzipped, or `datasets:owner/name`. In a YAML file of its own: relative to that file."""
    scorer: Literal["pairs", "choices", "likelihood"] = "pairs"
    """`pairs` = a stereotype and its counterpart (as crows-pairs), `choices` = options after a context, `likelihood` = perplexity of
    texts."""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict[str, str | tuple[str, ...]])
    """Role to column: `stereotype`, `counterpart`; `context`, `options` (a column of lists, or one column for each), `right`; `text`; and
    for all scorers `id`, `cluster`, `stratum`, `groups` (one or several) and `part`, which says `train` (a stage of a chain may be tuned
    on it), `select` or `test`; without it rows are halved into `select` and `test`."""
    role: Literal["auto", "bias", "ability"] = "auto"
    """`bias` = to be forgotten; of choices the first option is then the stereotype and the second its counterpart. `auto` = `bias` for
    pairs, else `ability`."""
    right: Literal["index", "number", "letter", "text"] = "index"
    """How the column `right` names the right option: counted from 0, counted from 1, as a letter, or by its text."""
    separator: str = " "
    """What stands between context and option or text."""
    blank_groups: bool = False
    """Items without a group are allowed; they count for all items together only."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of the scorer: those of crows-pairs for pairs (`protocol` ...), `normalization`, `prompt_format` and `tie` for choices."""
    split: str = "train"
    """Split of a `datasets` id."""
    config: str | None = None
    """Configuration of a `datasets` id."""
    sha256: str | None = None
    """The file's hash: another file is refused. Filled in when a run begins, so that its record holds it."""
    caution: str = ""
    """Words that stand wherever a figure of it is printed."""


class FileBenchmark(Benchmark):
    """Rows of a file as items of pairs, choices or likelihoods.

    They are halved into ``select`` and ``test`` by the hash of their cluster, or in the parts that a column names. Rows without a cluster
    of their own are one where they share a text, so that the same sentence is not in both halves.
    """

    name = "file"
    description = "Your own benchmark: a table file, which column is what, and a scorer; written as --benchmarks ./mine.yaml."
    Settings: ClassVar[type[Settings]] = FileSettings
    text_setting: ClassVar[str | None] = "name"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        given: FileSettings = self.settings
        if given.file:
            name = given.name or Path(given.file.removeprefix(HUB_PREFIX)).name.partition(".")[0]
            values: dict[str, Any] = {"name": name}
            if given.sha256 is None and not given.file.startswith(HUB_PREFIX):
                values["sha256"] = _hash(Path(given.file).expanduser())
            self.settings = given.model_copy(update=values)
            self.name = f"file:{name}"
        self.caution = given.caution
        self.scorer = self._scorer()
        if given.file:
            _check_columns(self.settings, self.name)

    def items(self, family: str, part: str) -> list[Item]:
        """Rows of one part."""
        del family
        settings: FileSettings = self.settings
        if not settings.file:
            raise UsageError("The benchmark file needs a file: write --benchmarks ./mine.yaml, or settings with file, scorer and columns.")
        path = Path(settings.file).expanduser()
        if settings.sha256 is not None and not settings.file.startswith(HUB_PREFIX) and _hash(path) != settings.sha256:
            raise DataError(f"{path} is not the file that {self.name} was begun with (its sha256 is another): restore it, or start anew.")
        roles = _roles(settings)
        blank = {"context", *(role for role in roles if role.startswith("options.") and role not in ("options.0", "options.1"))}
        blank |= {role for role in roles if role.startswith("groups.")}  # an empty group has a sentence of its own
        rows = load_user_rows(settings.file, roles, may_be_blank=blank, split=settings.split, config=settings.config)
        items = [self._item(row, number) for number, row in enumerate(rows, start=1)]
        ids = [item.id for item in items]
        if len(set(ids)) < len(ids):
            twice = next(name for place, name in enumerate(ids) if name in ids[:place])
            column = settings.columns["id"]
            raise DataError(f"{settings.file}: the id '{twice}' stands in two rows: the column '{column}' must tell rows apart.")
        clusters = [item.cluster for item in items]
        if "cluster" not in settings.columns:
            shared = [{item.payload["context"]} if item.payload.get("context") else set(item.texts) for item in items]
            clusters = [f"row {first + 1}" for first in connected_rows(shared)]
        strata = home_strata(clusters, [item.stratum for item in items])
        parts = [_part(str(row["part"]), path, number) for number, row in enumerate(rows, start=1)] if "part" in roles else None
        if parts is None:
            parts = assign_parts(clusters, strata, SELECT_TEST)
        return [
            Item(item.id, item.task, item.role, part, cluster, stratum, item.groups, item.texts, item.payload)
            for item, cluster, stratum, own in zip(items, clusters, strata, parts, strict=True)
            if part in ("all", own)
        ]

    def check(self, model: Model) -> None:
        """As the scorer does."""
        self.scorer.check(model)

    def identity(self, item: Item, model: Model) -> dict[str, Any]:
        """As the scorer does, under this name."""
        return self.scorer.identity(item, model)

    def plan(self, item: Item, model: Model) -> Plan:
        """The scorer's requests."""
        return self.scorer.plan(item, model)

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """The scorer's figures."""
        return self.scorer.row(item, scores, model)

    def protocol(self, item: Item, family: str) -> str:
        """The scorer's."""
        return self.scorer.protocol(item, family)

    def metrics(self) -> list[MetricDefinition]:
        """The scorer's; of choices those that the role has."""
        role = self._role()
        known = [metric for metric in self.scorer.metrics() if role == "bias" or metric.better != "neutral"]
        if self.settings.scorer == "choices" and "right" not in self.settings.columns:
            known = [metric for metric in known if metric.better == "neutral"]
        return known

    def _scorer(self) -> Benchmark:
        settings: FileSettings = self.settings
        kind = SCORERS[settings.scorer]
        where = f"{self.name}, options of the scorer {settings.scorer}"
        own = sorted(set(settings.options) & set(SubsetSettings.model_fields))
        if own:
            raise UsageError(f"{where}: '{own[0]}' is a setting of the benchmark itself: write it beside the scorer.")
        try:
            scorer = kind(kind.Settings.model_validate(settings.options))
        except ValidationError as error:
            raise explain_validation(error, kind.Settings, where) from error
        scorer.name = self.name
        return scorer

    def _role(self) -> Literal["bias", "ability"]:
        settings: FileSettings = self.settings
        if settings.role != "auto":
            return settings.role
        return "bias" if settings.scorer == "pairs" else "ability"

    def _item(self, row: Mapping[str, Value], number: int) -> Item:
        settings: FileSettings = self.settings
        where = f"{settings.file} row {number}"
        payload: dict[str, Any] = {"separator": settings.separator}
        if settings.scorer == "pairs":
            texts = tuple(_text(row[role], role, where) for role in NEEDED["pairs"])
        elif settings.scorer == "likelihood":
            texts = (_text(row["text"], "text", where),)
        else:
            texts = _options(row, where)
            payload["right"] = _right(str(row["right"]), texts, settings.right, where) if "right" in row else None
        if settings.scorer != "pairs":
            payload["context"] = _text(row.get("context", ""), "context", where)
        key = str(row.get("id", number))
        return Item(
            key, settings.name, self._role(), "all", str(row.get("cluster", key)), str(row.get("stratum", "all")),
            self._groups(row, where), texts, payload,
        )

    def _groups(self, row: Mapping[str, Value], where: str) -> tuple[str, ...]:
        found: list[str] = []
        for role in (role for role in row if role.startswith("groups.")):
            cell = row[role]
            names = [name.strip() for name in ([cell] if isinstance(cell, str) else cell) if name.strip()]
            if not names and not self.settings.blank_groups:
                raise DataError(f"{where} has an empty group: fill it in, or set blank_groups to true if such items count without one.")
            found += names
        return tuple(dict.fromkeys(found))


def _part(value: str, path: Path, number: int) -> str:
    if value not in PARTS:
        raise DataError(f"{path} row {number}: the part is '{value}'; known are {', '.join(PARTS)}.")
    return value


def read_description(path: Path) -> dict[str, Any]:
    """Settings of a :class:`FileBenchmark` from a YAML file; its data file is looked for beside it.

    Raises:
        UsageError: the YAML file is missing, is not YAML, or holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The benchmark file {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: this is not YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(values, dict) or not isinstance(values.get("file"), str):
        raise UsageError(f"{path} describes no benchmark: it must name its file, a scorer ({', '.join(SCORERS)}) and columns.")
    file: str = values["file"]
    beside = file if file.startswith(HUB_PREFIX) else str(path.parent / Path(file).expanduser())
    return {"name": path.stem, **values, "file": beside}


def _hash(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    return sha256_file(path)


def _check_columns(settings: FileSettings, name: str) -> None:
    where = f"{name}, columns"
    known = (*NEEDED[settings.scorer], *ALLOWED[settings.scorer], *COMMON)
    for role, column in settings.columns.items():
        if role not in known:
            raise UsageError(f"{where}: the scorer {settings.scorer} has no use for '{role}': {nearest_names(role, known)}")
        if not isinstance(column, str) and role not in SEVERAL:
            raise UsageError(f"{where}: '{role}' is one column, not several.")
    for role in NEEDED[settings.scorer]:
        if role not in settings.columns:
            raise UsageError(f"{where}: the scorer {settings.scorer} needs '{role}': write {role}: COLUMN.")
    if settings.scorer == "pairs" and settings.role == "ability":
        raise UsageError(f"{name}: pairs are a stereotype and its counterpart; for right and wrong ones use choices without a context.")
    if settings.scorer == "choices" and settings.role != "bias" and "right" not in settings.columns:
        raise UsageError(f"{where}: choices need 'right', the column of the right option, unless their role is bias.")


def _roles(settings: FileSettings) -> dict[str, str]:
    """Role to column, with one numbered role for each column where a role has several."""
    roles: dict[str, str] = {}
    for role, column in settings.columns.items():
        if role == "groups":
            column = (column,) if isinstance(column, str) else column
        if isinstance(column, str):
            roles[role] = column
        else:
            roles |= {f"{role}.{number}": name for number, name in enumerate(column)}
    return roles


def _text(value: Value, role: str, where: str) -> str:
    if isinstance(value, str):
        return value
    raise DataError(f"{where} holds a list where '{role}' must be a text.")


def _options(row: Mapping[str, Value], where: str) -> tuple[str, ...]:
    if "options" in row:
        found = row["options"]
        if isinstance(found, str):
            raise DataError(f"{where}: 'options' is a text and not a list of texts: name one column for each option.")
    else:
        texts = [_text(value, role, where) for role, value in row.items() if role.startswith("options.")]
        found = tuple(text for text in texts if text.strip())
    if len(found) < 2:
        raise DataError(f"{where} has fewer than two options.")
    return tuple(found)


def _right(text: str, options: Sequence[str], form: str, where: str) -> int:
    """Place of the right option."""
    text = text.strip()
    if form == "text":
        places = [place for place, option in enumerate(options) if option.strip() == text]
        if len(places) == 1:
            return places[0]
        raise DataError(f"{where}: the right text is {'no' if not places else 'more than one'} option's.")
    if form == "letter":
        place = ord(text.upper()) - ord("A") if len(text) == 1 else -1
    else:
        place = int(text) - (form == "number") if text.isdecimal() else -1
    if not 0 <= place < len(options):
        last = {"index": str(len(options) - 1), "number": str(len(options)), "letter": chr(ord("A") + len(options) - 1)}[form]
        first = {"index": "0", "number": "1", "letter": "A"}[form]
        raise DataError(f"{where}: 'right' is none of {first} to {last}; the setting 'right' says how options are named (now: {form}).")
    return place
