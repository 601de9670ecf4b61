"""TriviaQA and GSM8K: extraction and comparison as lm-eval's own code does them, prompts, shots, and generation as its model class does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval_harness import harness_task, judged_texts
from tiny import tiny_model

from fairforget.benchmarks import evaluate, resolve
from fairforget.benchmarks._base import Benchmark
from fairforget.benchmarks._exact_match import normalised
from fairforget.benchmarks.gsm8k import IGNORED, flexible_number, strict_number
from fairforget.data import gsm8k as gsm8k_data
from fairforget.data import triviaqa as triviaqa_data
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring import Scorer
from fairforget.scoring.generation import Answer, Decoding, Generator

SOLUTIONS = (
    "He has 2 + 3 = 5 apples.\n#### 5", "So it costs $1,200.\n#### 1,200", "#### -7.50", "It is 12. And then 13.", "no number", "#### ",
    "costs $5.", "#### 5\n\n#### 6", "a range of 3-4 ...", "####5 is 5",
)


def same(given: str, accepted: str, **options: object) -> bool:
    return exact_match_hf_evaluate(predictions=[given], references=[accepted], **options)["exact_match"] == 1.0


@pytest.mark.parametrize("answer", SOLUTIONS)
def test_numbers_are_read_as_lm_eval_reads_them(answer: str) -> None:
    strict = RegexFilter(r"#### (\-?[0-9\.\,]+)").apply([[answer]], [{}])
    flexible = RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1).apply([[answer]], [{}])
    assert [strict_number(answer) or "[invalid]"] == next(iter(strict))
    assert [flexible_number(answer) or "[invalid]"] == next(iter(flexible))
    for reference in ("Some words.\n#### 1,200", "#### 5", "#### -7.50"):
        for number in (strict_number(answer), flexible_number(answer)):
            if number is not None:
                expected = same(number, reference, regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"], ignore_case=True)
                assert (normalised(number, IGNORED) == normalised(reference, IGNORED)) == expected


@pytest.mark.parametrize(("given", "accepted"), [
    ("Onion", "onion"), ("the onion", "onion"), ("St. John's", "st johns"), ("A-B c", "ab C"), ("42", "42!"), ("Éclair", "éclair"),
])
def test_answers_are_compared_as_lm_eval_compares_them(given: str, accepted: str) -> None:
    assert (normalised(given, punctuation=True) == normalised(accepted, punctuation=True)) == same(
        given, accepted, ignore_case=True, ignore_punctuation=True
    )


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight questions of TriviaQA's form, nine problems of GSM8K's."""
    rows = [
        {"context": f"Question: What is in house {number}?\nAnswer:", "answer": f"A Bird {number}", "aliases": [f"bird {number}", "a dog"]}
        for number in range(8)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    trivia = triviaqa_data.load_triviaqa(tmp_path / "t.jsonl")
    monkeypatch.setattr(triviaqa_data, "load_triviaqa", lambda: trivia)
    for name, numbers in (("train", range(6)), ("test", range(10, 13))):
        problems = [{"question": f"{one} + 1?", "answer": f"It is <<{one}+1={one + 1}>>.\n#### {one + 1}"} for one in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, problems)), encoding="utf-8")
    sums = gsm8k_data.load_gsm8k(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    monkeypatch.setattr(gsm8k_data, "load_gsm8k", lambda: sums)


def answering(monkeypatch: pytest.MonkeyPatch, benchmark: Benchmark, part: str, texts: list[str | None]) -> list[dict[str, object]]:
    """The item table when the model writes these texts; None is a prompt that was too long."""
    answers = [(Answer("", "too long") if text is None else Answer(text),) for text in texts]
    monkeypatch.setattr(Generator, "generate", lambda self, prompts, **_: answers)
    return benchmark.measure(Scorer(tiny_model("llama"), store=False), part).to_dicts()


def test_trivia_answers_may_be_any_accepted_spelling(questions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = resolve("triviaqa:0-shot")
    items = benchmark.items("causal", "test")
    texts = [f" a bird {items[0].id}", " A DOG!", " the dog", None][: len(items)]
    rows = answering(monkeypatch, benchmark, "test", texts)
    assert [row["correct"] for row in rows] == [1.0, 1.0, 0.0, None]
    assert rows[3]["skipped"] == "too long"
    assert rows[2]["answer"] == " the dog"
    assert items[0].payload["prompt"] == f"Question: What is in house {items[0].id}?\nAnswer:"
    with pytest.raises(UsageError, match="masked one"):
        benchmark.check(tiny_model("bert"))


def test_shots_are_others_of_the_select_part(questions: None) -> None:
    plain = {item.id: item.payload["prompt"] for item in resolve("triviaqa:0-shot").items("causal", "all")}
    shot = resolve("triviaqa:lm-eval-5-shot", {"shots": 3})
    select = {item.id for item in shot.items("causal", "select")}
    for item in shot.items("causal", "all"):
        *shots, question = item.payload["prompt"].split("\n\n")
        assert question == plain[item.id].replace("?", "??")
        assert len(shots) == 3
        shown = {text.split("house ")[1].split("?")[0] for text in shots}
        assert len(shown) == 3
        assert shown <= select - {item.id}
        assert all(text.endswith(f" A Bird {text.split('house ')[1].split('?')[0]}") for text in shots)


def test_problems_are_read_strictly_and_flexibly(questions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = resolve("gsm8k", {"shots": 2})
    items = benchmark.items("causal", "test")
    assert [item.payload["accepted"] for item in items] == ["11", "12", "13"]
    *shots, question = items[0].payload["prompt"].split("\n\n")
    assert question == "Question: 10 + 1?\nAnswer:"
    assert len(shots) == 2
    assert all("\n#### " in text and "<<" in text for text in shots)
    rows = answering(monkeypatch, benchmark, "test", [" so 5.\n#### 11.", " it is $12", None])
    assert [(row["task"], row["correct"]) for row in rows] == [
        ("gsm8k-strict", 1.0), ("gsm8k-flexible", 1.0), ("gsm8k-strict", 0.0), ("gsm8k-flexible", 1.0), ("gsm8k-strict", None),
        ("gsm8k-flexible", None),
    ]
    metrics = evaluate(benchmark, benchmark.measure(Scorer(tiny_model("llama"), store=False), "test"), resamples=100)
    assert dict(metrics.select("task", "value").iter_rows()) == {"gsm8k-strict": 50.0, "gsm8k-flexible": 100.0}


TRIVIA_TEXTS = [" a bird 0", " A DOG!", " the dog", "", " Bird  1", " a dog, or", "\nBird 3"]
SUM_TEXTS = [" so 5.\n#### 11.", " it is $12", "#### 13", "", "#### 1,1", " 11 #### 12", " about 13.0"]


@pytest.mark.parametrize("start", range(len(TRIVIA_TEXTS)))
def test_whole_trivia_questions_are_asked_and_judged_as_in_lm_eval(
    start: int, questions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = resolve("triviaqa:lm-eval")
    items = benchmark.items("causal", "test")
    texts = [TRIVIA_TEXTS[(start + number) % len(TRIVIA_TEXTS)] for number in range(len(items))]
    rows = answering(monkeypatch, benchmark, "test", list(texts))
    documents = [
        {"question": f"What is in house {item.id}?", "answer": {"aliases": list(item.payload["accepted"])}} for item in items
    ]
    expected = judged_texts(harness_task("triviaqa/default.yaml", documents), texts)
    for item, row, (prompt, judged) in zip(items, rows, expected, strict=True):
        assert item.payload["prompt"] == prompt
        assert [row["correct"]] == list(judged.values())


@pytest.mark.parametrize("start", range(len(SUM_TEXTS)))
def test_whole_problems_are_asked_and_judged_as_in_lm_eval(start: int, questions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = resolve("gsm8k:0-shot")
    items = benchmark.items("causal", "test")
    texts = [SUM_TEXTS[(start + number) % len(SUM_TEXTS)] for number in range(len(items))]
    rows = answering(monkeypatch, benchmark, "test", list(texts))
    documents = [{"question": f"{one} + 1?", "answer": f"It is <<{one}+1={one + 1}>>.\n#### {one + 1}"} for one in range(10, 13)]
    expected = judged_texts(harness_task("gsm8k/gsm8k.yaml", documents), texts)
    found = [(row["task"], row["correct"]) for row in rows]
    assert found == [
        (f"gsm8k-{kind}", judged[name])
        for _, judged in expected for kind, name in (("strict", "strict-match"), ("flexible", "flexible-extract"))
    ]
    assert [item.payload["prompt"] for item in items] == [prompt for prompt, _ in expected]


def test_the_chat_format_asks_in_one_message(questions: None) -> None:
    model, benchmark = tiny_model("llama"), resolve("triviaqa:chat")
    with pytest.raises(UsageError, match="no chat template"):
        benchmark.check(model)
    model.tokenizer.chat_template = "{% for message in messages %}[SEP] {{ message['content'] }} [SEP]{% endfor %}"
    row = benchmark.measure(Scorer(model, store=False), "test").to_dicts()[0]
    assert row["prompt_format"] == "chat"
    assert row["protocol"] == "exact match, 0 shots, greedy"


def test_answers_are_those_of_lm_evals_model_class() -> None:
    model: Model = tiny_model("llama", seed=1)
    texts = ["Question: the nurse?\nAnswer:", "Question: a small dog in the house?\nAnswer:", "the man said"]
    stop = ("b", "##o")
    theirs = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1, max_length=256)
    options = {"until": list(stop), "do_sample": False, "max_gen_toks": 12}
    expected = theirs.generate_until(
        [Instance("generate_until", {}, (text, dict(options)), number) for number, text in enumerate(texts)], disable_tqdm=True
    )
    ids = [model.token_ids(text) for text in texts]
    ours = Generator(model, Decoding(12, 0.0, stop=stop), store=False).generate(ids)
    assert [answer.text for (answer,) in ours] == expected
    assert any(expected)
