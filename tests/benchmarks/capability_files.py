"""Made-up questions in the form of lm-eval's documents, and as the files of the catalogue hold them."""

from __future__ import annotations

import bz2
import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

LETTERS = "ABCDE"

DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {
            "question": "What is the rain?",
            "choices": {"text": ["water", "a green tree", "the sun in the city"], "label": list("ABC")},
            "answerKey": "A",
        },
        {
            "question": "Who works at home?",
            "choices": {"text": ["a bird", "the old dog", "a cat", "the teacher and her friend"], "label": list("1234")},
            "answerKey": "4",
        },
    ],
    "openbookqa": [
        {
            "question_stem": "The young bird had",
            "choices": {"text": ["a red book", "good food", "a city", "no home"], "label": list("ABCD")},
            "answerKey": "B",
        },
        {
            "question_stem": "A tree is",
            "choices": {"text": ["green", "an engineer", "a short day", "the time"], "label": list("ABCD")},
            "answerKey": "A",
        },
    ],
    "commonsense_qa": [
        {
            "question": "Where is a book?",
            "choices": {"text": ["house", "sun", "river", "rain", "bird"], "label": list("ABCDE")},
            "answerKey": "A",
        },
        {
            "question": "Who is old?",
            "choices": {"text": ["day", "hill", "time", "the tree", "red"], "label": list("ABCDE")},
            "answerKey": "D",
        },
    ],
    "social_iqa": [
        {
            "context": "The child had no food.",
            "question": "What will the child do?",
            "answerA": "work at the house",
            "answerB": "be very old",
            "answerC": "go to a friend",
            "label": "3",
        },
        {
            "context": "They said that he was good.",
            "question": "How would he be?",
            "answerA": "small",
            "answerB": "green and blue",
            "answerC": "by the river",
            "label": "2",
        },
    ],
    "piqa": [
        {"goal": "have good water", "sol1": "go to the river", "sol2": "go to the sun and the hill", "label": 0},
        {"goal": "read a book", "sol1": "be a tree", "sol2": "be at home by day", "label": 1},
    ],
    "hellaswag": [
        {
            "activity_label": "Work",
            "ctx_a": "A man is at home.",
            "ctx_b": "the old Dog",
            "endings": ["is a bird.", "works in the city with him.", "has food.", "rains."],
            "label": "2",
        },
        {
            "activity_label": "Home",
            "ctx_a": "How to be good at work. Do it by day.",
            "ctx_b": "",
            "endings": ["Do it well.", "Be a green tree.", "Go.", "The sun is long and red."],
            "label": "0",
        },
    ],
    "winogrande": [
        {"sentence": "The dog had the food of the cat since the _ was large.", "option1": "dog", "option2": "cat", "answer": "1"},
        {"sentence": "The nurse said to the teacher that _ would do the work.", "option1": "the nurse", "option2": "she", "answer": "2"},
    ],
    "copa": [
        {
            "premise": "The child was good.",
            "question": "effect",
            "choice1": "He had a friend.",
            "choice2": "The tree was red and blue.",
            "label": 0,
        },
        {
            "premise": "The street had water.",
            "question": "cause",
            "choice1": "The sun did it.",
            "choice2": "It was the long rain by day.",
            "label": 1,
        },
    ],
    "boolq": [
        {"passage": "A tree is green.\nA bird is red.", "question": "is the bird red", "label": 1},
        {"passage": "The engineer works in the city.", "question": "does she work on a hill", "label": 0},
    ],
    "ethics_cm": [{"input": "I was good to the dog.", "label": 0}, {"input": "I had the food of a child. It was very bad.", "label": 1}],
    "ethics_deontology": [
        {"scenario": "Would you work by day?", "excuse": "No, I work at home. ", "label": 1},
        {"scenario": "I am a teacher.", "excuse": "So I have to be a tree.", "label": 0},
    ],
    "ethics_justice": [
        {"scenario": "I have good food because I work.", "label": 1},
        {"scenario": "I am to have a house because it is day.", "label": 0},
    ],
    "ethics_utilitarianism": [
        {"activity": "I have a friend in the city.", "baseline": "I have no friend at all."},
        {"activity": "The sun was red.", "baseline": "The rain was long and bad."},
        {"activity": "My dog is at home.", "baseline": "My dog is in the river."},
    ],
    "ethics_virtue": [
        {"scenario": "She works with a child for the whole day.", "trait": "good", "label": 1},
        {"scenario": "He had no time for the old man.", "trait": "good", "label": 0},
    ],
    "lambada_openai": [
        {"text": "The bird was in the tree. They said that the tree had a bird"},
        {"text": "He would go home, and his home was his house"},
    ],
    "blimp": [
        {"sentence_good": "The dogs have been good.", "sentence_bad": "The dogs has been good."},
        {"sentence_good": "A nurse works well.", "sentence_bad": "A nurse work well."},
    ],
}
"""Documents of lm-eval's tasks."""


def foundry(query: str, choices: list[str], gold: int) -> str:
    """A row of llm-foundry's copies."""
    return json.dumps({"query": query, "choices": choices, "gold": gold}) + "\n"


def _lettered(options: list[str]) -> str:
    return "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=False))


def write_files(folder: Path) -> Path:
    """The files of all datasets, named as in the catalogue, with the documents in them."""
    texts: dict[str, str] = {}
    documents = DOCUMENTS
    for name, file in (("arc_easy", "arc/arc_easy.jsonl"), ("openbookqa", "openbookqa/openbook_qa.jsonl")):
        texts[file] = "".join(
            foundry(
                ("Question: " + doc["question"]) if name == "arc_easy" else doc["question_stem"],
                doc["choices"]["text"],
                doc["choices"]["label"].index(doc["answerKey"]),
            )
            for doc in documents[name]
        )
    texts["commonsenseqa/commonsense_qa.jsonl"] = "".join(
        foundry(
            f"Question: {doc['question']}\nChoices:\n{_lettered(doc['choices']['text'])}Answer:",
            list("ABCDE"),
            "ABCDE".index(doc["answerKey"]),
        )
        for doc in documents["commonsense_qa"]
    )
    texts["siqa/siqa.jsonl"] = "".join(
        foundry(
            f"Context: {doc['context']}\nQuestion: {doc['question']}\nChoices:\n"
            f"{_lettered([doc['answerA'], doc['answerB'], doc['answerC']])}Answer:",
            list("ABC"),
            int(doc["label"]) - 1,
        )
        for doc in documents["social_iqa"]
    )
    texts["piqa/valid.jsonl"] = "".join(json.dumps({key: doc[key] for key in ("goal", "sol1", "sol2")}) + "\n" for doc in documents["piqa"])
    texts["piqa/valid-labels.lst"] = "".join(f"{doc['label']}\n" for doc in documents["piqa"])
    texts["winogrande/winogrande.jsonl"] = "".join(
        json.dumps(
            {
                "context_options": [doc["sentence"].partition("_")[0] + doc[option] for option in ("option1", "option2")],
                "continuation": doc["sentence"].partition("_")[2].strip(),
                "gold": int(doc["answer"]) - 1,
            }
        )
        + "\n"
        for doc in documents["winogrande"]
    )
    texts["copa/copa.jsonl"] = "".join(
        foundry(
            doc["premise"][:-1] + {"cause": ", because", "effect": ", therefore"}[doc["question"]],
            [doc[option][0].lower() + doc[option][1:] for option in ("choice1", "choice2")],
            doc["label"],
        )
        for doc in documents["copa"]
    )
    texts["boolq/boolq.jsonl"] = "".join(
        foundry(f"Passage: {doc['passage']}\nQuestion: {doc['question']}?", ["no", "yes"], doc["label"]) for doc in documents["boolq"]
    )
    texts["lambada/lambada_openai.jsonl"] = "".join(
        json.dumps(dict(zip(("context", "continuation"), doc["text"].rsplit(" ", 1), strict=True))) + "\n"
        for doc in documents["lambada_openai"]
    )
    texts["hellaswag/hellaswag_val_full.txt.bz2"] = "".join(
        "\n".join([f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b']}".strip(), doc["label"], *doc["endings"]]) + "\n"
        for doc in documents["hellaswag"]
    )
    texts["ethics/cm_test.csv"] = table(
        ["label", "input", "is_short"], [[doc["label"], doc["input"], "True"] for doc in documents["ethics_cm"]]
    )
    texts["ethics/deontology_test.csv"] = table(
        ["label", "scenario", "excuse"], [[doc["label"], doc["scenario"], doc["excuse"]] for doc in documents["ethics_deontology"]]
    )
    texts["ethics/justice_test.csv"] = table(
        ["label", "scenario"], [[doc["label"], doc["scenario"]] for doc in documents["ethics_justice"]]
    )
    texts["ethics/util_test.csv"] = table(None, [[doc["activity"], doc["baseline"]] for doc in documents["ethics_utilitarianism"]])
    texts["ethics/virtue_test.csv"] = table(
        ["label", "scenario"], [[doc["label"], f"{doc['scenario']} [SEP] {doc['trait']}"] for doc in documents["ethics_virtue"]]
    )
    rows = {
        "cm": [[1, "I was bad.", "True"]],
        "deontology": [[1, "Is it day?", "No."]],
        "justice": [[1, "It is good."]],
        "virtue": [[1, "He is old. [SEP] good"]],
    }
    headers = {"cm": ["label", "input", "is_short"], "deontology": ["label", "scenario", "excuse"]}
    for name, row in rows.items():
        for ending in ("_train", "_test_hard"):
            texts[f"ethics/{name}{ending}.csv"] = table(headers.get(name, ["label", "scenario"]), row)
    texts["ethics/util_test_hard.csv"] = table(None, [["It was a good day.", "It was a bad day."]])
    texts["arc/arc_challenge.jsonl"] = foundry("Question: What is red?", ["the bird", "the sun"], 1)
    texts["strategyqa/train.json"] = json.dumps([{"term": "Sun", "question": "Is the sun large?", "answer": True}])
    texts["strategyqa/dev.json"] = json.dumps([{"term": "Rain", "question": "Is the rain a dog?", "answer": False}])
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bz2.compress(text.encode()) if path.suffix == ".bz2" else text.encode())
    (folder / "blimp").mkdir()
    with zipfile.ZipFile(folder / "blimp" / "BLiMP.zip", "w") as archive:
        for number, doc in enumerate(documents["blimp"]):
            row = {**doc, "field": "morphology", "linguistics_term": "subject_verb_agreement", "UID": f"agreement_{number}", "pairID": "0"}
            archive.writestr(f"data/agreement_{number}.jsonl", json.dumps(row) + "\n")
    return folder


def table(header: list[str] | None, rows: list[list[Any]]) -> str:
    """CSV text."""
    text = io.StringIO()
    csv.writer(text).writerows([*([header] if header else []), *rows])
    return text.getvalue()
