"""Which states count, which words are classes, and documents' shares of the figures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny import tiny_model

from fairforget.errors import UsageError
from fairforget.geometry import (
    ClassMoments,
    Window,
    WordSet,
    control_words,
    decoder_inputs,
    full_vocabulary,
    listed_words,
    measure_geometry,
    output_matrix,
    paired_tokens,
    tokens_to_pair,
)
from fairforget.geometry.collapse import collapse_statistics
from fairforget.geometry.measure import _Tracker, plane
from fairforget.models import Model

WORDS = "the nurse said that he had no time and she was in the house with his dog and her cat when a man met the young woman".split()


def corpus(model: Model, documents: int = 6, length: int = 24) -> list[Window]:
    """Windows of shuffled words, one a document."""
    found: list[Window] = []
    for document in range(documents):
        text = " ".join(np.random.default_rng(document).permutation(WORDS)[:length])
        found.append(Window((*model.prefix, *model.sequence_ids(text)), document))
    return found


def test_a_state_stands_for_the_next_token_that_is_there() -> None:
    ids, mask = torch.tensor([[7, 8, 9]]), torch.tensor([[1, 1, 0]])
    labels = torch.tensor([[-100, 8, -100]])
    assert paired_tokens(ids, mask, None, "next").tolist() == [[8, -100, -100]]
    assert paired_tokens(ids, mask, labels, "masked").tolist() == [[-100, 8, -100]]
    assert paired_tokens(ids, mask, None, "self").tolist() == [[7, 8, -100]]
    assert tokens_to_pair(tiny_model("gpt2"), "auto") == "next"
    with pytest.raises(UsageError, match="pairing=next"):
        tokens_to_pair(tiny_model("gpt2"), "masked")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "roberta"])
def test_decoder_inputs_times_the_output_matrix_are_the_logits(kind: str) -> None:
    model = tiny_model(kind)
    states = torch.randn(5, 32)
    with torch.no_grad():
        logits = decoder_inputs(model, states) @ output_matrix(model).T
        bias = model.hf.get_output_embeddings().bias
        torch.testing.assert_close(logits if bias is None else logits + bias, model.head(states), rtol=1e-4, atol=1e-4)


def test_listed_words_are_whole_and_of_one_group() -> None:
    model = tiny_model("bert")
    words = listed_words(model, "gender")
    assert {"he", "she", "man", "woman"} <= set(words.words)
    assert set(words.groups) == {"male", "female"}
    assert words.dropped["of several tokens"] > 100
    pieces = listed_words(model, "gender", pieces="first_piece")
    assert len(pieces) > len(words)
    assert pieces.dropped["of two groups"] > 3  # single letters begin words of both
    assert "[UNK]" not in pieces.words


def test_controls_are_as_many_and_as_frequent() -> None:
    model = tiny_model("bert")
    words = listed_words(model, "gender")
    counts = Counter(dict.fromkeys(full_vocabulary(model).ids, 5))
    common = model.token_ids("water")[0]
    counts.update({words.ids[0]: 95, common: 90})
    matched = control_words(model, words.ids, "matched", counts, seed=1)
    assert len(matched) == len(words)
    assert common in matched.ids
    assert not set(matched.ids) & set(words.ids)
    drawn = [control_words(model, words.ids, "random", counts, seed=seed).ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(UsageError, match="longer text"):
        control_words(model, words.ids, "random", Counter({words.ids[0]: 3}))


def direct(model: Model, rows: list[tuple[list[int], int, int]], words: WordSet) -> dict[str, float]:
    """Figures from states computed one by one: ids, place, token."""
    found = ClassMoments(len(words), 32)
    with torch.no_grad():
        for ids, place, token in rows:
            hidden = model.hidden(torch.tensor([ids]), torch.ones((1, len(ids)), dtype=torch.int64))[0, place : place + 1]
            found.add(decoder_inputs(model, hidden), torch.tensor([words.ids.index(token)]))
        rows_of = output_matrix(model)[torch.tensor(words.ids)].double()
    seen = found.counts > 0
    values = collapse_statistics(found.means[seen], found.variances[seen], found.counts[seen], rows_of[seen])
    return {name: float(value) for name, value in values.items()}


def test_a_causal_model_is_measured_before_the_word() -> None:
    model = tiny_model("gpt2")
    windows, words = corpus(model), listed_words(model, "gender")
    expected = direct(
        model, [(list(w.ids), place - 1, token) for w in windows for place, token in enumerate(w.ids) if token in words.ids], words
    )
    whole = full_vocabulary(model)
    alone, among = (
        measure_geometry(model, windows, 6, sets)[0] for sets in ([words], [words, whole])  # tracked alone, and in all rows
    )
    assert alone.values == pytest.approx(expected, rel=1e-4)
    assert among.values == pytest.approx(alone.values, rel=1e-9)
    np.testing.assert_allclose(alone.shares[alone.tokens > 0].mean(axis=0), list(alone.values.values()), rtol=1e-9)
    assert alone.tokens.sum() == alone.counts.sum() == sum(token in words.ids for w in windows for token in w.ids)


def test_a_masked_model_is_measured_at_the_masked_word() -> None:
    model = tiny_model("bert")
    windows, words = corpus(model), listed_words(model, "gender")
    masked = [
        ([*w.ids[:place], model.mask_id, *w.ids[place + 1 :]], place, token)
        for w in windows for place, token in enumerate(w.ids) if token in words.ids
    ]
    found = measure_geometry(model, windows, 6, [words])[0]
    assert found.values == pytest.approx(direct(model, masked, words), rel=1e-4)  # type: ignore[arg-type]
    few = measure_geometry(model, windows, 6, [words], per_word=2)[0]
    assert few.counts.max() == 2
    random = measure_geometry(model, windows, 6, [full_vocabulary(model)], masking="random")[0]
    assert 0.1 * 26 * 6 < random.counts.sum() < 0.2 * 26 * 6
    before = measure_geometry(model, windows, 6, [words], site="encoder_last")[0]
    assert before.values["unc3"] != pytest.approx(found.values["unc3"])
    released = measure_geometry(model, windows, 6, [words], pairing="next")[0]
    assert released.values["unc3"] != pytest.approx(found.values["unc3"])


def test_a_documents_share_is_the_slope_of_the_figure() -> None:
    model, times = tiny_model("gpt2"), 150
    words = listed_words(model, "gender")
    windows = [window for window in corpus(model) for _ in range(times)]
    found = measure_geometry(model, windows, 6, [words])[0]
    more = measure_geometry(model, [*windows, windows[0]], 6, [words])[0]
    present = int((found.tokens > 0).sum())
    slopes = (found.shares[0] - list(found.values.values())) / present
    changes = times * (np.array(list(more.values.values())) - list(found.values.values()))
    near = dict(zip(found.values, np.column_stack([slopes, changes]), strict=True))
    for name in ("unc3", "nc3_mean", "nc1_e1", "nc2_cos_std", "gnc2_mean"):
        assert near[name][0] == pytest.approx(near[name][1], rel=0.08, abs=1e-4), name


def test_a_softmax_invariant_shift_is_seen_unless_rows_are_centred() -> None:
    model = tiny_model("llama")
    windows, words = corpus(model), listed_words(model, "gender")

    def spread(*, centre: bool) -> float:
        return measure_geometry(model, windows, 6, [words], centre_rows=centre)[0].values["unc3"]

    before = [spread(centre=centre) for centre in (False, True)]
    with torch.no_grad():
        output_matrix(model).add_(torch.randn(32))
    after = [spread(centre=centre) for centre in (False, True)]
    assert after[0] != pytest.approx(before[0], rel=1e-3)
    assert after[1] == pytest.approx(before[1], rel=1e-4)


@pytest.mark.parametrize(("swapped", "rate"), [(False, 1.0), (True, 0.5)])
def test_nc4_of_well_separated_classes(swapped: bool, rate: float) -> None:
    states = 5 * torch.eye(4).double().repeat_interleave(10, dim=0) + 0.01 * torch.randn(40, 4).double()
    classes, owners = torch.arange(4).repeat_interleave(10), torch.arange(40) % 2
    halves = [ClassMoments(4, 4) for _ in range(2)]
    for half, moments in enumerate(halves):
        moments.add(states[owners == half], classes[owners == half])
    both = ClassMoments(4, 4)
    for moments in halves:
        both.merge(moments)
    rows = 2 * 5 * torch.eye(4).double()
    rows = rows[[1, 0, 2, 3]] if swapped else rows
    words = WordSet("four", (0, 1, 2, 3), ("a", "b", "c", "d"), ("",) * 4)
    tracker = _Tracker(words, {number: number for number in range(4)}, both, halves, rows, 2, 1, weighted=False)
    tracker.add(states, classes, owners)
    agreed, decided = tracker.result().nc4.sum(axis=0)
    assert decided == 40
    assert agreed / decided == rate


def test_the_plane_of_two_groups_shows_what_tells_them_apart() -> None:
    means = torch.randn(6, 5).double() * 0.1
    means[:3, 0] += 4
    found = plane(means, ["male"] * 3 + ["female"] * 3)
    assert abs(float(found[:3, 0].mean() - found[3:, 0].mean())) == pytest.approx(4, rel=0.1)
    assert plane(means[:2], ["a", "b"]).tolist() == [[0, 0], [0, 0]]
