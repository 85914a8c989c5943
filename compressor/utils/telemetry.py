"""Telemetry of libraries: off unless the user turned it on."""

from __future__ import annotations

import os

#: {environment variable: value that turns telemetry off}.
VARIABLES = {
    # ONNX Runtime looks up a host and writes a device id below the user's cache when it is imported; its function
    # `disable_telemetry_events` comes too late for that.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and what transformers and datasets add to their requests.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets reports uses of readers, such as "csv", to its own server.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # transformers asks a service of the Hub to convert a repository that has no safetensors.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}


def disable_telemetry() -> None:
    """Set `VARIABLES` for this process and its children, before imports; the user's values stay."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
