"""Made-up reviews of restaurants: which opinions they hold, and a rating."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

#: {topic: its nouns}.
TOPICS = {
    "food": ("soup", "fish", "bread", "pasta", "dessert"),
    "service": ("waiter", "cook", "staff", "host"),
    "price": ("bill", "price", "menu"),
    "place": ("room", "garden", "music", "view"),
}
#: {opinion: its worth in points}.
OPINIONS = {
    "great": 2.0, "lovely": 1.5, "good": 1.0, "decent": 0.5, "dull": -0.5, "poor": -1.0, "bad": -1.5, "awful": -2.0
}  # fmt: skip
DEGREES = {"": 1.0, "very ": 1.5, "rather ": 0.7, "not ": -0.8}
FILLERS = ("we came on a monday", "my friend said so", "it rained", "the train was late", "we sat by the door")
#: Labels that hold or do not: a good or a bad word on a topic.
LABELS = tuple(f"{topic} {side}" for topic in TOPICS for side in ("praised", "criticised"))


def review(draw: random.Random) -> dict[str, Any]:
    """One review: `text`, `labels` that hold, and `rating`."""
    parts, held, rating = [], set(), 0.0
    for topic in draw.sample(list(TOPICS), draw.randint(1, 3)):
        degree, (opinion, worth) = draw.choice(list(DEGREES)), draw.choice(list(OPINIONS.items()))
        points = DEGREES[degree] * worth
        parts.append(f"the {draw.choice(TOPICS[topic])} was {degree}{opinion}")
        held.add(f"{topic} {'praised' if points > 0 else 'criticised'}")
        rating += points
    parts += draw.sample(FILLERS, draw.randint(0, 2))
    draw.shuffle(parts)
    return {"text": " and ".join(parts), "labels": [label for label in LABELS if label in held], "rating": rating}


def words() -> list[str]:
    """All words of reviews."""
    text = " ".join(("the was and", *(noun for nouns in TOPICS.values() for noun in nouns), *OPINIONS, *DEGREES,
                     *FILLERS))  # fmt: skip
    return sorted(set(text.split()))


def save_reviews(folder: Path, column: str, samples: dict[str, int]) -> None:
    """Write `{split}.jsonl` of texts with one column, "labels" or "rating"."""
    folder.mkdir(parents=True)
    for split, count in samples.items():
        draw = random.Random(split)
        rows = [review(draw) for _ in range(count)]
        lines = [json.dumps({"text": row["text"], column: row[column]}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
