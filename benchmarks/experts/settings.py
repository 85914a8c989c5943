"""Which teachers are unlike, and how."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.baselines.settings import Event
from benchmarks.common.setting import Setting

HALVES = (tuple(range(5)), tuple(range(5, 10)))
STEPS = (0, 10, 25, 50, 100, 200, 800)
SAMPLES = (64, 256, 1024, 4096)
#: Without `--most-steps` and `--samples`; the others are asked for.
MOST_STEPS, USUAL_SAMPLES = 200, (256, 1024)

#: The first 4,000 test images, chosen once: their standard error is 0.8 points.
_CIFAR = Setting("", (), "cifar10", batch=64, test=4000)


def _event(name: str, teachers: tuple[str, ...], setting: Setting = _CIFAR, **fields: object) -> Event:
    return Event(replace(setting, name=name, teachers=(teachers,), **fields), steps=STEPS)  # type: ignore[arg-type]


EVENTS = {
    event.setting.name: event
    for event in (
        _event("built-in experts", ("vit-a", "vit-b"), Setting("", (), "digits", batch=32), classes=HALVES),
        _event("class experts", ("class-0", "class-1"), classes=HALVES, anchors=("vit-0", "vit-1", "vit-2")),
        _event("class experts of one ancestor", ("class-0", "class-2"), classes=HALVES, ancestor="cifar10-vit-a"),
        _event("class experts from scratch", ("scratch-0", "scratch-1"), classes=HALVES),
        _event("a teacher and its fine-tunes", ("cifar10-vit-a", "class-0", "class-2"), ancestor="cifar10-vit-a"),
        _event("shards", ("shard-0", "shard-1")),
        _event("unlike widths and quality", ("cifar10-vit-a", "weak-256")),
        _event(
            "Llamas of two domains",
            ("llama-shakespeare", "llama-python"),
            Setting("", (), "domains", batch=16),
            domains=("shakespeare", "python"),
        ),
    )
}
