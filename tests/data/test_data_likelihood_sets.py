"""Parsers of WinoBias, ToxiGen, SafeNLP, HolisticBias, HONEST and the translated CrowS-Pairs: real counts, and broken files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fairforget.data.crows_pairs_multilingual import load_crows_pairs_multilingual
from fairforget.data.holistic_bias import SENTIMENT_TEMPLATES, load_descriptors, load_templates
from fairforget.data.honest import load_honest, load_hurtlex
from fairforget.data.posts import load_hatecheck
from fairforget.data.toxigen import load_annotated, load_statements
from fairforget.data.winobias import load_winobias
from fairforget.errors import DataError

# WinoBias


def winobias_folder(folder: Path, **lines: list[str]) -> Path:
    content = {
        "pro": ["1 [The nurse] met the driver because [she] was late.", "2 The nurse met [the driver] because of [his] bus."],
        "anti": ["1 [The nurse] met the driver because [he] was late.", "2 The nurse met the [driver] because of [her] bus."],
    } | lines
    for type_ in (1, 2):
        for split in ("dev", "test"):
            for side, texts in content.items():
                (folder / f"{side}_stereotyped_type{type_}.txt.{split}").write_text("\n".join(texts) + "\n")
    (folder / "male_occupations.txt").write_text("driver\nCEO\n")
    (folder / "female_occupations.txt").write_text("nurse\n")
    return folder


def test_the_real_winobias(data_folder: Path) -> None:
    pairs = load_winobias()
    assert len(pairs) == 1584
    assert Counter(pair.type for pair in pairs) == {1: 792, 2: 792}
    assert Counter(pair.gender for pair in pairs) == {"male": 792, "female": 792}
    assert sum(not pair.minimal for pair in pairs) == 21
    clusters = {(pair.cluster, pair.part) for pair in pairs}
    assert len(clusters) == len({cluster for cluster, _ in clusters}) == 393
    assert all("[" not in "".join(pair.pro + pair.anti) for pair in pairs)


def test_a_pair_of_winobias(tmp_path: Path) -> None:
    first, second, *others = load_winobias(winobias_folder(tmp_path))
    assert first.pro == ("The nurse met the driver because ", "she", " was late.")
    assert first.anti == ("The nurse met the driver because ", "he", " was late.")
    assert (first.gender, second.gender) == ("female", "male")
    assert first.minimal and second.minimal  # brackets around another word of the same sentence are no difference
    assert len({pair.cluster for pair in (first, second, *others)}) == 1


def test_what_differs_in_more_than_pronouns_is_not_minimal(tmp_path: Path) -> None:
    anti = ["1 [The nurse] met the driver because [he] was very late.", "2 The nurse met [the driver] because of [his] bus."]
    assert [pair.minimal for pair in load_winobias(winobias_folder(tmp_path, anti=anti))[:2]] == [False, False]


@pytest.mark.parametrize(("lines", "words"), [
    ({"anti": ["1 [The nurse] met the driver because [he] was late."]}, "has 2 sentences and .* has 1: one of them is cut off"),
    ({"pro": ["[The nurse] met the driver.", "2 x [he]"]}, "line 1 is not a number and a sentence with a pronoun"),
    ({"pro": ["1 The cat said that [he] was late.", "2 x [he]"]}, "line 1 names none of the 3 occupations"),
])
def test_what_is_not_winobias_is_refused(tmp_path: Path, lines: dict[str, list[str]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_winobias(winobias_folder(tmp_path, **lines))
    (tmp_path / "male_occupations.txt").write_text("\n")
    with pytest.raises(DataError, match=r"male_occupations\.txt is empty"):
        load_winobias(tmp_path)


# ToxiGen and SafeNLP

SENTENCE = {"id": 1, "text": "Rain is wet.", "label": "hate", "toxicity_score": 4.5, "target_groups": ["dogs", "cats"]}


def test_the_real_statements(data_folder: Path) -> None:
    annotated, statements = load_annotated(), load_statements()
    assert len({row.id.split()[0] for row in annotated}) == 6514
    assert len({row.group for row in annotated}) == 13
    assert len({row.group for row in statements}) == 15
    for rows in (annotated, statements):
        assert {(row.group, row.harmful, row.part) for row in rows} == {
            (group, harmful, part) for group in {row.group for row in rows} for harmful in (True, False) for part in ("select", "test")
        }
        assert len({(row.cluster, row.part) for row in rows}) == len({row.cluster for row in rows})


def test_a_sentence_about_two_groups_is_a_row_of_each(tmp_path: Path) -> None:
    path = tmp_path / "toxiGen.json"
    path.write_text(json.dumps([SENTENCE, SENTENCE | {"text": "rain is wet", "label": "neutral", "target_groups": ["cats"]}]))
    dogs, cats, benign = load_annotated(path)
    assert (dogs.group, cats.group, dogs.toxicity, dogs.stratum) == ("dogs", "cats", 4.5, "harmful")
    assert dogs.cluster == cats.cluster != benign.cluster  # equal texts with another label are of the other sample


@pytest.mark.parametrize(("content", "words"), [
    ("", "is empty"),
    ('[{"id": 1, "te', "is not JSON"),
    ("{}", "not a list of sentences"),
    (json.dumps([{"id": 1, "text": "a"}]), "sentence 0 has no column 'label'"),
    (json.dumps([SENTENCE, SENTENCE | {"label": "maybe"}]), "sentence 1: its text, label, toxicity score or groups"),
    (json.dumps([SENTENCE | {"toxicity_score": 0}]), "sentence 0: its text, label"),
])
def test_what_is_not_safenlp_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "toxiGen.json").write_text(content)
    with pytest.raises(DataError, match=words):
        load_annotated(tmp_path / "toxiGen.json")


def test_statements_are_the_distinct_pieces_of_prompts(tmp_path: Path) -> None:
    for label in ("hate", "neutral"):
        (tmp_path / f"{label}_middle_east_1k.txt").write_text(f"- The {label} sun.\\n- A bird.\\n-\n- A bird\\n- Well-known rain.\\n-\n")
    (tmp_path / "hate_river_1k.txt").write_text("- Only one label.\\n-\n")
    rows = load_statements(tmp_path)
    assert {row.group for row in rows} == {"middle-eastern"}
    assert [row.text for row in rows if row.harmful] == ["The hate sun.", "A bird.", "Well-known rain."]
    (tmp_path / "neutral_middle_east_1k.txt").unlink()
    with pytest.raises(DataError, match="no group with files"):
        load_statements(tmp_path)


# HolisticBias


def holistic_folder(folder: Path, **files: Any) -> Path:
    content: dict[str, Any] = {
        "nouns": {"female": [["aunt", "aunts"]], "neutral": [["kid", "kids"]]},
        "descriptors": {
            "height": {"b": ["tall", {"descriptor": "honest", "article": "an"}, {"descriptor": "Latina", "gender": "female"}]},
            "mood": {"b": ["tall"]},
        },
        "standalone_noun_phrases": {"height": [
            {"noun_phrase": "{article} {noun} with hats", "plural_noun_phrase": "{article} {noun} with hats", "preference": "reviewed"},
            {"noun_phrase": "a hat wearer", "plural_noun_phrase": "hat wearers"}, "a giant",
        ]},
        "sentence_templates": {"I'm {noun_phrase}.": {}, "I love {plural_noun_phrase}.": {"must_be_noun": True}},
    } | files
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_the_real_descriptors(data_folder: Path) -> None:
    for version, count in (("v1.0", 591), ("v1.1", 660)):
        descriptors = load_descriptors(version)
        assert len(descriptors) == count
        assert len({descriptor.axis for descriptor in descriptors}) == 13
        assert len({len(descriptor.phrases) for descriptor in descriptors}) == 1  # upstream compares equal numbers of nouns
        assert len({(descriptor.cluster, descriptor.part, descriptor.stratum) for descriptor in descriptors}) == len(
            {descriptor.cluster for descriptor in descriptors}
        )
        assert set(SENTIMENT_TEMPLATES) <= set(load_templates(version))


def test_descriptors_are_put_into_templates(tmp_path: Path) -> None:
    folder = holistic_folder(tmp_path)
    found = {(row.axis, row.text): row for row in load_descriptors(folder=folder)}
    assert set(found) == {("height", "tall"), ("height", "honest"), ("mood", "tall"), ("height", "with hats")}
    assert found["height", "tall"].cluster == found["mood", "tall"].cluster
    love, plain = sorted(load_templates(folder=folder), key=len, reverse=True)
    assert found["height", "honest"].sentences(plain) == ("I'm an honest aunt.", "I'm an honest kid.")
    assert found["height", "with hats"].sentences(plain) == ("I'm an aunt with hats.", "I'm a kid with hats.")
    assert found["height", "with hats"].sentences(love) == ("I love aunts with hats.", "I love kids with hats.")


@pytest.mark.parametrize(("files", "words"), [
    ({"nouns": {"female": ["aunt"]}}, "pairs of a singular and a plural noun"),
    ({"descriptors": []}, "lists by axis"),
    ({"descriptors": {"height": {"b": [{"preference": "reviewed"}]}}}, "axis 'height' has no descriptor"),
    ({"descriptors": {"height": {"b": "tall"}}}, "axis 'height' has no descriptor"),
    ({"sentence_templates": {"I'm here.": {}}}, "templates with one noun phrase"),
])
def test_what_is_not_holistic_bias_is_refused(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    folder = holistic_folder(tmp_path, **files)
    with pytest.raises(DataError, match=words):
        load_descriptors(folder=folder)
        load_templates(folder=folder)
    (tmp_path / "nouns.json").write_text('{"female": [["au')
    with pytest.raises(DataError, match="is not JSON"):
        load_descriptors(folder=folder)


# HONEST

HONEST_HEADER = "template_masked\traw\tidentity\tnumber\tcategory\ttype\n"


def test_the_real_templates(data_folder: Path) -> None:
    binary, queer = load_honest(), load_honest(name="queer_nonqueer")
    assert (len(binary), len(queer)) == (724, 705)  # 86 of the binary file's 810 rows stand in it twice
    assert {row.category for row in binary} == {"female", "male"}


def test_templates_and_lexicon(tmp_path: Path) -> None:
    path, lexicon = tmp_path / "t.tsv", tmp_path / "hurtlex.tsv"
    row = "the nurse works as a [M].\t[I] works as a [M]\tthe nurse\tsingular\tfemale\toccupation\n"
    path.write_text(HONEST_HEADER + row + row)
    [template] = load_honest(path)
    assert (template.text, template.identity, template.stratum) == ("the nurse works as a [M].", "the nurse", "binary female")
    lexicon.write_text("id\tpos\tcategory\tstereotype\tlemma\tlevel\n1\tn\tan\tno\trivér\tconservative\n2\tn\tqas\tno\ttree\tinclusive\n")
    assert [(word.lemma, word.category) for word in load_hurtlex(lexicon)] == [("river", "an")]
    path.write_text(HONEST_HEADER + row.replace("[M].", "poet."))
    with pytest.raises(DataError, match=r"row 1 has not one gap \[M\]"):
        load_honest(path)
    path.write_text("raw\n[I]\n")
    with pytest.raises(DataError, match="has no column 'template_masked'"):
        load_honest(path)
    lexicon.write_text("category\tlemma\tlevel\nan\ttree\tinclusive\n")
    with pytest.raises(DataError, match="not a HurtLex file"):
        load_hurtlex(lexicon)


# CrowS-Pairs in other languages

PAIR = {"direction": "stereo", "bias_type": "gender", "stereotype": "Она пела.", "anti-stereotype": "Он пел.", "bias_score": 4}


def multilingual_folder(folder: Path, japanese: Any, russian: Any) -> Path:
    (folder / "japanese.json").write_text(japanese if isinstance(japanese, str) else json.dumps(japanese))
    (folder / "russian.json").write_text(json.dumps(russian))
    return folder


def test_the_real_translations(data_folder: Path) -> None:
    pairs = load_crows_pairs_multilingual()
    assert Counter(pair.language for pair in pairs) == {"japanese": 262, "russian": 262}
    assert len({(pair.cluster, pair.part) for pair in pairs}) == 262
    assert Counter(pair.direction for pair in pairs) == {"stereo": 318, "antistereo": 206}  # 159 and 103 of the English pairs on gender


def test_translations_of_one_pair_are_one_cluster(tmp_path: Path) -> None:
    other = PAIR | {"stereotype": "雨が降る。", "anti-stereotype": "雪が降る。"}
    pairs = load_crows_pairs_multilingual(multilingual_folder(tmp_path, [other, other | {"stereotype": "風。"}], [PAIR, PAIR]))
    assert {pair.cluster for pair in pairs} == {"pair 0"}  # the second pair shares a sentence with the first
    assert (pairs[0].stereotype, pairs[2].stereotype) == ("雨が降る。", "Она пела.")


@pytest.mark.parametrize(("japanese", "words"), [
    ("", "is empty"), ('[{"direction', "is not JSON"), ([], "not a list of pairs"),
    ([{"direction": "stereo"}], "has no column 'bias_type'"), ([PAIR | {"direction": "left"}], "pair 0: its direction"),
    ([PAIR, PAIR], "do not have the same number of pairs"),
])
def test_what_is_not_a_translation_is_refused(tmp_path: Path, japanese: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_crows_pairs_multilingual(multilingual_folder(tmp_path, japanese, [PAIR]))


# HateCheck's references


def test_the_real_references_of_hatecheck(data_folder: Path) -> None:
    cases = {case.id: case for case in load_hatecheck()}
    made = [case for case in cases.values() if case.reference is not None]
    assert len(made) == 2046
    assert all(case.reference in cases and cases[case.reference].hateful for case in made if case.reference)
