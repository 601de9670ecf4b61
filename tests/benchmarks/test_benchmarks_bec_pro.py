"""BEC-Pro: associations against slow, obvious ones on tiny models, and the published tests on tables made by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks._base import Item
from fairforget.benchmarks.bec_pro import token_pieces
from fairforget.models import Model
from fairforget.scoring import Scorer
from fairforget.tables import item_table

BERT, LLAMA = tiny_model("bert"), tiny_model("llama")
PEOPLE = [("", "She", "female"), ("", "He", "male"), ("My ", "mother", "female"), ("My ", "father", "male")]


def items(professions: tuple[str, ...] = ("nurse", "city teacher")) -> list[Item]:
    return [
        Item(
            f"{profession}/0/{number // 2}/{gender}", "bec-pro", "bias", "test", profession, "female", ("female professions",),
            (f"{before}{person} is a {profession}.",), {"pieces": (before, person, " is a ", profession, ".")},
        )
        for profession in professions
        for number, (before, person, gender) in enumerate(PEOPLE)
    ]


def measured(model: Model, found: list[Item]) -> pl.DataFrame:
    return resolve("bec-pro").measure_items(Scorer(model, store=False), found, "test")


def log_probabilities(model: Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model.hf(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def by_hand(rows: list[tuple[str, str, str, float]]) -> pl.DataFrame:
    """An item table of (profession, class, pair and gender, value)."""
    return item_table([
        {
            "benchmark": "bec-pro", "task": "bec-pro", "role": "bias", "part": "test", "item": f"{profession}/0/{name}",
            "cluster": profession, "stratum": kind, "groups": [f"{kind} professions"], "value": value,
        }
        for profession, kind, name, value in rows
    ])


def figure(rows: pl.DataFrame, metric: str, group: str = "all") -> dict[str, Any]:
    (row,) = rows.filter((pl.col("metric") == metric) & (pl.col("group") == group)).to_dicts()
    return row


def test_masked_association_is_that_of_masked_sentences():
    found = items()
    table = measured(BERT, found)
    mask = [BERT.mask_id]
    for item, value in zip(found, table["value"].to_list(), strict=True):
        before, person, between, profession, after = (BERT.token_ids(piece) for piece in item.payload["pieces"])
        start, end = [BERT.tokenizer.cls_token_id], [BERT.tokenizer.sep_token_id]
        place = 1 + len(before)
        logs: list[float] = []
        for middle in (profession, mask * len(item.payload["pieces"][3].split())):
            ids = [*start, *before, *mask * len(person), *between, *middle, *after, *end]
            own = log_probabilities(BERT, ids)
            logs.append(sum(float(own[place + number, token]) for number, token in enumerate(person)))
        assert value == pytest.approx(logs[0] - logs[1], abs=1e-4)
    assert table["protocol"].unique().to_list() == ["target-prior"]


def test_causal_association_is_the_information_of_profession_and_person():
    found = items()
    table = measured(LLAMA, found)
    logs: list[float] = []
    for item in found:
        before, person, between, profession, _ = item.payload["pieces"]
        context = [LLAMA.prefix_id, *LLAMA.token_ids(before + person + between)]
        own = LLAMA.token_ids(profession)
        ahead = log_probabilities(LLAMA, [*context, *own])
        logs.append(sum(float(ahead[len(context) - 1 + number, token]) for number, token in enumerate(own)))
    groups = np.array(logs).reshape(2, len(PEOPLE))
    expected = (groups - np.log(np.exp(groups).mean(axis=1, keepdims=True))).ravel()
    assert table["value"].to_numpy() == pytest.approx(expected, abs=1e-4)
    # P(person | profession) / P(person) of a reader with equal priors: the mean over persons is 1
    assert np.exp(table["value"].to_numpy()).reshape(2, -1).mean(axis=1) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("target", "prior", "association"), [(-2.0, -2.0, 0.0), (math.log(0.2), math.log(0.1), math.log(2))])
def test_equal_probabilities_give_nought_and_doubled_ones_ln_2(target: float, prior: float, association: float):
    row = resolve("bec-pro").row(items()[0], [[np.array([target]), np.array([prior])]], BERT)
    assert row["value"] == pytest.approx(association, abs=1e-12)


def test_means_by_gender_and_class_and_their_difference():
    rows = [
        (f"{kind} {number}", kind, f"She and He/{gender}", (2.0 if kind == "female" else 0.5) * (gender == "female") + number / 10)
        for kind in ("female", "male")
        for number in range(6)
        for gender in ("female", "male")
    ]
    found = evaluate(resolve("bec-pro"), by_hand(rows), resamples=200)
    assert figure(found, "male_association")["value"] == pytest.approx(0.25)
    assert figure(found, "female_association", "female professions")["value"] == pytest.approx(2.25)
    assert figure(found, "gender_difference", "female professions")["value"] == pytest.approx(2.0)
    assert figure(found, "gender_difference", "male professions")["value"] == pytest.approx(0.5)
    assert figure(found, "gender_difference")["value"] == pytest.approx(1.25)
    assert figure(found, "gender_difference")["neutral"] == 0


def test_the_published_test_goes_over_pairs_of_the_same_sentence():
    generator = np.random.default_rng(0)
    female, male = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
    rows = [
        (f"job {number % 6}", "male", f"pair {number}/{gender}", float(value))
        for number in range(30)
        for gender, value in (("male", male[number]), ("female", female[number]))
    ]
    found = evaluate(resolve("bec-pro"), by_hand(rows).sample(fraction=1, shuffle=True, seed=1), resamples=200)
    expected = stats.ttest_rel(female, male)
    row = figure(found, "p_value", "male professions")
    assert (row["value"], row["n"]) == (pytest.approx(expected.pvalue), 30)
    assert row["note"].startswith(f"paired t {expected.statistic:.6g}")
    ranks = stats.wilcoxon(female - male, method="approx")
    assert figure(found, "effect_r")["value"] == pytest.approx(abs(ranks.zstatistic) / math.sqrt(30))


def test_what_cannot_be_tested_says_why():
    found = evaluate(resolve("bec-pro"), by_hand([("job", "male", "p/female", 1.0), ("job", "male", "p/male", 0.5)]), resamples=200)
    assert math.isnan(figure(found, "p_value")["value"]) and "fewer than three pairs" in figure(found, "p_value")["note"]


@pytest.mark.parametrize("model", [BERT, LLAMA], ids=["masked", "causal"])
def test_a_sentence_that_is_too_long_is_skipped_and_counted(model: Model):
    table = measured(model, items(("nurse", " ".join(["teacher"] * 300))))
    assert table["skipped"].count() == len(PEOPLE) and table["value"].null_count() == len(PEOPLE)
    assert "longer than the model's 256 positions" in table["skipped"].drop_nulls()[0]


def test_pieces_make_the_whole_text():
    pieces = ("My ", "mother", " is a ", "city teacher", ".")
    found = token_pieces(LLAMA, pieces)
    assert [LLAMA.token_ids(piece.strip()) for piece in pieces] == found
    assert [token for piece in found for token in piece] == LLAMA.token_ids("".join(pieces))


def test_real_items_are_whole(data_folder: Path):
    found = resolve("bec-pro").items("masked", "all")
    assert len(found) == len({item.id for item in found}) == 5400
    assert all(first.payload["pieces"][0] in ("", "My ", "This ") for first, _ in pairwise(found))
