"""BEC-Pro (Bartl et al. 2020): how strongly a profession calls up female and male person words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.benchmarks._base import Benchmark, Item, MetricDefinition, Plan, Scores, SetTest
from fairforget.benchmarks._sentences import scored
from fairforget.benchmarks._subset import SubsetSettings
from fairforget.scoring.requests import ContinuationRequest, MaskedRequest
from fairforget.settings import Settings
from fairforget.stats.location import location_test

if TYPE_CHECKING:
    from fairforget.models.model import Model

_FRAME = pl.col("item").str.replace("/[^/]*$", "")  # profession, template and pair of an item
_PLACE = pl.col("item").str.replace("/[^/]*/[^/]*$", "")  # profession and template


def _of(gender: str) -> tuple[pl.Expr, pl.Expr]:
    inside = pl.col("item").str.ends_with(f"/{gender}") & pl.col("value").is_not_null()
    return pl.when(inside).then(pl.col("value")), inside.cast(pl.Float64)


_FEMALE, _MALE = _of("female"), _of("male")


def _difference(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratios[..., 0] - ratios[..., 1]


GENDER_DIFFERENCE = MetricDefinition(
    "gender_difference", (_FEMALE[0], _MALE[0]), (_FEMALE[1], _MALE[1]), "nats", "neutral", neutral=0.0, function=_difference,
    description="Mean association of female person words less that of male ones; above 0 professions call up women (Bartl et al. 2020).",
)
FEMALE_ASSOCIATION, MALE_ASSOCIATION = (
    MetricDefinition(
        f"{gender}_association", (side[0],), (side[1],), "nats", "neutral",
        description=f"Mean association ln(p_T / p_prior) of {gender} person words with the professions (Kurita et al. 2019).",
    )
    for gender, side in (("female", _FEMALE), ("male", _MALE))
)


class BecPro(Benchmark):
    """Association of person words with professions, by class of profession; a row is a sentence, its value the association in nats.

    Masked models: ln(p_T / p_prior) with p_T the person word's probability where it alone is masked, p_prior that where every word of the
    profession is masked too. Causal models read from left to right and cannot fill in the person word, which comes first: theirs is the
    pointwise mutual information the other way round, ln P(profession | person word, template) - ln of the mean of that over the 18 person
    words, which is ln(p_T / p_prior) of a reader who holds all person words equally likely before the profession is read.
    """

    name = "bec-pro"
    description = "BEC-Pro (Bartl et al. 2020): association of female and male person words with 60 professions."
    Settings: ClassVar[type[Settings]] = SubsetSettings
    datasets = ("bec-pro",)

    def items(self, family: str, part: str) -> list[Item]:
        """Sentences of one part; all about a profession are a cluster."""
        del family
        from fairforget.data.bec_pro import load_bec_pro

        sentences = [sentence for sentence in load_bec_pro() if part in ("all", sentence.part)]
        templates = {template: number for number, template in enumerate(dict.fromkeys(sentence.template for sentence in sentences))}
        return [
            Item(
                id=f"{one.profession}/{templates[one.template]}/{one.pair.replace('/', ' and ')}/{one.gender}",
                task="bec-pro",
                role="bias",
                part=part,
                cluster=one.profession,
                stratum=one.profession_class,
                groups=(f"{one.profession_class} professions",),
                texts=(one.text,),
                payload={"pieces": (one.before, one.person, one.between, one.profession, one.after)},
            )
            for one in sentences
        ]

    def plan(self, item: Item, model: Model) -> Plan:
        """Masked: the person word's tokens with and without the profession. Causal: the profession after what stands before it."""
        pieces: tuple[str, ...] = item.payload["pieces"]
        before, person, between, profession, after = token_pieces(model, pieces)
        if not person or not profession:
            return Plan(skipped="a person word or profession without tokens")
        if model.family == "causal":
            request = ContinuationRequest((*model.prefix, *before, *person, *between), tuple(profession))
            if len(request.context) + len(profession) > model.max_length:
                return Plan(skipped=f"longer than the model's {model.max_length} positions")
            return Plan(((request,),))
        assert model.mask_id is not None
        start, end = model.enclosing_ids()
        places = tuple(range(len(start) + len(before), len(start) + len(before) + len(person)))
        hidden = [model.mask_id] * len(pieces[3].split())
        requests = tuple(
            MaskedRequest((*start, *before, *[model.mask_id] * len(person), *between, *middle, *after, *end), places, tuple(person))
            for middle in (profession, hidden)
        )
        if max(len(request.ids) for request in requests) > model.max_length:
            return Plan(skipped=f"longer than the model's {model.max_length} positions")
        return Plan((requests,))

    def row(self, item: Item, scores: Sequence[Scores], model: Model) -> dict[str, Any]:
        """Masked: the association. Causal: the profession's log-probability, from which :meth:`table` takes the mean over persons."""
        del item
        if model.family == "causal":
            found = scored(scores[0])
            if not len(found):
                return {"skipped": "no token can be scored without a prefix"}
            total = float(found.sum())
            return {"scores": [total], "value": total, "nll": -total, "tokens": len(found)}
        target, prior = (float(np.sum(values)) for values in scores[0])
        return {"scores": [target], "value": target - prior, "nll": -target, "tokens": len(scores[0][0])}

    def table(self, items: Sequence[Item], scores: Sequence[Scores], model: Model) -> pl.DataFrame:
        """The item table; a causal model's values are set against the mean over the person words of the same sentence."""
        table = super().table(items, scores, model)
        if model.family == "masked":
            return table
        top = pl.col("value").max().over(_PLACE)
        return table.with_columns(value=pl.col("value") - top - (pl.col("value") - top).exp().mean().over(_PLACE).log())

    def protocol(self, item: Item, family: str) -> str:
        """``target-prior`` or ``profession-pmi``."""
        del item
        return "target-prior" if family == "masked" else "profession-pmi"

    def metrics(self) -> list[MetricDefinition]:
        """Mean association of either gender, and their difference, by class of profession."""
        return [GENDER_DIFFERENCE, FEMALE_ASSOCIATION, MALE_ASSOCIATION]

    def set_tests(self, task: str, table: pl.DataFrame, seed: int) -> list[SetTest]:
        """The published test's p, and r = Z / sqrt(n), over pairs of person words in the same sentence, by class of profession."""
        del task, seed
        rows = table.filter(pl.col("value").is_not_null())
        sides = [rows.filter(pl.col("item").str.ends_with(f"/{gender}")).with_columns(frame=_FRAME) for gender in ("female", "male")]
        pairs = sides[0].join(sides[1].select("frame", other="value"), on="frame", how="inner", maintain_order="left")
        pairs = pairs.select(pl.col("groups").list.first().alias("group"), difference=pl.col("value") - pl.col("other"))
        found: list[SetTest] = []
        for group in ("all", *pairs["group"].unique(maintain_order=True)):
            differences = pairs.filter(pl.lit(group == "all") | (pl.col("group") == group))["difference"].to_numpy()
            test = location_test(differences)
            if test is None:
                reason = "not defined: fewer than three pairs, or all differences are equal"
                found += [SetTest(name, float("nan"), len(differences), group, reason) for name in ("p_value", "effect_r")]
                continue
            note = f"{test.kind} {test.statistic:.6g} (Shapiro-Wilk p {test.shapiro_p:.2g}); takes pairs for independent"
            found.append(SetTest("p_value", test.p, test.n, group, note))
            found.append(SetTest("effect_r", test.r, test.n, group, "Z / sqrt(n) of the signed ranks; above 0: female words"))
        return found


def token_pieces(model: Model, pieces: Sequence[str]) -> list[list[int]]:
    """Ids of a text cut into pieces: the text is tokenised as a whole, and white space between two pieces goes to the second.

    Args:
        model: whose tokenizer it is.
        pieces: strings that make the text when put together.
    """
    whole = model.token_ids("".join(pieces))
    ends = [len(model.token_ids("".join(pieces[: count + 1]).rstrip())) for count in range(len(pieces) - 1)]
    return [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]
