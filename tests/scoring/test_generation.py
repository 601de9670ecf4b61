"""Generation against plain loops, over batches, orders, stops, edits, stores and interruptions."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM, TopPLogitsWarper

from fairforget import methods
from fairforget.edits import WeightEdit
from fairforget.edits.base import EditRecord
from fairforget.edits.deltas import Dense
from fairforget.edits.self_debias_processor import SelfDebiasProcessor
from fairforget.errors import FairforgetError, UsageError
from fairforget.models import Model
from fairforget.scoring.generation import Decoding, Generator, _Request
from fairforget.scoring.sampling import SeededSampling, nucleus

TEXTS = ("the nurse said that", "a dog", "he works at home and she", "the old man and the small bird in the tree")
SAMPLED = Decoding(max_new_tokens=6, temperature=1.3, top_p=0.8, seed=3)
GREEDY = Decoding(max_new_tokens=6, temperature=0.0)


def prompts(model: Model, texts: tuple[str, ...] = TEXTS) -> list[list[int]]:
    return [[*model.prefix, *model.token_ids(text)] for text in texts]


def texts(model: Model, ids: list[list[int]], decoding: Decoding, **options: object) -> list[str]:
    generator = Generator(model, decoding, store=False, **options)  # type: ignore[arg-type]
    return [answer.text for (answer,) in generator.generate(ids)]


def plain_loop(model: Model, ids: list[int], decoding: Decoding, edit: object = None) -> list[int]:
    """One prompt, no padding, no cache, every step a whole forward."""
    generator, new = None, []
    if decoding.temperature:
        generator = torch.Generator().manual_seed(_Request(tuple(ids), 0).seed(decoding.seed))
    for _ in range(decoding.max_new_tokens):
        whole = torch.tensor([[*ids, *new]])
        with torch.no_grad():
            logits = model.hf(input_ids=whole).logits[:, -1].float()
            if edit is not None:
                logits = SelfDebiasProcessor(model, edit)(whole, logits)  # type: ignore[arg-type]
        if generator is not None:
            kept = TopPLogitsWarper(decoding.top_p)(whole, logits / decoding.temperature).softmax(-1)[0]
            logits = (kept / torch.empty_like(kept).exponential_(generator=generator))[None]
        token = int(logits[0].argmax())
        if token in (model.tokenizer.eos_token_id, model.hf.generation_config.eos_token_id):
            break
        new.append(token)
    return new


@pytest.mark.parametrize("size", [12, 3000])
def test_the_nucleus_is_that_of_transformers(size: int) -> None:
    torch.manual_seed(size)
    logits = torch.randn(5, size) * torch.tensor([0.01, 0.5, 1.0, 3.0, 20.0])[:, None]  # from nearly uniform to nearly one token
    for top_p in (0.05, 0.5, 0.9, 0.999):
        expected = TopPLogitsWarper(top_p)(None, logits).softmax(-1)  # type: ignore[arg-type]
        found = nucleus(logits.softmax(-1), top_p)
        torch.testing.assert_close(found / found.sum(-1, keepdim=True), expected)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1])
    draws = SeededSampling(range(4000), 1.0, 1.0, torch.device("cpu"))(torch.zeros(4000, 1), probabilities.log().expand(4000, 4))
    shares = (draws == 0).float().mean(0)
    assert torch.all((shares - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / 4000).sqrt())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_are_those_of_a_plain_loop_in_any_batch_and_order(kind: str, decoding: Decoding) -> None:
    model = tiny_model(kind)
    ids = prompts(model)
    expected = [model.tokenizer.decode(plain_loop(model, one, decoding), skip_special_tokens=True) for one in ids]
    assert len(set(expected)) > 1
    assert texts(model, ids, decoding) == expected
    assert texts(model, ids, decoding, token_budget=1) == expected
    assert texts(model, ids[::-1], decoding) == expected[::-1]


def test_a_model_that_cannot_be_padded_is_run_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    ids, expected = prompts(model), texts(model, prompts(model), SAMPLED)
    monkeypatch.setattr(Model, "shares_prefixes", False)
    generator = Generator(model, SAMPLED, store=False)
    assert [answer.text for (answer,) in generator.generate(ids)] == expected
    assert generator.batches == len({len(one) for one in ids})


def test_seeds_and_samples_differ_and_come_again() -> None:
    model = tiny_model("llama")
    ids = prompts(model)
    three = Generator(model, SAMPLED, store=False).generate(ids, samples=3)
    assert [group[0].text for group in three] == texts(model, ids, SAMPLED)
    assert all(len({answer.text for answer in group}) > 1 for group in three)
    assert texts(model, ids, Decoding(6, 1.3, 0.8, seed=4)) != texts(model, ids, SAMPLED)
    with pytest.raises(UsageError, match="above 1 only with a temperature"):
        Generator(model, GREEDY, store=False).generate(ids, samples=2)


def test_an_answer_ends_at_a_stop_string_or_an_end_token_and_the_models_own_defaults_are_off() -> None:
    model = tiny_model("llama")
    ids, long = prompts(model), Decoding(max_new_tokens=12, temperature=0.0)
    whole = texts(model, ids, long)
    stop = whole[0][3:5]
    cut = Decoding(max_new_tokens=12, temperature=0.0, stop=(stop, "never written"))
    assert stop
    assert texts(model, ids, cut) == [text.split(stop)[0] for text in whole]
    model.hf.generation_config.repetition_penalty = 50.0
    assert texts(model, ids, long) == whole
    tokens = plain_loop(model, ids[0], long)
    model.hf.generation_config.eos_token_id = [tokens[4], 3]
    expected = model.tokenizer.decode(tokens[: tokens.index(tokens[4])])
    assert texts(model, ids[:1], long) == [expected]
    assert model.hf.generation_config.repetition_penalty == 50.0


def test_what_cannot_be_asked_is_a_sentence() -> None:
    model = tiny_model("gpt2")
    answers = Generator(model, GREEDY, store=False).generate([[7] * 251, [7] * 250, []])
    assert [answer.skipped for (answer,) in answers] == [
        "the prompt of 251 tokens and 6 new ones are more than the 256 positions of the model", None,
        "an empty prompt needs a prefix token to start from",
    ]
    with pytest.raises(UsageError, match="masked model and writes no text"):
        Generator(tiny_model("bert"), GREEDY)
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}, {"max_new_tokens": 0}):
        with pytest.raises(UsageError):
            Decoding(**wrong)  # type: ignore[arg-type]


def test_edits_are_part_of_the_state() -> None:
    model = tiny_model("llama", seed=2)
    ids = prompts(model)
    base = texts(model, ids, SAMPLED)
    edit = methods.SelfDebias(domains=["gender"], decay=1000.0, epsilon=1e-6).fit(model, [])
    with edit.applied(model):
        debiased = texts(model, ids, SAMPLED)
        expected = [model.tokenizer.decode(plain_loop(model, one, SAMPLED, edit), skip_special_tokens=True) for one in ids[:2]]
        skipped = Generator(model, SAMPLED, store=False).generate([[7] * 245])[0][0].skipped
    assert debiased[:2] == expected
    assert debiased != base
    assert skipped is not None
    assert "its biasing prefix leaves" in skipped
    with edit.at(0).applied(model):
        assert texts(model, ids, SAMPLED) == base


def test_answers_are_kept_and_an_interrupted_run_goes_on(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    ids = prompts(model)
    expected = texts(model, ids, SAMPLED)
    whole, runs = Generator._batch, []

    def interrupted(self: Generator, requests: object) -> object:
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(requests)
        return whole(self, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Generator(model, SAMPLED, token_budget=1).generate(ids)
    monkeypatch.setattr(Generator, "_batch", whole)
    again = Generator(model, SAMPLED, token_budget=1)
    assert [answer.text for (answer,) in again.generate(ids)] == expected
    assert again.batches == len(ids) - 2
    third = Generator(model, SAMPLED)
    assert [answer.text for (answer,) in third.generate(ids)] == expected
    assert third.batches == 0
    other = Generator(model, GREEDY)
    other.generate(ids)
    assert other.batches == 1


def test_a_batch_that_memory_cannot_hold_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    ids, expected = prompts(model), texts(model, prompts(model), SAMPLED)
    whole, limit = Generator._batch, [1]

    def small(self: Generator, requests: list[object]) -> object:
        if len(requests) > limit[0]:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "_batch", small)
    assert texts(model, ids, SAMPLED) == expected
    limit[0] = 0
    with pytest.raises(FairforgetError, match="not enough memory to continue even one prompt"):
        texts(model, ids, SAMPLED)


def test_vllm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"fairforget\[vllm\]"):
        texts(tiny_model("llama"), [[5, 7]], SAMPLED, engine="vllm")


def test_vllm_gets_the_edited_weights_and_a_seed_for_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with vLLM's calls, which runs the folder it is given greedily with transformers."""
    seen: dict[str, object] = {}

    class LLM:
        def __init__(self, model: str, **options: object) -> None:
            seen["options"] = options
            self.hf = AutoModelForCausalLM.from_pretrained(model)

        def generate(self, asked: list[dict[str, list[int]]], parameters: list[types.SimpleNamespace], use_tqdm: bool) -> list[object]:
            seen["parameters"] = parameters
            outputs = []
            for prompt in asked:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                new = self.hf.generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=0)[0, ids.shape[1] :].tolist()
                outputs.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=new)]))
            return outputs

    fake = types.SimpleNamespace(LLM=LLM, SamplingParams=lambda **options: types.SimpleNamespace(**options))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    model = tiny_model("llama")
    ids = prompts(model)
    name = "lm_head.weight"
    torch.manual_seed(5)
    edit = WeightEdit({name: Dense(torch.randn_like(model.hf.get_parameter(name)))}, EditRecord.for_model(model, "made up"))
    with edit.applied(model):
        expected = texts(model, ids, GREEDY)
        assert texts(model, ids, GREEDY, engine="vllm") == expected
        assert model.edits == [edit]
    assert seen["options"]["generation_config"] == "vllm"  # type: ignore[index]
    assert len({one.seed for one in seen["parameters"]}) == len(ids)  # type: ignore[attr-defined]
    with methods.SelfDebias(domains=["age"]).fit(model, []).applied(model):
        with pytest.raises(UsageError, match="merge"):
            texts(model, ids, GREEDY, engine="vllm")
        assert len(model.edits) == 1
