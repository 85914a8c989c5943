"""Made-up reports and questions on them: the words that answer, or which of four answers is one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PEOPLE = ("guest", "cook", "waiter", "host", "friend", "painter", "child", "neighbour")
_KINDS = ("old", "young", "tired", "happy", "hungry", "quiet")
_DEEDS = ("ate", "made", "sold", "praised", "brought", "wanted", "found", "dropped")
_THINGS = ("soup", "fish", "bread", "pasta", "dessert", "menu", "bill", "music")
_PLACES = ("in the garden", "by the door", "at the station", "behind the house", "near the old bridge", "on a boat")
_TIMES = ("on monday", "late at night", "in the early morning", "before the rain", "at noon", "after the long walk")
#: {what a question asks for: the question}.
QUESTIONS = {"who": "who was it ?", "what": "what was done ?", "where": "where was it ?", "when": "when was it ?"}


def words_of_questions() -> list[str]:
    """All words of reports and questions."""
    text = " ".join(("the a", *_PEOPLE, *_KINDS, *_DEEDS, *_THINGS, *_PLACES, *_TIMES, *QUESTIONS.values()))
    return sorted(set(text.split()))


def _parts(draw: random.Random) -> dict[str, str]:
    """What a report says, by the question that asks for it."""
    kinds = draw.sample(_KINDS, draw.randint(0, 2))
    return {
        "who": " ".join(("the", *kinds, draw.choice(_PEOPLE))),
        "what": f"{draw.choice(_DEEDS)} the {draw.choice(_THINGS)}",
        "where": draw.choice(_PLACES),
        "when": draw.choice(_TIMES),
    }


def _order(draw: random.Random) -> list[str]:
    """Time and place stand before or after what was done."""
    order = ["who", "what"]
    for part in draw.sample(("where", "when"), 2):
        order.insert(draw.choice((0, len(order))), part)
    return order


def question(draw: random.Random) -> dict[str, Any]:
    """A report and a question on it: `question`, `context`, `answers`."""
    parts, order, asked = _parts(draw), _order(draw), draw.choice(list(QUESTIONS))
    start = len("".join(f"{parts[part]} " for part in order[: order.index(asked)]))
    return {
        "question": QUESTIONS[asked],
        "context": " ".join(parts[part] for part in order),
        "answers": {"text": [parts[asked]], "answer_start": [start]},
    }


def choice(draw: random.Random) -> dict[str, Any]:
    """A report, a question, and four endings, one of which is an answer: `context`, `sent2`, `ending0` …, `label`."""
    parts, others, asked = _parts(draw), _parts(draw), draw.choice(list(QUESTIONS))
    kinds = draw.sample(list(others), len(others))
    return {
        "context": " ".join(parts[part] for part in _order(draw)),
        "sent2": QUESTIONS[asked],
        **{f"ending{index}": others[kind] for index, kind in enumerate(kinds)},
        "label": kinds.index(asked),
    }


def save_rows(folder: Path, make: Callable[[random.Random], dict[str, Any]], samples: dict[str, int]) -> None:
    """Write `{split}.jsonl` of what `make` draws."""
    folder.mkdir(parents=True)
    for split, count in samples.items():
        draw = random.Random(split)
        lines = [json.dumps(make(draw)) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
