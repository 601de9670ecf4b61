"""Parsers of the published benchmarks: the real files where they are, and what is refused."""

import json
from collections import Counter, defaultdict

import pytest

from fairforget.data.catalogue import fetch
from fairforget.data.crows_pairs import load_crows_pairs
from fairforget.data.overlap import folded_key
from fairforget.data.posts import load_edos, load_hatecheck, load_toxic_spans
from fairforget.data.stereoset import PREDICTION_FILES, load_official_results, load_predictions, load_stereoset
from fairforget.data.wikitext import load_wikitext
from fairforget.errors import DataError, UsageError

EDOS_HEADER = "rewire_id,text,label_sexist,label_category,label_vector"
HATECHECK_HEADER = "functionality,case_id,test_case"
CROWS_HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type\n"


def stereoset_file(path, change=lambda example: None, examples=2):
    tasks = {}
    for task in ("intrasentence", "intersentence"):
        tasks[task] = []
        for number in range(examples):
            sentences = [
                {"id": f"{task}{number}{label}", "sentence": f"{label} text", "gold_label": label}
                for label in ("unrelated", "stereotype", "anti-stereotype")
            ]
            example = {"id": f"{task}{number}", "target": f"term {number}", "bias_type": "race", "context": "A BLANK."}
            example["sentences"] = sentences
            change(example)
            tasks[task].append(example)
    path.write_text(json.dumps({"version": "1.0", "data": tasks}))
    return path


# CrowS-Pairs


def test_crows_pairs_counts_and_parts(data_folder):
    pairs = load_crows_pairs()
    assert [pair.index for pair in pairs] == list(range(1508))
    assert Counter(pair.direction for pair in pairs) == {"stereo": 1290, "antistereo": 218}
    types = Counter(pair.bias_type for pair in pairs)
    assert (types["gender"], types["race-color"], types["religion"], len(types)) == (262, 516, 105, 9)
    assert Counter(pair.direction for pair in pairs if pair.bias_type == "gender") == {"stereo": 159, "antistereo": 103}
    assert len({pair.cluster for pair in pairs}) == 1486
    assert sum(pair.stratum != pair.bias_type for pair in pairs) == 17
    by_stratum = defaultdict(lambda: defaultdict(set))
    for pair in pairs:
        by_stratum[pair.stratum][pair.part].add(pair.cluster)
    for parts in by_stratum.values():
        assert set(parts) == {"select", "test"}
        assert not parts["select"] & parts["test"]
        assert 0 <= len(parts["test"]) - len(parts["select"]) <= 1
    assert len({(pair.cluster, pair.stratum) for pair in pairs}) == 1486


def test_crows_pairs_share_no_sentence_and_no_prompt_between_parts(data_folder):
    from fairforget.data.rows import read_rows

    pairs = load_crows_pairs()
    prompts = read_rows(fetch("crows-pairs", "prompts.csv"), ["prompt"])
    seen = defaultdict(set)
    for pair, prompt in zip(pairs, prompts, strict=True):
        for text in (pair.sent_more, pair.sent_less, prompt["prompt"]):
            seen[folded_key(text)].add(pair.part)
    assert all(len(parts) == 1 for parts in seen.values())


def test_crows_pairs_cluster_by_prompt_and_by_sentence(tmp_path):
    path, prompts = tmp_path / "pairs.csv", tmp_path / "prompts.csv"
    rows = "0,A b.,C b.,stereo,age\n1,D e.,F e.,stereo,age\n2,G h.,I h.,stereo,gender\n3,C B!,J b.,antistereo,age\n4,K.,L.,stereo,age\n"
    path.write_text(CROWS_HEADER + rows)
    prompts.write_text(",prompt\n0,one\n1,two\n2,Two.\n3,three\n4,D e.\n")
    assert [pair.cluster for pair in load_crows_pairs(path)] == ["pair 0", "pair 1", "pair 2", "pair 0", "pair 4"]
    with_prompts = load_crows_pairs(path, prompts)
    assert [pair.cluster for pair in with_prompts] == ["pair 0", "pair 1", "pair 1", "pair 0", "pair 4"]
    assert [pair.stratum for pair in with_prompts] == ["age"] * 5
    assert with_prompts[2].bias_type == "gender"
    assert with_prompts[1].part == with_prompts[2].part


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (",sent_more,stereo_antistereo,bias_type\n0,a,stereo,age\n", "has no column 'sent_less'"),
        (CROWS_HEADER, "no rows"),
        ("", "is empty"),
        (CROWS_HEADER + "0,a,b,neither,age\n", "row 0: stereo_antistereo is neither stereo nor antistereo"),
        (CROWS_HEADER + "0,a,b,stereo,age\n1,a,,stereo,age\n", "row 1: sent_less is blank"),
    ],
)
def test_a_wrong_crows_pairs_file_is_refused(tmp_path, content, words):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        load_crows_pairs(tmp_path / "pairs.csv")


def test_prompts_of_another_length_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text(CROWS_HEADER + "0,a,b,stereo,age\n")
    (tmp_path / "prompts.csv").write_text("prompt\nx\ny\n")
    with pytest.raises(DataError, match="do not belong together"):
        load_crows_pairs(tmp_path / "pairs.csv", tmp_path / "prompts.csv")


# StereoSet


def test_stereoset_counts_and_one_cut_for_both_tasks(data_folder):
    examples = load_stereoset()
    assert Counter(example.task for example in examples) == {"intrasentence": 2106, "intersentence": 2123}
    assert len({example.id for example in examples}) == 4229
    part_of = defaultdict(set)
    for example in examples:
        part_of[example.target].add(example.part)
        assert example.stratum == example.bias_type
        assert ("BLANK" in example.context) == (example.task == "intrasentence")
    assert len(part_of) == 79
    assert all(len(parts) == 1 for parts in part_of.values())
    terms = Counter((example.stratum, example.part) for example in {example.target: example for example in examples}.values())
    assert [terms["race", part] for part in ("train", "select", "test")] == [14, 8, 14]
    assert [terms["profession", part] for part in ("train", "select", "test")] == [12, 6, 12]
    assert [terms["gender", part] for part in ("train", "select", "test")] == [4, 2, 4]
    assert [terms["religion", part] for part in ("train", "select", "test")] == [1, 1, 1]


def test_stereoset_cut_is_the_one_that_was_reported(data_folder):
    """The split behind every published figure of ours: a change of it is a new split and has to be said."""
    examples = load_stereoset()
    assert Counter((example.task, example.part) for example in examples) == {
        ("intrasentence", "train"): 823, ("intrasentence", "select"): 445, ("intrasentence", "test"): 838,
        ("intersentence", "train"): 821, ("intersentence", "select"): 454, ("intersentence", "test"): 848,
    }


def test_sentences_are_told_apart_by_label_not_by_place(tmp_path):
    example = load_stereoset(stereoset_file(tmp_path / "dev.json"))[0]
    texts = (example.stereotype.text, example.anti_stereotype.text, example.unrelated.text)
    assert texts == ("stereotype text", "anti-stereotype text", "unrelated text")
    assert example.stereotype.id == "intrasentence0stereotype"


def test_a_term_under_several_bias_types_is_in_one_part(tmp_path):
    kinds = iter(["race", "gender", "religion", "race"] * 2)
    path = stereoset_file(tmp_path / "dev.json", lambda example: example.update(target="term", bias_type=next(kinds)), examples=4)
    examples = load_stereoset(path)
    assert {example.stratum for example in examples} == {"race"}
    assert len({example.part for example in examples}) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda example: example.pop("target"), "example 0 .intrasentence. has no field 'target'"),
        (lambda example: example["sentences"].pop(), "not one each of stereotype, anti-stereotype, unrelated"),
        (lambda example: example["sentences"].append(example["sentences"][0]), "not one each"),
        (lambda example: example["sentences"][0].pop("gold_label"), "no field 'gold_label'"),
        (lambda example: example.update(sentences=None), "not an object with the fields"),
    ],
)
def test_a_wrong_stereoset_example_is_refused(tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        load_stereoset(stereoset_file(tmp_path / "dev.json", change))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ('{"data": {"intrasentence": [', "line 1 is not JSON"),
        ("[]", "no list data.intrasentence"),
        ('{"data": {"intrasentence": []}}', "no list data.intersentence"),
        ('{"data": {"intrasentence": [], "intersentence": []}}', "no examples"),
    ],
)
def test_a_wrong_stereoset_file_is_refused(tmp_path, content, words):
    (tmp_path / "dev.json").write_text(content)
    with pytest.raises(DataError, match=words):
        load_stereoset(tmp_path / "dev.json")


@pytest.mark.parametrize("model", sorted(PREDICTION_FILES))
def test_official_predictions_cover_every_sentence(data_folder, model):
    scores = load_predictions(model)
    for task in ("intrasentence", "intersentence"):
        ids = {sentence.id for e in load_stereoset() if e.task == task for sentence in (e.stereotype, e.anti_stereotype, e.unrelated)}
        assert set(scores[task]) == ids


def test_official_figures(data_folder):
    results = load_official_results()
    assert len(results) == 11
    assert set(PREDICTION_FILES.values()) <= set(results)
    gpt2 = results[PREDICTION_FILES["gpt2"]]
    assert gpt2["intrasentence"]["gender"] == {
        "Count": 765, "LM Score": 93.27790824312564, "SS Score": 62.66777425473077, "ICAT Score": 69.64543855157751,
    }
    assert gpt2["intersentence"]["overall"]["ICAT Score"] == 72.78921888791575
    assert gpt2["overall"] == {
        "overall": {"Count": 4229, "LM Score": 83.65206453498922, "SS Score": 57.03077944935812, "ICAT Score": 71.8892802104096},
    }


def test_wrong_predictions_and_figures_are_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean gpt2"):
        load_predictions("gtp2")
    (tmp_path / "p.json").write_text('{"intrasentence": [{"id": "a"}], "intersentence": []}')
    with pytest.raises(DataError, match="is not a StereoSet predictions file"):
        load_predictions("", tmp_path / "p.json")
    (tmp_path / "r.txt").write_text("intrasentence\n\tgender\n\t\tCount: many\n")
    with pytest.raises(DataError, match="is not what the StereoSet scorer prints"):
        load_official_results(tmp_path / "r.txt")


# WikiText-2


@pytest.mark.parametrize(("part", "first", "file"), [("select", "Homarus gammarus", "valid"), ("test", "Robert Boulter", "test")])
def test_wikitext_articles_join_to_the_file(data_folder, part, first, file):
    articles = load_wikitext(part)
    assert len(articles) == len({article.title for article in articles}) == 60
    assert articles[0].title == first
    assert "".join(article.text for article in articles).encode() == fetch("wikitext2", f"raw/wiki.{file}.raw").read_bytes()
    assert all(article.text.startswith(f" \n = {article.title} = \n") and article.part == part for article in articles)


def test_wikitext_titles_stand_between_blank_lines(tmp_path):
    text = (
        " \n = First one = \n \n Words here . \n = 1 henry = \n more words \n \n = 2 ohm = \n last words \n"
        " \n = = A section = = \n \n Words . \n"
        " \n = Second = \n \n = Third = \n \n End\n"
    )
    (tmp_path / "wiki.raw").write_text(text)
    articles = load_wikitext("test", tmp_path / "wiki.raw")
    assert [article.title for article in articles] == ["First one", "Second", "Third"]
    assert "".join(article.text for article in articles) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is empty"), (" \n no title here \n", "does not begin with a title"), (" \n words \n \n = T = \n \n", "not begin with a title")],
)
def test_a_wrong_wikitext_file_is_refused(tmp_path, content, words):
    (tmp_path / "wiki.raw").write_text(content)
    with pytest.raises(DataError, match=words):
        load_wikitext("test", tmp_path / "wiki.raw")


def test_wikitext_has_no_train_part():
    with pytest.raises(UsageError, match="no part of WikiText-2 named 'train'"):
        load_wikitext("train")


# Posts


def test_edos_counts(data_folder):
    posts = load_edos()
    counts = Counter((post.part, post.sexist) for post in posts)
    assert len(posts) == len({post.id for post in posts}) == 20000
    assert [counts[part, True] for part in ("train", "select", "test")] == [3398, 486, 970]
    assert [counts[part, False] for part in ("train", "select", "test")] == [10602, 1514, 3030]
    assert all((post.category is not None) == (post.vector is not None) == post.sexist for post in posts)


def test_hatecheck_counts(data_folder):
    cases = load_hatecheck()
    assert len(cases) == 3728
    assert Counter(case.hateful for case in cases) == {True: 2563, False: 1165}
    assert len({case.functionality for case in cases}) == 29
    assert len({case.target for case in cases} - {None}) == 7
    assert sum(case.target is None for case in cases) == 292


@pytest.mark.parametrize(("part", "rows", "clean"), [("train", 7939, 485), ("select", 690, 43), ("test", 2000, 394)])
def test_toxic_spans_counts(data_folder, part, rows, clean):
    posts = load_toxic_spans(part)
    assert len(posts) == len({post.id for post in posts}) == rows
    assert sum(not post.toxic_characters for post in posts) == clean


@pytest.mark.parametrize(
    ("load", "content", "words"),
    [
        (load_edos, EDOS_HEADER + "\na,b,sexist,c,d\n", "has no column 'split'"),
        (load_edos, EDOS_HEADER + ",split\na,b,sexist,c,d,later\n", "row 0: split has a value"),
        (load_edos, EDOS_HEADER + ",split\na,b,maybe,c,d,dev\n", "row 0: label_sexist has a value"),
        (load_edos, "", "is empty"),
        (load_hatecheck, HATECHECK_HEADER + "\na,b,c\n", "has no column 'label_gold', 'target_ident', 'templ_id'"),
        (load_hatecheck, HATECHECK_HEADER + ",label_gold,target_ident,templ_id,ref_case_id\na,b,c,d,e,f,\n", "row 0: label_gold has"),
        (lambda path: load_toxic_spans("train", path), "spans\n[]\n", "has no column 'text'"),
        (lambda path: load_toxic_spans("train", path), 'spans,text\n"[0, 1",ab\n', "row 0: spans has a value"),
        (lambda path: load_toxic_spans("train", path), "spans,text\n{},ab\n", "row 0: spans has a value"),
        (lambda path: load_toxic_spans("train", path), 'spans,text\n"[1]",ab\n"[0, 2]",ab\n', "row 1: spans name characters outside"),
    ],
)
def test_a_wrong_posts_file_is_refused(tmp_path, load, content, words):
    (tmp_path / "posts.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        load(tmp_path / "posts.csv")


def test_toxic_spans_have_three_parts():
    with pytest.raises(UsageError, match="no part of Civil Comments named 'dev'"):
        load_toxic_spans("dev")
