"""What a method may be trained on."""

import json
from pathlib import Path

import pytest

from fairforget.data.crows_pairs import load_crows_pairs
from fairforget.data.overlap import find_overlap
from fairforget.data.stereoset import load_stereoset
from fairforget.data.training import training_source, training_source_names
from fairforget.data.winogender import load_winogender
from fairforget.errors import DataError, UsageError


def test_stereoset_stereotypes_are_of_the_train_part_after_their_context(data_folder):
    source = training_source("stereoset")
    examples = [example for example in load_stereoset() if example.part == "train" and example.task == "intersentence"]
    expected = {f"{example.context} {example.stereotype.text}": example for example in examples}
    assert all(text.groups == (expected[text.text].bias_type,) for text in source.texts)
    assert all(text.counterpart.endswith(expected[text.text].anti_stereotype.text) for text in source.texts)
    # Six of 821 hold a sentence that was written for a term of another part as well.
    assert len(source.texts) == source.provenance["texts"] == 815
    assert source.provenance["options"]["left_out"] == 6
    assert source.provenance["datasets"][0]["licence"] == "CC-BY-SA-4.0"
    assert {text.cluster for text in source.texts}.isdisjoint({example.target for example in load_stereoset() if example.part != "train"})


def test_stereoset_tasks(data_folder):
    sizes = {task: len(training_source("stereoset", stereoset_task=task).texts) for task in ("intrasentence", "intersentence", "both")}
    assert sizes == {"intrasentence": 823, "intersentence": 815, "both": 1638}
    assert all("BLANK" not in text.text for text in training_source("stereoset", stereoset_task="intrasentence").texts)
    with pytest.raises(UsageError, match="did you mean intrasentence"):
        training_source("stereoset", stereoset_task="intra-sentence")


def test_no_reported_text_is_in_the_built_in_training_texts(data_folder):
    test = [text for pair in load_crows_pairs() for text in (pair.sent_more, pair.sent_less)]
    for example in load_stereoset():
        if example.part == "test":
            for sentence in (example.stereotype, example.anti_stereotype, example.unrelated):
                test += [sentence.text]
    for name in ("stereoset", "edos", "civil-comments"):
        report = find_overlap([text.text for text in training_source(name).texts], test)
        assert (report.equal, report.near) == (0, 0)


@pytest.mark.parametrize(("name", "texts"), [("edos", 3398), ("civil-comments", 7454)])
def test_posts(data_folder, name, texts):
    source = training_source(name)
    assert len(source.texts) == len({text.cluster for text in source.texts}) == texts
    assert source.provenance["datasets"][0]["name"] == name
    assert source.provenance["datasets"][0]["content_warning"]


def test_winogender_pairs_of_the_train_occupations(data_folder):
    source = training_source("winogender")
    train = {triplet.occupation for triplet in load_winogender() if triplet.part == "train"}
    assert len(source.texts) == 96
    assert {text.cluster for text in source.texts} == train
    assert all(text.counterpart and text.counterpart != text.text for text in source.texts)


def test_pairs_of_the_user(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("sent_more,sent_less\nfirst,second\nthird,\n")
    source = training_source(path, columns={"text": "sent_more", "counterpart": "sent_less"})
    assert [(text.text, text.counterpart) for text in source.texts] == [("first", "second"), ("third", "")]


def test_the_starter_set_needs_no_files(monkeypatch):
    monkeypatch.delenv("FAIRFORGET_DATA", raising=False)
    source = training_source("starter")
    assert len(source.texts) > 100
    assert all(text.text and text.groups and text.cluster for text in source.texts)
    assert source.provenance["datasets"][0]["sha256"] == source.provenance["sha256"]


def test_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("post,about,story\nfirst text,north,a\nsecond text,,a\n")
    source = training_source(path, columns={"text": "post", "group": "about", "cluster": "story"})
    assert [(text.text, text.groups, text.cluster) for text in source.texts] == [("first text", ("north",), "a"), ("second text", (), "a")]
    assert len(source.provenance["options"]["file_sha256"]) == 64
    alone = training_source(str(path), columns={"text": "post"})
    assert [text.cluster for text in alone.texts] == ["row 1", "row 2"]
    assert alone.provenance["sha256"] == source.provenance["sha256"]


def test_several_groups_at_once(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "x", "about": ["north", "old"]}\n{"text": "y", "about": []}\n')
    assert [text.groups for text in training_source(path, columns={"text": "text", "group": "about"}).texts] == [("north", "old"), ()]


def test_what_is_wrong_is_said(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": ["x", "y"]}\n')
    with pytest.raises(UsageError, match="no training source or file named 'stereose': did you mean stereoset"):
        training_source("stereose")
    with pytest.raises(DataError, match=r"There is no file data/posts\.csv to train on; an id of the datasets library is written"):
        training_source("data/posts.csv")
    with pytest.raises(UsageError, match="has fixed columns"):
        training_source("edos", columns={"text": "post"})
    with pytest.raises(UsageError, match="no role of a training column named 'texts': did you mean text"):
        training_source(tmp_path / "mine.jsonl", columns={"texts": "text"})
    with pytest.raises(UsageError, match="names no column for 'text'"):
        training_source(tmp_path / "mine.jsonl", columns={"group": "text"})
    with pytest.raises(DataError, match=r"mine\.jsonl row 1: text, cluster, counterpart.* have one value each"):
        training_source(tmp_path / "mine.jsonl")


def test_names_are_those_that_load(data_folder):
    for name in training_source_names():
        assert training_source(name).name == name


def test_some_groups_of_a_source(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    rows = [{"text": f"text {number}", "group": group} for number, group in enumerate(("a", "b", "a", "c"))]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    columns = {"text": "text", "group": "group"}
    whole = training_source(path, columns=columns)
    some = training_source(path, columns=columns, groups=["a", "c"])
    assert [text.text for text in some.texts] == ["text 0", "text 2", "text 3"]
    assert (whole.provenance["texts"], some.provenance["texts"]) == (4, 3)
    assert some.provenance["options"]["groups"] == ["a", "c"] and some.provenance["sha256"] != whole.provenance["sha256"]
    with pytest.raises(UsageError, match=r"group of .* named 'd'"):
        training_source(path, columns=columns, groups=["d"])
