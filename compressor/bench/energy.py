"""Energy of the processor's packages, where Linux lets it be read: https://docs.kernel.org/power/powercap/powercap.html

The counters are of whole packages, with all that runs on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Where the kernel keeps its counters; the zones of one colon are packages, others are parts of these.
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """A package's counter in microjoules, which starts again at 0 after `largest`."""

    path: Path
    largest: int

    def read(self) -> int:
        """Microjoules."""
        return int((self.path / "energy_uj").read_text(encoding="ascii"))


class EnergyMeter:
    """Joules since the last look; `None` where no counter may be read."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters = _readable(root)
        self._last = [counter.read() for counter in self._counters]

    def joules(self) -> float | None:
        """Joules since the last call, or since the meter was made."""
        if not self._counters:
            return None
        now = [counter.read() for counter in self._counters]
        spent = [
            after - before if after >= before else after - before + counter.largest
            for counter, before, after in zip(self._counters, self._last, now, strict=True)
        ]
        self._last = now
        return sum(spent) / 1e6


def _readable(root: Path) -> list[EnergyCounter]:
    counters = []
    for zone in sorted(root.glob("*:*")):
        if zone.name.count(":") > 1:
            continue
        try:
            counter = EnergyCounter(zone, int((zone / "max_energy_range_uj").read_text(encoding="ascii")))
            counter.read()
        # Since 2020 only root may read them, and virtual machines have none.
        except (OSError, ValueError):
            continue
        counters.append(counter)
    return counters
