"""Capability and language ability: per-item scores and judgements equal lm-eval's own tasks on the same tiny model."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from capability_files import DOCUMENTS, write_files
from lm_eval_harness import harness_results, harness_task
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks._capability import share_of_best
from fairforget.benchmarks.ethics import ethics_prompt
from fairforget.data.ethics import load_ethics
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import ContinuationRequest, MaskedRequest, Scorer

LLAMA, GPT2, BERT = tiny_model("llama"), tiny_model("gpt2"), tiny_model("bert")
TASKS = {
    "arc:easy": "arc/arc_easy.yaml", "openbookqa": "openbookqa/openbookqa.yaml", "commonsenseqa": "commonsense_qa/default.yaml",
    "siqa": "siqa/siqa.yaml", "piqa": "piqa/piqa.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "winogrande": "winogrande/default.yaml",
    "copa": "super_glue/copa/default.yaml", "boolq": "super_glue/boolq/default.yaml",
    "ethics:commonsense": "hendrycks_ethics/commonsense.yaml",
    "ethics:deontology": "hendrycks_ethics/deontology.yaml", "ethics:justice": "hendrycks_ethics/justice.yaml",
    "ethics:utilitarianism": "hendrycks_ethics/utilitarianism.yaml", "ethics:virtue": "hendrycks_ethics/virtue.yaml",
    "lambada": "lambada/lambada_openai.yaml", "blimp": "blimp/adjunct_island.yaml",
}
READERS = ("choice_questions", "piqa", "hellaswag", "strategyqa", "ethics", "lambada", "blimp")
NAMES = (
    "arc", "openbookqa", "commonsenseqa", "siqa", "piqa", "hellaswag", "winogrande", "copa", "boolq", "strategyqa", "ethics", "lambada",
    "blimp",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parsers read the made-up files."""
    for reader in READERS:
        monkeypatch.setattr(importlib.import_module(f"fairforget.data.{reader}"), "fetch", lambda name, file: folder / name / file)


def measured(name: str, model: Model, **settings: Any) -> pl.DataFrame:
    return resolve(name, settings).measure(Scorer(model, store=False), "all")


@pytest.mark.parametrize(("name", "path"), TASKS.items())
def test_scores_and_judgements_are_lm_evals(name: str, path: str, files: None) -> None:
    pytest.importorskip("lm_eval")
    settings = resolve(f"{name.partition(':')[0]}:lm-eval").settings.model_dump(exclude_defaults=True)
    table = measured(name, LLAMA, **settings)
    expected = harness_results(harness_task(path, DOCUMENTS), LLAMA)
    assert table.height == len(expected) >= 2
    for row, (scores, judged) in zip(table.iter_rows(named=True), expected, strict=True):
        np.testing.assert_allclose(row["scores"], scores, atol=1e-4)
        assert row["correct"] == judged["acc"]
        if "acc_norm" in judged:
            assert row["value"] == judged["acc_norm"]
        if "perplexity" in judged:
            assert row["nll"] == pytest.approx(-judged["perplexity"], abs=1e-4)
    assert set(table["prefix"]) == {"id 5" if name == "blimp" else "none"}


@torch.no_grad()
@pytest.mark.parametrize("name", ["openbookqa", "copa", "lambada", "blimp"])
def test_by_default_the_models_prefix_stands_before_the_context(name: str, files: None) -> None:
    table = measured(name, GPT2)
    item = resolve(name).items("causal", "all")[0]
    context, option = item.payload["context"], item.texts[0]
    ids = [5, *GPT2.token_ids(f"{context} {option}".strip())]
    logs = GPT2.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
    begin = 1 + len(GPT2.token_ids(context))
    assert table["scores"][0][0] == pytest.approx(sum(logs[at - 1, ids[at]].item() for at in range(begin, len(ids))), abs=1e-4)
    assert set(table["prefix"]) == {"id 5"}


@torch.no_grad()
def pseudo_log_likelihood(before: str, text: str) -> float:
    """Every token of a text masked in turn, in one input with what comes before."""
    ids = BERT.sequence_ids(f"{before} {text}".strip())
    first = 1 + len(BERT.token_ids(before))
    total = 0.0
    for place in range(first, len(ids) - 1):
        masked = [*ids[:place], BERT.mask_id, *ids[place + 1 :]]
        total += BERT.hf(torch.tensor([masked])).logits[0, place].log_softmax(-1)[ids[place]].item()
    return total


@pytest.mark.parametrize("name", ["openbookqa", "winogrande", "blimp"])
def test_masked_models_get_the_pseudo_log_likelihood(name: str, files: None) -> None:
    table = measured(name, BERT)
    item = resolve(name).items("masked", "all")[0]
    contexts = item.payload["context"]
    for place, score in enumerate(table["scores"][0]):
        context = contexts if isinstance(contexts, str) else contexts[place]
        assert score == pytest.approx(pseudo_log_likelihood(context, item.payload.get("rest", item.texts[place])), abs=1e-3)
    protocol = {"openbookqa": "option-pll", "winogrande": "partial, option-pll", "blimp": "sentence-pll"}
    assert set(table["protocol"]) == {protocol[name]}


@torch.no_grad()
def test_a_masked_model_fills_the_last_word_from_left_to_right(files: None) -> None:
    row = measured("lambada", BERT).row(1, named=True)
    context = BERT.token_ids("He would go home, and his home was his")
    pieces, stop = BERT.token_ids("house"), BERT.token_ids(".")
    total, greedy = 0.0, True
    for place, piece in enumerate(pieces):
        ids = [BERT.tokenizer.cls_token_id, *context, *pieces[:place], BERT.mask_id, *stop, BERT.tokenizer.sep_token_id]
        logs = BERT.hf(torch.tensor([ids])).logits[0, 1 + len(context) + place].log_softmax(-1)
        total, greedy = total + logs[piece].item(), greedy and int(logs.argmax()) == piece
    assert row["nll"] == pytest.approx(-total, abs=1e-4)
    assert (row["correct"], row["protocol"]) == (float(greedy), "last-word-fill")


@torch.no_grad()
@pytest.mark.parametrize("model", [LLAMA, BERT], ids=["causal", "masked"])
def test_the_best_tokens_log_probability_comes_with_the_tokens_own(model: Model) -> None:
    ids = model.token_ids("the nurse works at home")
    logs = model.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
    if model.family == "causal":
        greedy = int(logs[-1].argmax())
        asked: list[Any] = [
            ContinuationRequest(tuple(ids), (greedy,), best=True), ContinuationRequest(tuple(ids[:-1]), tuple(ids[-1:]), best=True),
            ContinuationRequest(tuple(ids), (greedy,)), ContinuationRequest((), tuple(ids[:2]), best=True),
        ]
        place = -2
    else:
        asked = [MaskedRequest(tuple(ids), (1, 2), (int(logs[1].argmax()), ids[2]), best=True), MaskedRequest(tuple(ids), (2,), (ids[2],))]
        place = 2
    found = Scorer(model, store=False).score(asked)
    if model.family == "causal":
        assert found[0][0] == found[0][1] == pytest.approx(logs[-1].max().item(), abs=1e-4)
        np.testing.assert_allclose(found[1], [logs[place, ids[-1]].item(), logs[place].max().item()], atol=1e-4)
        assert found[2].tolist() == [found[0][0]]
        assert np.isnan(found[3][[0, 2]]).all() and found[3][1] <= found[3][3]
    else:
        first, second = logs[1].max().item(), logs[2].max().item()
        np.testing.assert_allclose(found[0], [first, logs[2, ids[2]].item(), first, second], atol=1e-4)
        assert found[0][0] == found[0][2] and len(found[1]) == 1
    assert len({request.key() for request in asked}) == len(asked)


def test_greedy_words_are_right_and_their_perplexity_is_of_whole_words(files: None) -> None:
    benchmark = resolve("lambada")
    items = benchmark.items("causal", "all")
    logs = [np.log([0.5, 0.25, 0.5, 0.25]), np.log([0.25, 0.5])]
    table = benchmark.table(items, [[values] for values in logs], GPT2)
    assert table["correct"].to_list() == [1.0, 0.0]
    assert table["tokens"].to_list() == [2, 1]
    rows = evaluate(benchmark, table, resamples=100).filter(pl.col("group") == "all")
    values = dict(zip(rows["metric"], rows["value"], strict=True))
    assert values["accuracy"] == 50
    assert values["last_word_perplexity"] == pytest.approx(math.exp(-math.log(0.125 * 0.25) / 2))


def test_both_accuracies_come_from_one_scoring(files: None) -> None:
    benchmark = resolve("openbookqa")
    item = benchmark.items("causal", "all")[1]  # green, an engineer, a short day, the time
    row = benchmark.row(item, [[np.array([total])] for total in (-6.0, -9.0, -7.0, -7.0)], GPT2)
    assert (row["correct"], row["value"], row["choice"]) == (1.0, 0.0, 0)
    row = benchmark.row(item, [[np.array([total])] for total in (-5.0, -12.0, -5.0, -9.0)], GPT2)
    assert (row["correct"], row["value"], row["choice"]) == (0.5, 0.0, None)
    assert share_of_best([-1.0, -1.0, -1.0], 2, 1e-4) == pytest.approx(1 / 3)
    figures = evaluate(benchmark, measured("openbookqa", GPT2), resamples=100)
    assert set(figures["metric"]) == {"accuracy", "accuracy_norm", "answer_nll"}
    assert set(evaluate(resolve("boolq"), measured("boolq", GPT2), resamples=100)["metric"]) == {"accuracy", "answer_nll"}


def test_letters_or_texts_of_commonsenseqa(files: None) -> None:
    table = measured("commonsenseqa", GPT2)
    assert table["texts"][0].to_list() == list("ABCDE") and table["value"].null_count() == table.height
    texts = measured("commonsenseqa:texts", GPT2)
    assert texts["texts"][0].to_list() == ["house", "sun", "river", "rain", "bird"] and texts["value"].null_count() == 0


def test_sets_and_tasks_are_chosen_by_presets(files: None) -> None:
    assert set(measured("arc", GPT2)["task"]) == {"arc-easy", "arc-challenge"}
    assert set(measured("arc:challenge", GPT2)["task"]) == {"arc-challenge"}
    assert set(measured("ethics:virtue", GPT2)["task"]) == {"ethics-virtue"}
    hard = measured("ethics:hard", GPT2)
    assert hard.height == 5 and set(hard["task"]) >= {"ethics-commonsense-hard", "ethics-utilitarianism-hard"}


def test_groups_of_blimp_and_its_refusal_of_chat(files: None) -> None:
    table = measured("blimp", GPT2)
    assert table["groups"][0].to_list() == ["field: morphology", "phenomenon: subject_verb_agreement"]
    assert table["cluster"].n_unique() == table["stratum"].n_unique() == 2
    spaced = resolve("blimp:lm-eval")
    assert spaced.items("causal", "all")[0].texts[0].startswith(" ") and not spaced.items("masked", "all")[0].texts[0].startswith(" ")
    with pytest.raises(UsageError, match="no chat format"):
        measured("blimp", GPT2, prompt_format="chat")


def test_the_order_of_two_scenarios_is_decided_by_the_first(files: None) -> None:
    prompts = [ethics_prompt(item) for item in load_ethics("utilitarianism")]
    assert {right for _, _, right in prompts} == {0, 1}
    for item, (prompt, options, right) in zip(load_ethics("utilitarianism"), prompts, strict=True):
        assert prompt.startswith(f"Scenario 1: {item.first if right else item.second}\nScenario 2: ")
        assert options == ("no", "yes")


@pytest.mark.parametrize("name", NAMES)
def test_longer_than_the_models_positions_is_told(name: str, files: None) -> None:
    short = tiny_model("gpt2")
    short.hf.config.n_positions = short.hf.config.max_position_embeddings = 3
    table = measured(name, short)
    assert table["skipped"].null_count() == 0
    assert "more than the model's 3 positions" in table["skipped"][0]
