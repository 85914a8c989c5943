"""What the contest is held on."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.baselines.contenders import OURS, RANDOM, SINGLE
from benchmarks.common.setting import Setting

SHARED = ("cifar10-vit-a", "cifar10-vit-b")
SMALL = (("vit-0", "vit-1"), ("vit-2", "vit-3"), ("vit-4", "vit-0"))


@dataclass(frozen=True)
class Event:
    """One page of the contest.

    Attributes:
        setting: teachers and data.
        width: of the students.
        steps: of the finetunes, the longest for those who need them; 0 is one-shot.
        seeds: how many.
        draws: trials of each learning rate of a random start, which may be lucky where training is not stable.
        others: the most steps of those who are neither ours, one teacher's, pruned nor random.
        only: the contenders that take part; everybody if empty.
    """

    setting: Setting
    width: float = 0.5
    steps: tuple[int, ...] = (0, 50, 100, 200, 400, 800, 2000)
    seeds: int = 3
    draws: int = 1
    others: int = 200
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.setting.name}, width {self.width:g}"


def _cifar(
    name: str, groups: tuple[tuple[str, ...], ...], anchors: tuple[str, ...] = (), samples: int = 1024
) -> Setting:
    return Setting(name, groups, "cifar10", anchors=anchors, samples=samples, test=5000)


def _pairs(name: str, pairs: str) -> tuple[tuple[str, str], ...]:
    """Pairs of teachers by their letters."""
    return tuple((f"{name}-{one}", f"{name}-{two}") for one, two in map(tuple, pairs.split()))


SHORT = (0, 200)
VITS = _cifar("ViTs", (SHARED,), ("vit-0", "vit-1", "vit-2"))
SMALL_VITS = _cifar("small ViTs", SMALL)
THREE = _cifar("three small ViTs", tuple(tuple(f"vit-{(k + j) % 5}" for j in range(3)) for k in range(3)))
FOUR = _cifar("four small ViTs", tuple(tuple(f"vit-{(k + j) % 5}" for j in range(4)) for k in range(3)))
BERTS = Setting("BERTs", _pairs("bert", "ab bc ca"), "sst2", anchors=("bert-64",), samples=1024, batch=32)
LLAMAS = Setting("Llamas", _pairs("llama", "ab bc ca"), "shakespeare", anchors=("llama-64",), samples=1024, batch=16)
#: Seeds that are in no other pair, since pairs that share a teacher are not independent.
MANY_BERTS = (("bert-a", "bert-b"), ("bert-c", "bert-d"), *((f"bert-{k}", f"bert-{k + 1}") for k in range(5, 25, 2)))
TWELVE = Setting("twelve pairs of BERTs", MANY_BERTS, "sst2", samples=1024, batch=32)
GPT2S = Setting(
    "GPT-2s", (("gpt2-a", "gpt2-b"), ("gpt2-2", "gpt2-3"), ("gpt2-4", "gpt2-5")), "shakespeare", samples=1024, batch=16
)

EVENTS = {
    event.name: event
    for event in (
        Event(VITS),
        Event(_cifar("ViTs, 4,096 images", (SHARED,), samples=4096), steps=(0,), only=(OURS,)),
        Event(SMALL_VITS, steps=(0, 50, 100, 200), others=0),
        # At rates at which most random BERTs learn best some learn nothing.
        Event(BERTS, draws=3),
        # An accuracy on 1,821 sentences takes many pairs to tell half a point.
        Event(TWELVE, steps=(0, 50, 100, 200), seeds=12, only=(OURS, *SINGLE)),
        Event(LLAMAS),
        Event(GPT2S, steps=(0, 50, 100, 200, 2000), only=(OURS, *SINGLE, RANDOM)),
        *(Event(setting, width, SHORT, others=0) for width in (0.75, 0.33, 0.25) for setting in (VITS, BERTS, LLAMAS)),
        Event(THREE, steps=SHORT, others=0),
        Event(FOUR, steps=SHORT, others=0),
    )
}
