"""Sentence-Debias and INLP: planted directions are found, models are left alone, groups become harder to tell."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC
from tiny import tiny_model

from fairforget import methods
from fairforget.data.swaps import Swapper
from fairforget.data.training import TrainingText
from fairforget.edits import ProjectionEdit
from fairforget.errors import UsageError
from fairforget.methods._attribute_sentences import cut_after, paired_versions, swapped_versions
from fairforget.methods.inlp import Examples, iterative_nullspace
from fairforget.methods.sentence_debias import orthonormal_columns, principal_directions
from fairforget.models.hashing import content_hash
from fairforget.scoring.representations import sentence_vectors

PLACES = ("home", "water", "the house", "the city", "a street", "the river", "a book", "the hill")
GENDERED = [f"{word} is at {place}" for place in PLACES for word in ("she", "the man", "he has a day", "the young woman")]
NEUTRAL = [f"the {thing} was by {place}" for place in PLACES for thing in ("dog", "tree", "bird")]
TEXTS = [*GENDERED, *NEUTRAL]


def test_a_planted_direction_is_recovered() -> None:
    generator = np.random.default_rng(0)
    direction = np.zeros(16)
    direction[3] = 1
    sentences = generator.normal(size=(200, 16))
    owner = np.repeat(np.arange(200), 2)
    vectors = np.repeat(sentences, 2, axis=0)
    vectors[::2] += 0.5 * direction
    vectors[1::2] -= 0.5 * direction
    vectors += 0.01 * generator.normal(size=vectors.shape)
    found, shares = principal_directions(vectors, owner, 1)
    assert abs(float(found[0] @ direction)) > 0.99
    assert shares[0] > 0.9


def test_three_versions_are_centred_on_their_mean() -> None:
    plane = np.eye(8)[:2]
    corners = np.array([[1, 0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]) @ plane
    away = np.eye(8)[4:5] * np.repeat([10.0, 20.0, 30.0], 3)[:, None]
    found, shares = principal_directions(away + np.tile(corners, (3, 1)), np.repeat(np.arange(3), 3), 2)
    assert np.abs(found[:, 2:]).max() < 1e-9
    assert sum(shares) == pytest.approx(1)


def test_directions_within_the_span_of_others_are_left_out() -> None:
    basis = orthonormal_columns(np.array([[1.0, 2.0, 1.0], [0, 0, 1], [0, 0, 0]]))
    assert basis.shape == (3, 2)
    assert np.allclose(basis.T @ basis, np.eye(2))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_nullspace_leaves_nothing_that_a_classifier_could_read(classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 600)
    vectors = generator.normal(size=(600, 12))
    vectors[:, 0] += 4 * (labels == 0)
    vectors[:, 5] += 4 * (labels == 1)
    examples = Examples(vectors, labels, np.arange(600) % 4 == 0)
    found = iterative_nullspace(examples, 3)
    projection = np.eye(12) - found.basis @ found.basis.T
    assert np.allclose(projection, projection.T)
    assert np.allclose(projection @ projection, projection)
    assert np.linalg.matrix_rank(projection) == 12 - found.basis.shape[1]
    assert found.basis.shape[1] == 3 if classes == 2 else 3 < found.basis.shape[1] <= 9
    first = LinearSVC(fit_intercept=False, dual=False, class_weight="balanced").fit(vectors[~examples.held_out], labels[~examples.held_out])
    assert np.abs(projection @ first.coef_.T).max() < 1e-9
    assert found.accuracies[0] > (0.9 if classes == 2 else 0.75)
    assert found.accuracies[-1] < found.accuracies[0]
    after = iterative_nullspace(Examples(vectors @ projection, labels, examples.held_out), 1)
    assert after.accuracies[0] < found.chance + 0.12


def test_the_search_ends_where_nothing_is_left_or_little_is_read() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    vectors = generator.normal(size=(200, 4))
    vectors[:, 1] += 5 * labels
    examples = Examples(vectors, labels, np.arange(200) % 4 == 0)
    assert iterative_nullspace(examples, 50).basis.shape == (4, 4)
    assert iterative_nullspace(examples, 50, minimum_accuracy=0.75).basis.shape[1] < 4
    kept = iterative_nullspace(examples, 1).basis
    grown = iterative_nullspace(examples, 1, basis=kept).basis
    assert np.array_equal(grown[:, :1], kept)
    assert np.allclose(grown.T @ grown, np.eye(2))


def test_versions_of_sentences() -> None:
    assert swapped_versions(["She met her son.", "He met his daughter.", "It rained."], "gender", names=False) == [
        ("She met her son.", "He met his daughter.")
    ]
    (found,) = swapped_versions(["The rabbi went to the synagogue."], "religion", names=False)
    assert set(found) == {
        "The rabbi went to the synagogue.", "The priest went to the church.", "The imam went to the mosque.",
    }
    row = TrainingText("a", (), "a", "b")
    assert paired_versions([row, row, TrainingText("c", (), "c")]) == [("a", "b")]


def test_cuts_keep_the_first_listed_word() -> None:
    swapper, generator = Swapper("gender", names=False), np.random.default_rng(0)
    cuts = {cut_after("one two she four five", swapper, generator) for _ in range(60)}
    assert cuts == {"one two she", "one two she four", "one two she four five"}
    assert {cut_after("a b c d e", swapper, generator) for _ in range(40)} == {"a b c d", "a b c d e"}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("name", ["SentenceDebias", "Inlp"])
def test_the_edit_removes_what_tells_the_groups_apart_and_the_model_is_left_alone(name: str, kind: str) -> None:
    model = tiny_model(kind)
    digest = content_hash(model.hf)
    method = getattr(methods, name)(**({"iterations": 3} if name == "Inlp" else {}))
    edit = method.fit(model, TEXTS, seed=3)
    assert content_hash(model.hf) == digest
    assert not model.edits
    assert isinstance(edit, ProjectionEdit)
    versions = swapped_versions(GENDERED, "gender", names=False)
    flat = [text for texts in versions for text in texts]

    def gap() -> float:
        vectors = sentence_vectors(model, flat)
        return float(np.linalg.norm(vectors[::2] - vectors[1::2], axis=1).mean())

    plain, vectors = gap(), sentence_vectors(model, flat)
    with edit.at(0).applied(model):
        assert np.array_equal(sentence_vectors(model, flat), vectors)
    with edit.at(0.5).applied(model):
        half = gap()
    with edit.applied(model):
        assert gap() < half < plain
        assert np.abs(sentence_vectors(model, flat) @ edit.basis.numpy()).max() < 1e-4
    assert edit.record.provenance["subspace"]["directions"] == edit.basis.shape[1]
    assert method.fit(tiny_model(kind), TEXTS, seed=3).content_hash == edit.content_hash


def test_the_seed_and_the_family_count_for_inlp() -> None:
    def fitted(kind: str, seed: int, **values: object) -> ProjectionEdit:
        return methods.Inlp(**values).fit(tiny_model(kind), TEXTS, seed=seed)

    assert fitted("llama", 0, iterations=2).content_hash != fitted("llama", 1, iterations=2).content_hash
    record = fitted("llama", 0).record.provenance["subspace"]["gender"]
    assert record["classifiers"] == 10
    assert len(record["sentences_by_class"]) == 3
    masked = fitted("bert", 0)
    assert masked.record.provenance["subspace"]["gender"]["classifiers"] <= 80
    assert masked.basis.shape[1] > 20


def test_several_lists_layers_and_counterparts() -> None:
    model = tiny_model("llama")
    texts = [*TEXTS, *(f"the {word} is at {place}" for place in PLACES for word in ("rabbi", "imam"))]
    edit = methods.SentenceDebias(words=["gender", "religion"], components=2, layer=0).fit(model, texts)
    assert (edit.layer, edit.basis.shape[1]) == (0, 4)
    both = methods.Inlp(words=["gender", "religion"], iterations=2, layer=1, swaps=False, cut=False).fit(model, texts)
    assert both.record.provenance["subspace"]["religion"]["chance"] == 0.5
    rows = [TrainingText(f"the old man is at {place}", ("age",), place, f"the young man is at {place}") for place in PLACES]
    assert methods.SentenceDebias(versions="counterparts").fit(model, rows).basis.shape[1] == 1


@pytest.mark.parametrize(
    ("name", "values", "data", "sentence"),
    [
        ("SentenceDebias", {}, NEUTRAL, "hold 0 texts with a word of the list 'gender'"),
        ("SentenceDebias", {"versions": "counterparts"}, TEXTS, "0 texts with a counterpart"),
        ("SentenceDebias", {}, [], "empty"),
        ("SentenceDebias", {"layer": 7}, TEXTS, "there is no layer 7"),
        ("SentenceDebias", {"words": ["genders"]}, TEXTS, "words"),
        ("Inlp", {}, NEUTRAL, "0 sentences of the class 'male'"),
        ("Inlp", {"words": ["race"]}, TEXTS, "0 sentences of the class 'a word of the list 'race''"),
        ("Inlp", {"minimum_accuracy": 1.0}, [*GENDERED, *(f"a day with {text}" for text in GENDERED)], "nothing is removed"),
    ],
)
def test_what_cannot_be_found_is_refused(name: str, values: dict, data: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        getattr(methods, name)(**values).fit(tiny_model("llama"), data)
