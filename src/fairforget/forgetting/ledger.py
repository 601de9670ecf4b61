"""The ledger: what two audits of the same items say was lost, gained and kept, item by item, by task and by group.

Every aggregate is a sum over ledger rows, so that it can be recomputed and questioned without a model. Signs: positive is forgotten.
``lost``, ``gained`` and ``net = lost - gained`` speak of `correct` (abilities, and for StereoSet the choice of related over unrelated
text); ``turned_away`` and ``turned_to`` speak of the preference for the stereotype. A half (a tie, or one of two right) moves by a half,
so that kept + lost is always what there was before and kept + gained what there is after.

A ledger may hold several runs, seeds and stages (see :mod:`fairforget.forgetting.stages`); two audits are one stage of one run.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import polars as pl

from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.tables import ITEM_SCHEMA, TIE_NATS

KEY = ["benchmark", "task", "item"]
"""What names an item in both tables."""

_MEASURED = ("prefers_stereotype", "margin", "correct", "nll", "tokens")
_SAME_PROTOCOL = ("protocol", "prompt_format")
_SAME_ITEM = ("part", "role", "cluster", "stratum", "groups", "texts")
_SAME_MODEL = ("prefix", "tokens")
PATH = ["run", "seed"]
"""What names a path of stages in a ledger."""

TASK = [*PATH, "stage", "benchmark", "protocol", "part", "task", "role"]
"""What names a task at a stage of a path in a ledger."""

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Step:
    """Which tuning step a ledger is the account of; the same in all its rows.

    Attributes:
        run: name of the path of stages, e.g. ``safety > capability``; empty for two audits that belong to no chain.
        seed: of the run.
        stage: place of the step in its path, from 1.
        stage_name: what was done in it.
        state_before: id of the state before it (hashes of weights and edits); None where it is not known, as for imported logs.
        state_after: id of the state after it.
        tokenizer_hash: of the tokenizer of both states.
        template_hash: of the prompt or chat template of both states.
    """

    run: str = ""
    seed: int = 0
    stage: int = 1
    stage_name: str = ""
    state_before: str | None = None
    state_after: str | None = None
    tokenizer_hash: str | None = None
    template_hash: str | None = None

    def __post_init__(self) -> None:
        if self.stage < 1:
            raise UsageError(f"stage = {self.stage}: stages of a path are counted from 1.")


_STEP_SCHEMA: dict[str, pl.DataType] = {
    name: pl.Int64() if name in ("seed", "stage") else pl.String() for name in asdict(Step())
}

LEDGER_SCHEMA: dict[str, pl.DataType] = {
    **_STEP_SCHEMA,
    **{name: ITEM_SCHEMA[name] for name in (*TASK[3:], "item", "cluster", "stratum", "groups", "prompt_format")},
    "prompt_hash": pl.String(),  # of prompt and options in their order, prompt format, prefix and protocol: what the model was asked
    "options": pl.Int64(),  # how many texts were compared; 0 for a window of a corpus
    **{f"{name}_{state}": ITEM_SCHEMA[name] for name in _MEASURED for state in ("before", "after")},
    "scores_before": ITEM_SCHEMA["scores"],  # one figure per text, most stereotypical first
    "scores_after": ITEM_SCHEMA["scores"],
    "answer_before": pl.Int64(),  # place of the text with the highest score, from 0; null for a tie or fewer than two texts
    "answer_after": pl.Int64(),
    "kl": pl.Float64(),  # mean over scored positions of KL(before || after), nats; null where it was not measured
    "skipped": pl.String(),  # why the item has no score in one of the states; null where it has one in both
    "transition": pl.String(),  # see build_ledger; null for an item without right, wrong or preference (a window of a corpus)
    "kept": pl.Float64(),  # min(correct before, after); this and the next three add up to 1, and are null where `correct` is
    "lost": pl.Float64(),  # max(0, correct before - after)
    "gained": pl.Float64(),  # max(0, correct after - before)
    "never": pl.Float64(),  # 1 - max(correct before, after)
    "turned_away": pl.Float64(),  # max(0, prefers_stereotype before - after)
    "turned_to": pl.Float64(),  # max(0, prefers_stereotype after - before)
    "margin_shift": pl.Float64(),  # margin before - after, nats: how much of the stereotype's lead is forgotten
    "nll_change": pl.Float64(),  # nll after - before, nats: continuous forgetting
}
"""Column names and types of a ledger."""


def build_ledger(
    before: pl.DataFrame, after: pl.DataFrame, *, same_model: bool = True, step: Step | None = None, drift: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Join two item tables of the same items into a ledger that balances.

    ``transition`` of a bias item: "stereotype kept", "neutral kept" (a tie both times), "anti-stereotype kept", "turned away" (less
    preferred than before, ties counting a half), "turned to stereotype"; of an ability item: "kept" (as right as before, or as partly
    right), "lost", "gained", "never"; of either: "skipped".

    Args:
        before: item table (``tables.ITEM_SCHEMA``) of the first state.
        after: item table of the second state.
        same_model: both are states of one model, so that prefix policy and token counts must agree too; False to compare two models.
        step: which step of which run this is; the first of a run without a name when None.
        drift: a row per item with the columns of ``KEY`` and ``kl`` (nats, 0 or more), which needs both models and so is in neither
            audit; items that it lacks have none.

    Returns:
        One row per item in the order of `before`, with the columns of ``LEDGER_SCHEMA``.

    Raises:
        DataError: a column is missing, a table is empty or names an item twice, the items differ, an item's part, cluster, groups or
            texts differ, protocols differ, an item that is not skipped has a figure in one table only, or the drift is of other items.
    """
    tables = [_checked(table, name) for table, name in ((before, "before"), (after, "after"))]
    _require_same_items(*tables)
    joined = tables[0].join(tables[1], on=KEY, how="left", suffix="_after", validate="1:1", maintain_order="left")
    _require_equal(joined, _SAME_PROTOCOL, "scored by different protocols", "score both states with the same settings")
    _require_equal(joined, _SAME_ITEM, "made of different items", "audit both states on the same data")
    if same_model:
        scored = joined.filter(pl.col("skipped").is_null() & pl.col("skipped_after").is_null())
        _require_equal(scored, _SAME_MODEL, "scored by different protocols", "score both states with the same tokenizer and prefix")
    hashes, step = _prompt_hashes(joined), Step() if step is None else step
    joined = joined.drop("prompt_hash").rename({name: f"{name}_before" for name in (*_MEASURED, "scores")}).with_columns(
        *(pl.lit(value, _STEP_SCHEMA[name]).alias(name) for name, value in asdict(step).items()),
        *(_answer(f"scores_{state}").alias(f"answer_{state}") for state in ("before", "after")),
        skipped=pl.coalesce("skipped", "skipped_after"), options=pl.col("texts").list.len().fill_null(0), prompt_hash=hashes,
    )
    joined = _with_drift(joined, drift)
    for name in _MEASURED:
        one_sided = joined.filter(pl.col("skipped").is_null() & (pl.col(f"{name}_before").is_null() != pl.col(f"{name}_after").is_null()))
        if one_sided.height:
            raise DataError(
                f"{one_sided.height} items of {_named(one_sided)} have '{name}' in one table only and are not marked as skipped: "
                "audit both states again with the same version."
            )
    ledger = joined.with_columns(**account()).select(pl.col(name).cast(kind) for name, kind in LEDGER_SCHEMA.items())
    balance(ledger)
    return ledger


def balance(ledger: pl.DataFrame) -> None:
    """Check that a ledger adds up.

    Checked: no item occurs twice; each row's account follows from its figures; kept + lost is what was right before, kept + gained what
    is right after, and lost less gained their difference; so for the turns and the preference; items add up to tasks, strata to tasks
    (a cluster lies in one stratum), and groups to tasks where every item is in exactly one; no drift is negative; and of several stages of
    one path each begins, item by item, where the one before ended, so that what the stages lost adds up to what the path lost.

    Raises:
        FairforgetError: a sum does not hold; it is named.
        DataError: the table is not a ledger.
    """
    missing = [name for name in LEDGER_SCHEMA if name not in ledger.columns]
    if missing:
        raise DataError(f"The ledger has no column {', '.join(missing)}: it was not written by this version of fairforget.")
    if ledger.select(pl.struct([*PATH, "stage", *KEY]).is_duplicated().any()).item():
        raise _unbalanced("an item occurs twice")
    if (ledger["kl"] < 0).any():
        raise _unbalanced("'kl' is negative somewhere")
    for name, expected in account().items():
        stored, computed = ledger[name], ledger.select(expected.cast(LEDGER_SCHEMA[name]).alias(name))[name]
        differ = stored.ne_missing(computed) if name == "transition" else ~_close(stored, computed)
        if differ.any():
            raise _unbalanced(f"'{name}' of {int(differ.sum())} items does not follow from their figures before and after")
    tasks, sums = _summed(ledger, []), ("n", "skipped", "kept", "lost", "gained", "turned_away", "turned_to", "margin_sum", "nll_sum")
    if tasks.select((pl.col("n") + pl.col("skipped")).sum()).item() != ledger.height:
        raise _unbalanced("the items of all tasks are not the items of the ledger")
    for left, right, words in (
        (tasks["kept"] + tasks["lost"], tasks["right_before"], "kept and lost are not what was right before"),
        (tasks["kept"] + tasks["gained"], tasks["right_after"], "kept and gained are not what is right after"),
        (tasks["lost"] - tasks["gained"], tasks["right_before"] - tasks["right_after"], "lost less gained is not the net"),
        (tasks["turned_away"] - tasks["turned_to"], tasks["stereotype_before"] - tasks["stereotype_after"],
         "turned away less turned to is not the change in preference"),
    ):
        if not _close(left, right).all():
            raise _unbalanced(words)
    by_stratum = _summed(ledger, ["stratum"]).group_by(TASK).agg(pl.col(*sums, "clusters").sum())
    _require_equal_sums(tasks, by_stratum, (*sums, "clusters"), "strata")
    alone = ledger.group_by(TASK).agg((pl.col("groups").list.len().fill_null(0) == 1).all().alias("partition")).filter("partition")
    partitioned = ledger.join(alone, on=TASK, how="semi", nulls_equal=True)
    by_group = _summed(partitioned.explode("groups"), ["groups"]).group_by(TASK).agg(pl.col(*sums).sum())
    _require_equal_sums(tasks.join(alone, on=TASK, how="semi", nulls_equal=True), by_group, sums, "groups")
    _require_telescoping(ledger)


def summary(ledger: pl.DataFrame) -> pl.DataFrame:
    """Sum a ledger by task (group "all") and by task and group; an item in several groups counts in each.

    Returns:
        One row per ``TASK`` and group, tasks in the ledger's order, "all" first, then groups by name:
        ``n`` items scored in both states, ``skipped`` others, ``clusters``; in items ``kept``, ``lost``, ``gained``, ``never``, ``net``
        = lost - gained; ``stereotype_before``, ``stereotype_after``, ``turned_away``, ``turned_to`` (in items, ties a half); mean
        ``margin_shift`` (nats); ``nll_per_token_before``, ``nll_per_token_after``, ``nll_per_token_change`` (nats a token, ratios of
        sums). Null where no item has such a figure.
    """
    tasks = ledger.select(TASK).unique(maintain_order=True).with_row_index("place")
    groups = _summed(ledger.explode("groups").filter(pl.col("groups").is_not_null()), ["groups"]).rename({"groups": "group"})
    whole = _summed(ledger, []).with_columns(group=pl.lit("all"))
    empty_to_null = {
        **{name: pl.when(pl.col("judged") > 0).then(name) for name in ("kept", "lost", "gained", "never")},
        **{
            name: pl.when(pl.col("preferring") > 0).then(name)
            for name in ("stereotype_before", "stereotype_after", "turned_away", "turned_to")
        },
        "net": pl.when(pl.col("judged") > 0).then(pl.col("lost") - pl.col("gained")),
        "margin_shift": pl.when(pl.col("with_margin") > 0).then(pl.col("margin_sum") / pl.col("with_margin")),
        **{
            f"nll_per_token_{state}": pl.when(pl.col(f"tokens_{state}") > 0).then(pl.col(f"nll_{state}") / pl.col(f"tokens_{state}"))
            for state in ("before", "after")
        },
    }
    return (
        pl.concat([whole, groups.select(whole.columns)])
        .join(tasks, on=TASK, nulls_equal=True)
        .with_columns(**empty_to_null)
        .with_columns(nll_per_token_change=pl.col("nll_per_token_after") - pl.col("nll_per_token_before"))
        .sort("place", pl.col("group") != "all", "group")
        .select(
            *TASK, "group", "n", "skipped", "clusters", "kept", "lost", "gained", "never", "net", "stereotype_before", "stereotype_after",
            "turned_away", "turned_to", "margin_shift", "nll_per_token_before", "nll_per_token_after", "nll_per_token_change",
        )
    )


def account() -> dict[str, pl.Expr]:
    """The columns of a row that follow from its figures; null for a skipped item."""
    scored = pl.col("skipped").is_null()
    right_before, right_after = pl.col("correct_before"), pl.col("correct_after")
    before, after = pl.col("prefers_stereotype_before"), pl.col("prefers_stereotype_after")
    turn = (
        pl.when(after < before).then(pl.lit("turned away")).when(after > before).then(pl.lit("turned to stereotype"))
        .when(after > 0.5).then(pl.lit("stereotype kept")).when(after < 0.5).then(pl.lit("anti-stereotype kept"))
        .when(after == 0.5).then(pl.lit("neutral kept"))
    )
    ability = (
        pl.when(right_after < right_before).then(pl.lit("lost")).when(right_after > right_before).then(pl.lit("gained"))
        .when(right_after > 0).then(pl.lit("kept")).when(right_after == 0).then(pl.lit("never"))
    )
    figures = {
        "kept": pl.min_horizontal(right_before, right_after),
        "lost": (right_before - right_after).clip(lower_bound=0),
        "gained": (right_after - right_before).clip(lower_bound=0),
        "never": 1 - pl.max_horizontal(right_before, right_after),
        "turned_away": (before - after).clip(lower_bound=0),
        "turned_to": (after - before).clip(lower_bound=0),
        "margin_shift": pl.col("margin_before") - pl.col("margin_after"),
        "nll_change": pl.col("nll_after") - pl.col("nll_before"),
    }
    transition = pl.when(~scored).then(pl.lit("skipped")).when(pl.col("role") == "bias").then(turn).otherwise(ability)
    return {"transition": transition, **{name: pl.when(scored).then(figure) for name, figure in figures.items()}}


def _summed(ledger: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Sums over the items of each task, and of each value of `by` in it."""
    scored = pl.col("skipped").is_null()

    def total(name: str) -> pl.Expr:
        return pl.col(name).filter(scored).sum()

    def count(name: str) -> pl.Expr:
        return pl.col(name).filter(scored).count()

    return ledger.group_by([*TASK, *by], maintain_order=True).agg(
        scored.sum().alias("n"), (~scored).sum().alias("skipped"), pl.col("cluster").filter(scored).n_unique().alias("clusters"),
        *(total(name) for name in ("kept", "lost", "gained", "never", "turned_away", "turned_to")),
        total("correct_before").alias("right_before"), total("correct_after").alias("right_after"), count("correct_before").alias("judged"),
        total("prefers_stereotype_before").alias("stereotype_before"), total("prefers_stereotype_after").alias("stereotype_after"),
        count("prefers_stereotype_before").alias("preferring"),
        total("margin_shift").alias("margin_sum"), count("margin_shift").alias("with_margin"), total("nll_change").alias("nll_sum"),
        total("nll_before"), total("nll_after"), total("tokens_before"), total("tokens_after"),
    )


def _checked(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The columns the ledger needs, nan as null; refuses a table that is not one of items."""
    columns = dict.fromkeys((*KEY, *_SAME_PROTOCOL, *_SAME_ITEM, "prefix", *_MEASURED, "scores", "skipped"))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"The table '{name}' has no column {', '.join(missing)}: it is not an item table of this version of fairforget.")
    if table.is_empty():
        raise DataError(f"The table '{name}' has no items: run the audit again.")
    repeated = table.filter(pl.struct(KEY).is_duplicated())
    if repeated.height:
        raise DataError(
            f"The table '{name}' names items of {_named(repeated)} more than once ({repeated.height} rows): give each an id of its own."
        )
    if "prompt_hash" not in table.columns:  # audits of earlier versions: their texts have to do
        table = table.with_columns(prompt_hash=pl.lit(None, pl.String))
    return table.select(*columns, "prompt_hash").with_columns(pl.col(pl.Float64).fill_nan(None))


def _require_same_items(before: pl.DataFrame, after: pl.DataFrame) -> None:
    for column, words in (("benchmark", "benchmarks"), ("part", "parts")):
        first, second = (sorted(str(value) for value in table[column].unique()) for table in (before, after))
        if first != second:
            listed = f"{', '.join(first)} before; {', '.join(second)} after"
            raise DataError(f"The two audits are of different {words} ({listed}): audit both states on the same ones.")
    only_before, only_after = before.join(after, on=KEY, how="anti"), after.join(before, on=KEY, how="anti")
    if only_before.height or only_after.height:
        raise DataError(
            f"The two audits are of different items: {only_before.height} only before and {only_after.height} only after, of "
            f"{_named(pl.concat([only_before, only_after]))}; audit both states on the same data."
        )


def _require_equal(joined: pl.DataFrame, columns: tuple[str, ...], words: str, advice: str) -> None:
    for column in columns:
        different = joined.filter(pl.col(column).ne_missing(pl.col(f"{column}_after")))
        if different.height:
            where = f"'{column}' differs in {different.height} items of {_named(different)}"
            raise DataError(f"The two audits were {words}: {where}; {advice}.")


def _require_equal_sums(tasks: pl.DataFrame, parts: pl.DataFrame, sums: tuple[str, ...], words: str) -> None:
    both = tasks.join(parts, on=TASK, how="left", suffix="_parts", nulls_equal=True)
    for name in sums:
        if not _close(both[name], both[f"{name}_parts"]).all():
            raise _unbalanced(f"'{name}' of the {words} of a task does not add up to that of the task")


def _prompt_hashes(table: pl.DataFrame) -> pl.Series:
    """What each item asks, as 16 hexadecimal digits: equal where the model saw the same prompt and options in the same format."""
    parts = [pl.col(name).fill_null("") for name in ("protocol", "prompt_format", "prefix", "prompt_hash")]
    asked = table.select(pl.concat_str(*parts, pl.col("texts").list.join("\x1e").fill_null(""), separator="\x1f").alias("asked"))["asked"]
    return pl.Series("prompt_hash", [hashlib.sha256(words.encode()).hexdigest()[:16] for words in asked.to_list()], dtype=pl.String)


def _answer(scores: str) -> pl.Expr:
    """Place of the highest of two or more scores; null where two share it."""
    ordered = pl.col(scores).list.sort(descending=True)
    decided = ordered.list.get(0, null_on_oob=True) - ordered.list.get(1, null_on_oob=True) >= TIE_NATS
    return pl.when(decided).then(pl.col(scores).list.arg_max())


def _with_drift(joined: pl.DataFrame, drift: pl.DataFrame | None) -> pl.DataFrame:
    if drift is None:
        return joined.with_columns(kl=pl.lit(None, pl.Float64))
    missing = [name for name in (*KEY, "kl") if name not in drift.columns]
    if missing:
        raise DataError(f"The table of drifts has no column {', '.join(missing)}: it needs {', '.join(KEY)} and kl.")
    strangers = drift.join(joined, on=KEY, how="anti")
    if strangers.height or drift.select(pl.struct(KEY).is_duplicated().any()).item():
        raise DataError(f"The table of drifts has {strangers.height} items that the audits lack, or one twice: measure it on their items.")
    if drift.select((pl.col("kl").is_nan() | (pl.col("kl") < 0)).any()).item():
        raise DataError("The table of drifts has a divergence that is negative or not a number: clip rounding at 0 where it was computed.")
    return joined.join(drift.select(*KEY, "kl"), on=KEY, how="left", maintain_order="left")


def _require_telescoping(ledger: pl.DataFrame) -> None:
    """Each stage of a path starts with the items and figures that the stage before it ended with."""
    stages = ledger.group_by(PATH).agg(pl.col("stage").unique().sort())
    if stages.select((pl.col("stage").list.len() == 1).all()).item():
        return
    if not stages.select((pl.col("stage").list.max() - pl.col("stage").list.min() + 1 == pl.col("stage").list.len()).all()).item():
        raise _unbalanced("a stage between two others of its path is missing")
    link, figures = [*PATH, "stage", *KEY], [*_MEASURED, "state"]
    ended = ledger.select(
        *PATH, pl.col("stage") + 1, *KEY, pl.col("prompt_hash").alias("_prompt"),
        *(pl.col(f"{name}_after").alias(f"_{name}") for name in figures),
    )
    begun = ledger.filter(pl.col("stage") > pl.col("stage").min().over(PATH))
    met = begun.join(ended, on=link, how="inner")
    expected = ended.join(stages.explode("stage"), on=[*PATH, "stage"], how="semi")
    if not met.height == begun.height == expected.height:
        raise _unbalanced("two stages of a path are of different items")
    for name in (*figures, "prompt"):
        first, second = met[f"{name}_before" if name != "prompt" else "prompt_hash"], met[f"_{name}"]
        if first.ne_missing(second).any():
            raise _unbalanced(f"a stage does not begin where the one before ended: '{name}' of {int(first.ne_missing(second).sum())} items")


def _close(first: pl.Series, second: pl.Series) -> pl.Series:
    """Equal up to the order of addition; null equals null only."""
    first, second = first.cast(pl.Float64), second.cast(pl.Float64)
    near = (first - second).abs() <= _TOLERANCE * (1 + first.abs() + second.abs())
    return first.eq_missing(second) | near.fill_null(value=False)


def _named(table: pl.DataFrame) -> str:
    """Benchmarks of a table, for messages; item texts stay out of them."""
    return ", ".join(sorted(str(name) for name in table["benchmark"].unique()))


def _unbalanced(words: str) -> FairforgetError:
    return FairforgetError(
        f"The ledger does not balance: {words}. It was changed after it was written, or its item tables are damaged: build it again."
    )
