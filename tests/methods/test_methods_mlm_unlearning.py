"""MLM unlearning: finders on texts whose answer is known, controls, and the method on both families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from fairforget import methods
from fairforget.data.negatives import matched_lengths, negative_texts
from fairforget.data.training import TrainingText, training_source
from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.methods._spans import cached_spans, random_spans, span_jaccard, word_spans
from fairforget.methods._spans.attribution import classifier_finder, probe_finder
from fairforget.methods._spans.chat import ChatFinder, occurrences
from fairforget.methods._spans.contrast import ContrastFinder
from fairforget.methods._spans.lexicon import LexiconFinder, read_lexicon, telling_words
from fairforget.methods._spans.ranking import top_words
from fairforget.methods._trained import Job
from fairforget.models.hashing import content_hash
from fairforget.objectives import Ascent
from fairforget.objectives.likelihood import token_log_probabilities
from fairforget.objectives.spans import SpanStream
from fairforget.scoring import ContinuationRequest, MaskedRequest, Request, Scorer
from fairforget.training.streams import Collator

HARMFUL = ["the nurse is bad at work", "bad people in the city", "the doctor is bad", "a bad teacher said no"] * 4
OTHERS = ["the nurse is good at work", "good people in the city", "the doctor is old", "a good teacher said no"] * 4


def words_of(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_a_lexicon_marks_whole_words_in_any_case() -> None:
    finder = LexiconFinder(["bad", "very bad", ""])
    text = "Bad, not badly: a very bad day"
    assert words_of(text, finder.find([text])[0]) == ["Bad", "very bad"]
    with pytest.raises(DataError, match="empty"):
        LexiconFinder([" "])


def test_a_lexicon_file_may_have_remarks(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# ours\nbad\n", encoding="utf-8")
    assert read_lexicon(file) == ["bad"]
    with pytest.raises(DataError, match="cannot be read"):
        read_lexicon(tmp_path / "none.txt")


def test_the_words_that_tell_harmful_texts_are_found() -> None:
    assert telling_words(HARMFUL * 10, OTHERS * 10) == ["bad"]
    assert telling_words(HARMFUL, HARMFUL) == []


def test_findings_are_kept_and_asked_for_once(tmp_path: Path) -> None:
    class Counting:
        identity = "counting"
        asked = 0

        def find(self, texts: list[str]) -> list[list[tuple[int, int]]]:
            self.asked += len(texts)
            return [word_spans(text)[:1] for text in texts]

    finder, file = Counting(), tmp_path / "spans.jsonl"
    first = cached_spans(finder, ["a dog", "red book", "a dog"], file)
    assert first == [[(0, 1)], [(0, 3)], [(0, 1)]]
    assert cached_spans(finder, ["red book", "a hill"], file)[0] == [(0, 3)]
    assert finder.asked == 3
    assert "dog" not in file.read_text()
    file.write_text("{}\n")
    with pytest.raises(FairforgetError, match="line 1"):
        cached_spans(finder, ["a dog"], file)


def test_random_words_are_as_many_and_others() -> None:
    texts = ["the nurse is bad at work", "bad bad dog"]
    spans = LexiconFinder(["bad"]).find(texts)
    drawn = random_spans(texts, spans, 0)
    assert [len(found) for found in drawn] == [1, 2]
    assert "bad" not in words_of(texts[0], drawn[0])
    assert "dog" in words_of(texts[1], drawn[1])  # too few others: the rest is of the marked ones
    assert drawn == random_spans(texts, spans, 0)


def test_top_words_sum_their_tokens() -> None:
    text = "abc de fg"
    offsets = [(0, 2), (2, 3), (4, 6), (7, 9)]
    assert words_of(text, top_words(text, offsets, [1.0, 1.0, 1.5, float("nan")], 0.34)) == ["abc"]
    assert top_words(text, offsets, [-1.0, -1.0, -1.0, -1.0], 1.0) == []


def test_a_chat_model_may_only_quote() -> None:
    assert words_of("bad dog, bad cat", occurrences("bad dog, bad cat", ["bad", "bad dog", "horse", "a b c d e f"])) == ["bad dog", "bad"]
    answers = iter(["I cannot", 'Here: ["bad"]', "[]"])
    finder = ChatFinder(lambda prompt: next(answers), "test")
    assert finder.find(["a bad dog", "a dog"]) == [[(2, 5)], []]
    with pytest.raises(FairforgetError, match="no JSON list"):
        ChatFinder(lambda prompt: '{"a": 1}', "test").find(["a dog"])


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_contrast_finds_what_the_tuned_model_has_learnt(kind: str, tmp_path: Path, own_cache: Path) -> None:
    del own_cache
    model = tiny_model(kind)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    finder = ContrastFinder(model, ["the nurse was bad", "the man was bad", "the dog was bad"] * 3, share=0.3, folder=tmp_path, steps=60)
    text = "the dog was bad he has red rain"
    found = set(words_of(text, finder.find([text])[0]))
    assert found
    assert found <= {"the", "dog", "was", "bad"}
    assert all(torch.equal(before[name], parameter) for name, parameter in model.hf.named_parameters())


def test_attribution_follows_the_classifier(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("masked")
    torch.manual_seed(0)
    network = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    blank = [text.replace("bad", "[MASK]") for text in HARMFUL]  # what is compared with must not look harmful
    batch = tokenizer([*HARMFUL, *OTHERS, *blank], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    labels = torch.tensor([1] * len(HARMFUL) + [0] * (len(OTHERS) + len(blank)))
    for _ in range(30):
        optimizer.zero_grad()
        network(**batch, labels=labels).loss.backward()
        optimizer.step()
    network.config.id2label = {0: "fine", 1: "harmful"}
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    finder = classifier_finder(str(tmp_path), label="harmful", share=0.2, device=torch.device("cpu"))
    assert words_of("the man is bad", finder.find(["the man is bad", ""])[0]) == ["bad"]
    with pytest.raises(UsageError, match="no label"):
        classifier_finder(str(tmp_path), label="toxic", share=0.2, device=torch.device("cpu"))
    with pytest.raises(FairforgetError, match="cannot be loaded"):
        classifier_finder(str(tmp_path / "none"), label=None, share=0.2, device=torch.device("cpu"))


def test_a_probe_serves_without_a_classifier() -> None:
    model = tiny_model("bert")
    finder = probe_finder(model, HARMFUL, OTHERS, share=0.2)
    assert words_of("the man is bad", finder.find(["the man is bad"])[0]) == ["bad"]


def log_probability(kind: str, edit: object, word: str) -> float:
    model = tiny_model(kind)
    ids = model.sequence_ids(f"the doctor is {word}")
    target = model.token_ids(word)[0]
    place = ids.index(target)
    request: Request = (
        ContinuationRequest((*model.prefix, *ids[:place]), (target,)) if model.family == "causal"
        else MaskedRequest((*ids[:place], model.mask_id or 0, *ids[place + 1 :]), (place,), (target,))
    )
    with edit.applied(model):  # type: ignore[attr-defined]
        return float(Scorer(model, store=False).score([request])[0].sum())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_harmful_word_is_unlearnt_and_the_model_left_as_it_was(kind: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("bad\n", encoding="utf-8")
    # The word is likely in a random model or not; without a floor it is driven down either way.
    method = methods.MlmUnlearning(lexicon=str(words), steps=12, batch_size=8, learning_rate=5e-3, clamp=0.0, precision="float32")
    model = tiny_model(kind)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    edit = method.fit(model, HARMFUL)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.hf.named_parameters())
    assert edit.record.provenance["spans"]["texts"] == len(HARMFUL)
    assert log_probability(kind, edit.at(1.0), "bad") < log_probability(kind, edit.at(0.0), "bad") - 0.5
    assert method.fit(model, HARMFUL).content_hash == edit.content_hash


@pytest.mark.parametrize("settings", [
    {"control": "random"}, {"right_context": "candidates", "candidates": 3}, {"finder": "contrast"}, {"retain": "kl"},
])
def test_every_choice_trains(settings: dict[str, object], tmp_path: Path, own_cache: Path) -> None:
    del own_cache
    words = tmp_path / "words.txt"
    words.write_text("bad\n", encoding="utf-8")
    method = methods.MlmUnlearning(lexicon=str(words), steps=2, batch_size=4, precision="float32", **settings)
    edit = method.fit(tiny_model("llama"), HARMFUL)
    assert edit.record.provenance["training"]["steps"] == 2


def test_agreement_of_two_findings_by_hand() -> None:
    assert span_jaccard([[(0, 4)], []], [[(2, 6)], []]) == pytest.approx(2 / 6)
    assert span_jaccard([[(0, 4)], [(0, 2)]], [[(0, 4)], [(0, 2)]]) == 1.0
    assert span_jaccard([[(0, 2)]], [[(3, 5)]]) == 0.0
    assert span_jaccard([[]], [[]]) == 1.0


def test_what_would_be_unlearned_is_told_without_training(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("nurse\n", encoding="utf-8")
    method, model = methods.MlmUnlearning(lexicon=str(tmp_path / "words.txt")), tiny_model("bert")
    before = content_hash(model.hf)
    texts = ["the nurse said she is late", "the doctor is old"]
    assert [words_of(text, spans) for text, spans in zip(texts, method.harmful_spans(model, texts), strict=True)] == [["nurse"], []]
    assert content_hash(model.hf) == before
    found = [methods.MlmUnlearning(finder="contrast", share=0.3).harmful_spans(model, HARMFUL, seed=seed) for seed in (0, 0, 1)]
    assert span_jaccard(found[0], found[1]) == 1.0
    assert 0 <= span_jaccard(found[0], found[2]) <= 1.0


def test_annotators_spans_are_taken_as_they_are() -> None:
    rows = [TrainingText("a bad dog", (), "1", spans=((2, 5),)), TrainingText("a dog", (), "2")]
    edit = methods.MlmUnlearning(finder="annotated", steps=1, batch_size=1, precision="float32").fit(tiny_model("bert"), rows)
    assert edit.record.provenance["spans"] == json.loads(json.dumps(edit.record.provenance["spans"]))
    assert edit.record.provenance["spans"]["left_out"] == 1


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="sees both sides"):
        methods.MlmUnlearning(right_context="candidates").fit(tiny_model("bert"), HARMFUL)
    with pytest.raises(UsageError, match=r"method\.endpoint"):
        methods.MlmUnlearning(finder="llm").fit(tiny_model("llama"), HARMFUL)
    with pytest.raises(UsageError, match="has no texts without harm"):
        methods.MlmUnlearning().fit(tiny_model("llama"), HARMFUL)
    with pytest.raises(UsageError, match="marked"):
        methods.MlmUnlearning(finder="annotated").fit(tiny_model("llama"), HARMFUL)


def test_a_lexicon_comes_from_labelled_posts(data_folder: Path) -> None:
    del data_folder
    from fairforget.data.negatives import negative_texts
    from fairforget.data.training import training_source

    harmful = [text.text for text in training_source("edos").texts]
    words = telling_words(harmful, negative_texts("edos"))
    assert 50 <= len(words) <= 300
    assert "women" in words[:10]
    marked = training_source("civil-comments").texts[0]
    assert marked.spans
    assert all(0 <= start < end <= len(marked.text) for start, end in marked.spans)


def test_posts_without_harm_are_matched_in_length_and_drawn_by_the_seed() -> None:
    texts, others = ["a b", "a b c d e"], ["x", "x y", "p q", "x y z w", "1 2 3 4 5 6", "1 2 3 4 5 6 7 8 9"]
    rounds = list(matched_lengths(texts, others, 0))
    assert sorted(text for found in rounds for text in found) == sorted(others)  # each once
    assert rounds[0][0] in ("x y", "p q") and rounds[0][1] in ("x y z w", "1 2 3 4 5 6")
    assert rounds[1][0] in {"x y", "p q"} - {rounds[0][0]}
    assert rounds == list(matched_lengths(texts, others, 0))
    assert len({tuple(next(matched_lengths(texts, others, seed))) for seed in range(20)}) > 1


def test_the_control_has_as_many_posts_with_a_marked_word(tmp_path: Path) -> None:
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("nurse\n", encoding="utf-8")
    method = methods.MlmUnlearning(control="non-hateful", lexicon=str(lexicon), steps=2, precision="float32")
    job = Job(tiny_model("bert"), training_source("starter"), 0, tmp_path)
    method.streams(job)
    marked = LexiconFinder(["nurse"]).find(negative_texts("starter"))
    assert job.notes["spans"]["texts"] == min(len(job.data.texts), sum(bool(found) for found in marked)) > 0  # type: ignore[union-attr]


def test_words_above_a_threshold_take_the_place_of_a_share() -> None:
    text, offsets = "one two three", [(0, 3), (4, 7), (8, 13)]
    assert words_of(text, top_words(text, offsets, [0.5, 2.0, 1.0], 0.01, threshold=0.8)) == ["two", "three"]
    assert top_words(text, offsets, [0.5, 2.0, 1.0], 0.9, threshold=5.0) == []


def test_rows_may_count_alike_whatever_is_marked_in_them() -> None:
    model = tiny_model("bert")
    texts, spans = ["the nurse is bad", "a dog"], [[(4, 9), (13, 16)], [(2, 5)]]
    stream = SpanStream(model, texts, spans)
    batch = Collator(model.pad_id).batch([stream.example(0, 0), stream.example(1, 0)])
    each = token_log_probabilities(model, batch).detach()
    tokens, rows = Ascent(), Ascent(per_row=True)
    assert (tokens.count(batch), rows.count(batch)) == (3, 2)
    assert float(tokens.sum(model, batch).detach()) == pytest.approx(float(each.sum()))
    assert float(rows.sum(model, batch).detach()) == pytest.approx(float((each[0] + each[1]) / 2 + each[2]))
