"""Verdicts on made-up checkpoints: what was planted is found, what was not is not, and little data decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from fairforget.workflows.tradeoff_recipe import TradeoffRecipe
from fairforget.workflows.tradeoff_tables import CHECKPOINT_SCHEMA, analyse
from fairforget.workflows.tradeoff_verdicts import findings, tradeoff_words

ARMS = {"cda0": 0.0, "cda2": 1.0, "anti": 1.5}
"""How fast the margin falls."""


def checkpoints(
    seeds: int = 8, *, coupling: float = -10.0, cost: float = 0.5, mitigation: float = 1.0, restored: float = 0.0, noise: float = 0.03,
) -> pl.DataFrame:
    """Paths: the margin shifts by speed · t, overall forgetting is cost · t (more where bias falls), downstream coupling · overall.

    Args:
        seeds: number of seeds.
        coupling: downstream points per nat a token.
        cost: overall forgetting at the end of a path.
        mitigation: factor of overall forgetting under the mitigation.
        restored: points that the mitigation gives back at the end.
        noise: of every figure.
    """
    generator = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for arm, speed in ARMS.items():
        for name in ("plain", *(("kl",) if arm == "cda2" else ())):
            for size in (10, 100):
                for seed in range(seeds):
                    own = 1 + 0.2 * generator.normal()
                    for step, t in ((0, 0.0), (10, 0.3), (30, 0.6), (100, 1.0)):
                        error = noise * generator.normal(size=3) * (step > 0)
                        overall = own * cost * t * (0.6 + 0.4 * speed) * (mitigation if name == "kl" else 1.0) + error[0]
                        shift = speed * t * own + error[1]
                        rows.append({
                            "model": "minilm-mlm", "arm": arm, "mitigation": name, "size": size, "seed": seed, "step": step,
                            "run": f"{arm}-{name}-{size}-{seed}", "margin_shift": shift, "selective": shift - overall / 4,
                            "overall": overall,
                            "downstream_change": coupling * overall + error[2] + (restored * t if name == "kl" else 0.0), "bias": 50.0,
                        })
    return pl.DataFrame(rows, schema=CHECKPOINT_SCHEMA)


def decided(table: pl.DataFrame, **fields: Any) -> dict[str, str]:
    recipe = TradeoffRecipe.model_validate({
        "arms": list(ARMS), "mitigations": [{"name": "kl", "retain": "kl"}], "mitigated": ["cda2"], "resamples": 300, **fields,
    })
    found = findings(recipe, table, analyse(recipe, table))
    return dict(zip(found["finding"], found["decision"], strict=True))


def test_findings_that_were_planted_are_supported():
    assert decided(checkpoints(noise=0.01)) == {"1": "supported", "2": "supported", "3a": "supported", "3b": "supported"}


def test_each_is_contradicted_where_the_opposite_was_planted():
    assert decided(checkpoints(coupling=4.0))["1"] == "contradicted"  # it goes up with forgetting
    assert decided(checkpoints(coupling=0.0, noise=0.3))["1"] == "contradicted"  # no coupling at all, with much to see it by
    assert decided(checkpoints(cost=-0.5))["2"] == "contradicted"  # the language is learnt along the way
    helped = decided(checkpoints(mitigation=0.5))
    assert (helped["3a"], helped["3b"]) == ("contradicted", "contradicted")
    recipe = TradeoffRecipe.model_validate({
        "arms": list(ARMS), "mitigations": [{"name": "kl", "retain": "kl"}], "mitigated": ["cda2"], "resamples": 300,
    })
    table = checkpoints(mitigation=0.5)
    told = findings(recipe, table, analyse(recipe, table)).filter(pl.col("finding") == "3a").row(0, named=True)
    assert told["figure"] == "kl less plain, the largest sure benefit" and told["high"] < 0
    assert decided(checkpoints(restored=4.0))["3b"] == "contradicted"


def test_two_seeds_decide_nothing_about_mitigations_and_few_runs_nothing_at_all():
    two = decided(checkpoints(seeds=2, noise=0.01))
    assert (two["1"], two["2"]) == ("supported", "not decided")  # 12 runs, 8 of them with an objective
    assert decided(checkpoints(seeds=3, noise=0.01))["2"] == "supported"
    assert (two["3a"], two["3b"]) == ("not decided", "not decided")
    assert set(decided(checkpoints(seeds=1)).values()) == {"not decided"}


def test_what_the_objective_costs_is_told_apart_from_what_the_text_costs():
    table = checkpoints()
    recipe = TradeoffRecipe.model_validate({"arms": list(ARMS), "resamples": 300})
    objective = analyse(recipe, table)["objective"]
    row = objective.filter((pl.col("arm") == "cda2") & (pl.col("figure") == "overall") & (pl.col("step") == 100)).row(0, named=True)
    assert row["against"] == "cda0"
    assert row["low"] < 0.5 * 0.4 < row["high"]  # 0.4 of the speed's part, times the cost
    words = tradeoff_words(pl.DataFrame({"status": ["done"] * 48}), findings(recipe, table, analyse(recipe, table)))
    assert words.headline == "Findings of the paper: 2 supported."
    assert any("The objective's own part, cda2 less cda0 at step 100" in sentence for sentence in words.sentences)


def test_arms_are_compared_at_shares_of_what_both_reach():
    recipe = TradeoffRecipe.model_validate({"arms": list(ARMS), "resamples": 300, "matched": [0.5, 1.0]})
    arms = analyse(recipe, checkpoints())["arms"].filter(pl.col("figure") == "overall")
    assert arms.select("compared", "with", "share").rows() == [("anti", "cda2", 0.5), ("anti", "cda2", 1.0)]
    assert arms["at"][1] == pytest.approx(2 * arms["at"][0])
    assert (arms["high"] < 0).all()  # the same cost buys 1.5 times the shift


def test_one_training_under_two_names_is_counted_once():
    recipe = TradeoffRecipe.model_validate({"arms": [*ARMS, "cda1"], "resamples": 300})
    table = checkpoints(noise=0.01)
    twice = pl.concat([table, table.filter(pl.col("arm") == "anti").with_columns(arm=pl.lit("cda1"), run=pl.lit("cda1-") + pl.col("run"))])
    for name in ("coupling", "slopes"):
        once, again = (analyse(recipe, rows)[name] for rows in (table, twice))
        together = [rows.filter(pl.col("points_of") == "all arms") if name == "coupling" else rows for rows in (once, again)]
        assert together[0].equals(together[1]), name
    assert "cda1" in analyse(recipe, twice)["coupling"]["points_of"].to_list()


def test_more_texts_are_compared_with_the_fewest_of_the_same_arm():
    recipe = TradeoffRecipe.model_validate({"arms": list(ARMS), "resamples": 300, "matched": [0.5]})
    dearer = pl.when(pl.col("size") == 100).then(2 * pl.col("overall")).otherwise("overall")
    for table, found in ((checkpoints(), False), (checkpoints().with_columns(overall=dearer), True)):
        sizes = analyse(recipe, table)["sizes"].filter(pl.col("figure") == "overall")
        assert sizes.select("arm", "compared", "with", "pairs").rows() == [("cda2", "100", "10", 8), ("anti", "100", "10", 8)]
        assert [low > 0 for low in sizes["low"]] == [found, found]


def test_coupling_is_told_arm_by_arm_too():
    opposite = pl.when(pl.col("arm") == "anti").then(-pl.col("downstream_change")).otherwise("downstream_change")
    recipe = TradeoffRecipe.model_validate({"arms": list(ARMS), "resamples": 300})
    table = analyse(recipe, checkpoints(noise=0.01).with_columns(downstream_change=opposite))["coupling"]
    rows = table.filter((pl.col("figure") == "pearson") & (pl.col("over") == "run"))
    values = dict(zip(rows["points_of"], rows["value"], strict=True))
    assert values["cda2"] < -0.95
    assert values["anti"] > 0.95
    assert abs(values["all arms"]) < 0.9
    assert set(values) == {"all arms", *ARMS}


def test_no_run_is_no_verdict():
    empty = pl.DataFrame(schema=CHECKPOINT_SCHEMA)
    recipe = TradeoffRecipe.model_validate({})
    found = findings(recipe, empty, analyse(recipe, empty))
    assert found.is_empty()
    assert tradeoff_words(pl.DataFrame({"status": ["failed"]}), found).headline == "No run of this study is finished yet."
