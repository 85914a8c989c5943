"""Questions on made-up reviews: the words that answer them, or which of four opinions is meant."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from benchmarks.tasks.reviews import DEGREES, FILLERS, OPINIONS, TOPICS

#: Words of questions that reviews lack.
ASKING = ("how", "?")


def question(draw: random.Random) -> dict[str, Any]:
    """One review and a question: `question`, `context`, `answers`; for choices `sent2` and `ending0` to `ending3`."""
    nouns = draw.sample([noun for topic in TOPICS.values() for noun in topic], draw.randint(2, 4))
    said = {noun: draw.choice(list(DEGREES)) + draw.choice(list(OPINIONS)) for noun in nouns}
    parts = [f"the {noun} was {opinion}" for noun, opinion in said.items()] + draw.sample(FILLERS, draw.randint(0, 2))
    draw.shuffle(parts)
    noun, context = draw.choice(nouns), " and ".join(parts)
    answer, before = said[noun], f"the {noun} was "
    others = [degree + opinion for degree in DEGREES for opinion in OPINIONS if degree + opinion != answer]
    # What is said of another noun is the hardest wrong choice.
    near = [opinion for opinion in dict.fromkeys(said.values()) if opinion != answer][:1]
    endings = [answer, *near, *draw.sample([other for other in others if other not in near], 3 - len(near))]
    draw.shuffle(endings)
    return {
        "question": f"how was the {noun} ?", "context": context, "sent2": f"the {noun} was",
        "answers": {"text": [answer], "answer_start": [context.index(before) + len(before)]},
        **{f"ending{index}": ending for index, ending in enumerate(endings)}, "label": endings.index(answer),
    }  # fmt: skip


def save_questions(folder: Path, columns: tuple[str, ...], samples: dict[str, int]) -> None:
    """Write `{split}.jsonl` of some of the columns of `question`."""
    folder.mkdir(parents=True)
    for split, count in samples.items():
        draw = random.Random(split)
        lines = [json.dumps({name: row[name] for name in columns}) for row in (question(draw) for _ in range(count))]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
