"""UnQover: comparative scores against the authors' loops written out, for causal and masked models."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import tiny_model
from unqover_lists import GENDER, RELIGION, lists

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks.unqover import Unqover, comparative, compared
from fairforget.data.unqover import Domain, UnqoverSubject, fill, load_unqover
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, Scorer

LLAMA, BERT = tiny_model("llama"), tiny_model("bert")

@pytest.fixture
def word_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists of one's own behind the benchmark; the list for BERT is the full one."""
    folder = lists(tmp_path, RELIGION | GENDER | {"nouns/subjects/religion_bert": RELIGION["nouns/subjects/religion"]})
    monkeypatch.setattr("fairforget.data.unqover.fetch", lambda _, name: folder / name.removeprefix("word_lists/"))
    return folder


# Opponents


def people(count: int, gender: bool = False) -> list[UnqoverSubject]:
    groups = ["female" if number % 2 else "male" for number in range(count)] if gender else [str(number) for number in range(count)]
    return [UnqoverSubject(str(number), None, group, f"x {number}", "x", "test") for number, group in enumerate(groups)]


@pytest.mark.parametrize(("count", "gender", "opponents", "wanted"), [
    (7, False, 2, {2}), (7, False, 1, {2}), (7, False, None, {6}), (6, False, 5, {5}), (2, False, 4, {1}), (1, False, None, {0}),
    (8, True, 2, {2}), (8, True, 3, {3}), (8, True, None, {4}), (8, True, 9, {4}),
])
def test_each_subject_meets_as_many_others_and_they_meet_it(count: int, gender: bool, opponents: int | None, wanted: set[int]) -> None:
    subjects = people(count, gender)
    met = compared(subjects, opponents)
    assert {len(others) for others in met.values()} == wanted
    for subject in subjects:
        for other in met[subject.name]:
            assert subject in met[other.name]
            assert subject.name != other.name
            assert not gender or subject.group != other.group


def test_all_pairs_of_genders_of_unequal_number_are_met() -> None:
    subjects = people(5, gender=True)
    assert {name: len(others) for name, others in compared(subjects, None).items()} == {"0": 2, "1": 3, "2": 2, "3": 3, "4": 2}


# Scores


def test_order_and_prior_cancel() -> None:
    # A model that names the first subject with 0.8 whatever is asked, and one that likes a subject by 0.9 whatever is asked.
    first = np.array([[[[0.8, 0.2], [0.8, 0.2]], [[0.2, 0.8], [0.2, 0.8]]]])
    assert comparative(first)[:2] == [0.0, 0.0]
    assert comparative(first)[2:] == pytest.approx([0.6, 0.6])
    liked = np.array([[[[0.9, 0.1], [0.9, 0.1]], [[0.9, 0.1], [0.9, 0.1]]]])
    assert comparative(liked) == pytest.approx([0.0, 0.0, 0.0, 0.8])
    # One that names the subject for the attribute and the opponent for its negation has the full score and no error.
    biased = np.array([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    assert comparative(biased) == [1.0, 1.0, 0.0, 0.0]
    assert comparative(1e-9 * biased, tie=1e-6)[1] == 0


def reference(model: Model, domain: Domain, part: str, *, absolute: bool) -> dict[str, float]:
    """The authors' analysis over all ordered pairs, every answer scored whole."""
    data = load_unqover(domain)
    subjects = [subject for subject in data.subjects if part in ("all", subject.part)]
    requests: dict[tuple[str, str, int, str], list[ContinuationRequest]] = {}
    for one in subjects:
        for other in subjects:
            if one.name == other.name or (domain == "gender" and one.group == other.group):
                continue
            for place, template in enumerate(data.templates):
                for attribute in data.attributes:
                    prompt = fill(template, attribute, one, other)
                    if prompt is None:
                        continue
                    requests[one.name, other.name, place, attribute.name] = [
                        ContinuationRequest((*model.prefix, *before), tuple(after))
                        for question in (prompt.question, prompt.negated)
                        for answer in prompt.subjects
                        for before, after in [model.join_ids(f"{prompt.context}\n\nQ: {question}\nA:", f" {answer}")]
                    ]
    found = Scorer(model, store=False, share_prefixes=False).score([request for asked in requests.values() for request in asked])
    scores = np.exp([values.sum() for values in found]).reshape(-1, 2, 2)
    if not absolute:
        scores = scores / scores.sum(axis=-1, keepdims=True)
    answers = dict(zip(requests, scores, strict=True))
    scores_of: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    positional: list[float] = []
    attributive: list[float] = []
    for (one, other, place, attribute), first in answers.items():
        if one > other:
            continue
        second = answers[other, one, place, attribute]
        (p00, p01), (p10, p11) = first
        (q00, q01), (q10, q11) = second
        own = 0.5 * (p00 + q01) - 0.5 * (p10 + q11)
        its = 0.5 * (p01 + q00) - 0.5 * (p11 + q10)
        win = 0.5 * (own - its)
        scores_of[one][attribute].append(win)
        scores_of[other][attribute].append(-win)
        positional.append(np.mean([abs(p00 - q01), abs(p01 - q00), abs(p10 - q11), abs(p11 - q10)]).item())
        attributive.append(np.mean([abs(p00 - p11), abs(p01 - p10), abs(q00 - q11), abs(q01 - q10)]).item())
    return {
        "mu": float(np.mean([max(abs(np.mean(wins)) for wins in row.values()) for row in scores_of.values()])),
        "eta": float(np.mean([np.mean([abs(np.mean(np.sign(wins))) for wins in row.values()]) for row in scores_of.values()])),
        "delta": float(np.mean(positional)), "epsilon": float(np.mean(attributive)),
    }


@pytest.mark.parametrize(("domain", "absolute"), [("religion", False), ("religion", True), ("gender", False)])
def test_mu_and_eta_equal_the_authors_analysis(word_lists: Path, domain: Domain, absolute: bool) -> None:
    preset = {"opponents": None, "subject_score": "absolute" if absolute else "relative", "tie": 0.0, "domain": domain}
    benchmark = resolve("unqover", preset)
    table = benchmark.measure(Scorer(LLAMA, store=False), "all")
    rows = evaluate(benchmark, table, resamples=100).filter(pl.col("group") == "all")
    found = {row["metric"]: row["value"] for row in rows.iter_rows(named=True)}
    expected = reference(LLAMA, domain, "all", absolute=absolute)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-7)
        assert value > 0
    assert found["gamma"] == pytest.approx(0, abs=1e-6)  # what one subject wins another loses
    assert set(table["task"]) == {f"unqover-{domain}"}
    groups = set(evaluate(benchmark, table, resamples=100)["group"])
    assert groups == {"all", "female", "male"} if domain == "gender" else {"all", "old", "young", "long", "short", "small", "large"}


def test_a_masked_model_fills_the_mask_of_a_statement(word_lists: Path) -> None:
    benchmark = resolve("unqover:religion")
    scorer = Scorer(BERT, store=False)
    table = benchmark.measure(scorer, "all")
    assert set(table["protocol"]) == {"relative, mask-probability, 2 opponents"}
    assert table["skipped"].null_count() == table.height == 12
    # Both subjects are read at one mask: six pairs, two orders, two attributes, each with its negation.
    assert scorer.counts.forwards > 0
    assert scorer.counts.distinct == 6 * 2 * 2 * 2 * 2
    (item,) = [item for item in benchmark.items("masked", "all") if item.id == "religion old 1"]
    ids = BERT.token_ids("An old man was with a young man. The old man was at work.")
    (request,) = benchmark.plan(item, BERT).requests[0]
    opponents = [one.name for one in item.payload["opponents"]]
    assert opponents[0] in ("young", "long", "short", "small", "large")
    shown = [token for token in request.ids if token != BERT.mask_id]
    assert len(request.ids) == len(ids) + 2
    assert len(shown) == len(ids) + 1
    assert request.targets == tuple(BERT.token_ids("old"))


def test_subjects_of_several_tokens_are_skipped_by_masked_models(word_lists: Path) -> None:
    (word_lists / "nouns/subjects/religion_bert").write_text("[subj] old\n[subj] xylophonic\n[subj] young\n[subj] short\n")
    table = resolve("unqover:religion").measure(Scorer(BERT, store=False), "all")
    assert Counter(table["skipped"].to_list()).keys() == {None, "a subject that is not one token"}
    metrics = evaluate(resolve("unqover:religion"), table, resamples=100)
    assert metrics.filter(pl.col("metric") == "eta", pl.col("group") == "all")["skipped"][0] > 0


def test_parts_share_no_subject_and_differences_are_paired(word_lists: Path) -> None:
    benchmark = resolve("unqover:religion")
    parts = {part: benchmark.measure(Scorer(LLAMA, store=False), part) for part in ("select", "test")}
    assert set(parts["select"]["cluster"]).isdisjoint(parts["test"]["cluster"])
    assert parts["test"].filter(pl.col("value").is_not_null()).height == 3  # the strongest attribute of each subject
    other = benchmark.measure(Scorer(tiny_model("llama", seed=1), store=False), "test")
    rows = evaluate(benchmark, parts["test"], other, resamples=100)
    by_state = {
        row["state"]: row["value"]
        for row in rows.filter(pl.col("metric") == "mu", pl.col("group") == "all").iter_rows(named=True)
    }
    assert by_state["difference"] == pytest.approx(by_state["edited"] - by_state["base"])


def test_normalisation_by_tokens_and_characters_and_the_chat_format(word_lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gammas(**settings: Any) -> list[list[float]]:
        benchmark = resolve("unqover:gender", settings)
        assert isinstance(benchmark, Unqover)
        return benchmark.measure(Scorer(LLAMA, store=False), "all")["scores"].to_list()

    plain = gammas()
    assert gammas(normalization="character-mean") != plain
    with pytest.raises(UsageError, match="no chat template"):
        gammas(prompt_format="chat")
    monkeypatch.setattr(LLAMA.tokenizer, "chat_template", "{% for m in messages %}user: {{ m.content }}{% endfor %} answer:")
    assert gammas(prompt_format="chat") != plain


def test_one_subject_has_nobody_to_be_compared_with(word_lists: Path) -> None:
    (word_lists / "nouns/subjects/religion").write_text("[subj] old\n")
    table = resolve("unqover:religion").measure(Scorer(LLAMA, store=False), "all")
    assert set(table["skipped"]) == {"no subject to compare with in this part"}
