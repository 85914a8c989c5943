"""That freed memory goes back to the system, small tensors' too."""

import subprocess
import sys

import pytest

#: Many tensors below the size that is mapped one by one; every second one is freed, and what is left holds the rest.
_SCRIPT = """
import torch
from compressor.utils.process_memory import return_freed_memory

def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

return_freed_memory()
before = resident()
tensors = [torch.ones(100_000) for _ in range(500)]
held = resident() - before
tensors = tensors[::50]
return_freed_memory()
print(held, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_small_tensors_too():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 150e6 and left < held / 4
