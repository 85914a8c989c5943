"""Made-up sounds: melodies of a few kinds, and letters that are whistled, one tone each."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np

#: Samples a second, and seconds of a tone.
RATE, SECONDS = 16_000, 0.12
#: Kinds of melodies: how many steps each of four tones lies above the first.
MELODIES = {
    "rising": (0, 1, 2, 3), "falling": (0, -1, -2, -3), "peak": (0, 2, 2, 0), "valley": (0, -2, -2, 0),
    "zigzag": (0, 2, 0, 2), "steady": (0, 0, 0, 0),
}  # fmt: skip
LETTERS = "abcdefgh"
#: Pitches of a scale, in Hz.
_PITCHES = 220.0 * 2 ** (np.arange(16) / 5)
_NOISE = 0.1


def save_melodies(folder: Path, samples: dict[str, int]) -> None:
    """Write `{split}/{kind}/{number}.wav`."""
    for split, count in samples.items():
        draw = np.random.default_rng([0, len(split)])
        for number in range(count):
            kind = list(MELODIES)[number % len(MELODIES)]
            start = int(draw.integers(3, len(_PITCHES) - 3))
            _write(folder / split / kind / f"{number}.wav", [start + step for step in MELODIES[kind]], draw)


def save_letters(folder: Path, samples: dict[str, int]) -> None:
    """Write `{split}.jsonl` of files and their text: one to three words of whistled letters."""
    for split, count in samples.items():
        draw, rows = np.random.default_rng([1, len(split)]), []
        for number in range(count):
            words = ["".join(draw.choice(list(LETTERS), draw.integers(1, 4))) for _ in range(draw.integers(1, 4))]
            text = " ".join(words)
            pitches = [None if letter == " " else 2 * LETTERS.index(letter) for letter in text]
            _write(folder / "sounds" / split / f"{number}.wav", pitches, draw)
            rows.append({"file": f"sounds/{split}/{number}.wav", "text": text})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _write(path: Path, pitches: list[int | None], draw: np.random.Generator) -> None:
    """Tones one after the other, None silent, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(RATE * SECONDS)) / RATE
    # A tone swells and fades, so that two alike are told apart.
    swell = np.sin(np.pi * times / SECONDS)
    tones = [
        np.zeros_like(times) if pitch is None else swell * np.sin(2 * np.pi * (_PITCHES[pitch] * times + draw.random()))
        for pitch in pitches
    ]
    sound = 0.5 * np.concatenate(tones) + _NOISE * draw.standard_normal(len(times) * len(tones))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((32_000 * sound.clip(-1, 1)).astype("<i2").tobytes())
