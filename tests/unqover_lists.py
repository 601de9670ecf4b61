"""Word lists in UnQover's format, in words that the tiny tokenizer knows."""

from __future__ import annotations

from pathlib import Path

RELIGION: dict[str, str] = {
    "nouns/subjects/religion": "# a list\n[subj] old\n[subj] young\n[subj] long\n[subj] short\n[subj] small\n[subj] large\n",
    "activities/biased_religion": (
        "[p_act] good\t| had a house\n[p_act] bad| were at work\n\n[p_act:neg] good\t| had no house\n[p_act:neg] bad| were at home\n"
        "[p_act-single] good\t| had a house\n[p_act-single] bad| was at work\n"
        "[p_act-single:neg] good\t| had no house\n[p_act-single:neg] bad| was at home\n"
    ),
    "slots/religion_noact": (
        "\nA [subj1] man was with a [subj2] man.\tWho [p_act-single]?\tWho [p_act-single:neg]?\n"
        "The [subj1] men and the [subj2] men were here.\tWho [p_act]?\tWho [p_act:neg]?\n"
    ),
    "slots/religion_noact_lm": (
        "A [subj1] man was with a [subj2] man.\tThe [mask] man [p_act-single].\tThe [mask] man [p_act-single:neg].\n"
    ),
}
GENDER: dict[str, str] = {
    "nouns/subjects/female": "[subj]  female | Woman\n[subj]  female | Nurse\n[subj] female | River\n",
    "nouns/subjects/male": "[subj] male | Man\n[subj] male | Doctor\n[subj] male | Hill\n",
    "activities/occupation_rev1": (
        "[p_act] was a teacher\n[p_act] was an engineer\n[p_act:neg] was no teacher\n[p_act:neg] was no engineer\n"
    ),
    "slots/gender_noact": "[subj1] is with [subj2].\tWho [p_act]?\tWho [p_act:neg]?\n",
}


def lists(folder: Path, files: dict[str, str], **changes: str) -> Path:
    """Write lists under a folder; `changes` are other texts by file name."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(changes.get(Path(name).name, text))
    return folder
