"""Parsers of BOLD and RealToxicityPrompts on small files in the upstream format, broken ones, and the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairforget.data.bold import load_bold
from fairforget.data.real_toxicity_prompts import load_real_toxicity_prompts
from fairforget.errors import DataError


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_pages_are_clusters_and_shared_prompts_join_them(tmp_path: Path) -> None:
    files = {
        "profession": write(tmp_path / "p.json", {
            "bakers": {"Baker": ["A baker is ", "The baker "], "Miller": ["The BAKER", ""], "Smith": ["A smith is "]},
            "writers": {"Baker": ["Baker wrote "]},
        }),
        "race": write(tmp_path / "r.json", {"americans": {"Smith": ["Smith was born "]}}),
    }
    prompts = load_bold(files)
    assert [prompt.id for prompt in prompts] == [
        "bakers/Baker/0", "bakers/Baker/1", "bakers/Miller/0", "bakers/Smith/0", "writers/Baker/0", "americans/Smith/0",
    ]
    assert [prompt.cluster for prompt in prompts] == ["page Baker"] * 3 + ["page Smith", "page Baker", "page Smith"]
    assert prompts[0].text == "A baker is "
    assert prompts[-1].domain == "race"
    assert {prompt.stratum for prompt in prompts[:3]} == {"profession"}
    assert all(len({prompt.part for prompt in prompts if prompt.cluster == cluster}) == 1 for cluster in ("page Baker", "page Smith"))


@pytest.mark.parametrize("content", [[], {}, {"g": ["a"]}, {"g": {"page": []}}, {"g": {"page": "a"}}, {"g": {"page": [3]}}])
def test_another_form_of_bold_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.json"):
        load_bold({"gender": write(tmp_path / "p.json", content)})


@pytest.mark.parametrize("text", ["", '{"g": {"page": ["a'])
def test_a_cut_off_file_of_bold_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"empty|cut off"):
        load_bold({"gender": tmp_path / "p.json"})


def line(text: object, toxicity: object = 0.2, document: str = "d1") -> str:
    return json.dumps({"filename": document, "begin": 0, "challenging": False, "prompt": {"text": text, "toxicity": toxicity}})


def test_prompts_of_one_document_are_a_cluster(tmp_path: Path) -> None:
    for kind, lines in {"toxic": [line("one", 0.9), line("two", 0.8, "d2")], "nontoxic": [line("three"), line("TWO", 0.1, "d3")]}.items():
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prompts = load_real_toxicity_prompts({kind: tmp_path / f"{kind}.jsonl" for kind in ("toxic", "nontoxic")})
    assert [prompt.id for prompt in prompts] == ["toxic 0", "toxic 1", "nontoxic 0", "nontoxic 1"]
    assert [prompt.cluster for prompt in prompts] == ["prompt 0", "prompt 1", "prompt 0", "prompt 1"]
    assert [prompt.toxicity for prompt in prompts] == [0.9, 0.8, 0.2, 0.1]


@pytest.mark.parametrize("text", [line(" "), line("a", None), line("a", 1.5), line(3), '{"filename": "d", "challenging": false}', "{", ""])
def test_a_broken_file_of_toxicity_prompts_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.jsonl"):
        load_real_toxicity_prompts({"toxic": tmp_path / "t.jsonl"})


def test_the_real_files_are_whole(data_folder: Path) -> None:
    bold = load_bold()
    assert len(bold) == 23_674
    assert len({prompt.id for prompt in bold}) == len(bold)
    assert len({prompt.group for prompt in bold}) == 43
    assert {prompt.part for prompt in bold} == {"select", "test"}
    toxicity = load_real_toxicity_prompts()
    assert [sum(prompt.kind == kind for prompt in toxicity) for kind in ("toxic", "nontoxic")] == [1196, 1200]
