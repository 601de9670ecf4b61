import json

import pytest
import yaml
from synthetic_run import HEADLINE, LIMITS, SENTENCES, write_synthetic_run

from fairforget.errors import FairforgetError, UsageError
from fairforget.report import model_card


@pytest.fixture
def folder(tmp_path):
    return write_synthetic_run(tmp_path, items=40)


def change_record(folder, **fields):
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["model"].update(fields.pop("model", {}))
    (folder / "run.json").write_text(json.dumps(record | fields), encoding="utf-8")


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_is_what_hubs_read(folder):
    fields = front_matter(model_card(folder))
    assert fields["library_name"] == "transformers" and fields["pipeline_tag"] == "text-generation"
    assert fields["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"fairforget", "task-vector"} <= set(fields["tags"])
    assert fields["license"] == "unknown"


def test_a_local_model_is_not_named_as_a_hub_model(folder):
    change_record(folder, model={"name": "mine", "source": "/home/somebody/models/mine", "license": "apache-2.0", "family": "masked"})
    card = model_card(folder)
    assert "base_model" not in front_matter(card) and front_matter(card)["license"] == "apache-2.0"
    assert "AutoModelForMaskedLM.from_pretrained(folder)" in card and "fill-mask" in card
    change_record(folder, model={"hub_id": "someone/mine"})
    assert front_matter(model_card(folder))["base_model"] == "someone/mine"


def test_the_card_says_the_words_of_the_page(folder):
    card = model_card(folder).replace("&lt;", "<")
    for words in (HEADLINE, *SENTENCES, *LIMITS):
        assert words in card


def test_figures_stand_in_one_table(folder):
    lines = [line for line in model_card(folder).splitlines() if line.startswith("| starter | sum")]
    assert len(lines) == 3 and all(line.count(" | ") == 8 for line in lines)
    assert "stereotype preferred" in lines[0] and "pp [" in lines[0] and "n = 40" in lines[0]


def test_words_cannot_break_a_table_or_become_html(folder):
    hostile = {
        "name": "evil",
        "licence": "a | b\n# heading",
        "citation": "<script>x</script> [here](javascript:x)",
        "content_warning": True,
        "sha256": None,
    }
    change_record(folder, datasets=[hostile])
    card = model_card(folder)
    assert "<script>" not in card and "\n# heading" not in card and "](javascript" not in card
    assert "| evil | a \\| b # heading |" in card
    assert "Content warning: evil holds stereotyped or hateful sentences." in card


def test_missing_tables_are_said_plainly(folder):
    for name in ("metrics.parquet", "verdict.json"):
        (folder / "tables" / name).unlink()
    card = model_card(folder)
    assert "No figures were written for this run." in card and "No verdict was written" in card


def test_only_an_edited_model_has_a_card(tmp_path):
    with pytest.raises(UsageError, match="leaves no model"):
        model_card(write_synthetic_run(tmp_path / "audit", "audit", items=40))
    with pytest.raises(FairforgetError, match=r"no run\.json"):
        model_card(tmp_path)
