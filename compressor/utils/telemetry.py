"""Telemetry of the libraries that this package uses: off, unless the user has turned it on."""

from __future__ import annotations

import os

#: Environment variable -> the value that keeps a library from sending what nobody asked it to send.
VARIABLES = {
    # ONNX Runtime looks up a host and writes a device id below the user's cache when it is imported; its function
    # `disable_telemetry_events` comes too late for that.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and what transformers and datasets add to their requests.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets counts, at a server of its own, how often a reader of local files such as "csv" was used.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # transformers asks a service of the Hub to convert a repository that has no safetensors.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}


def disable_telemetry() -> None:
    """Set `VARIABLES` in this process and in those that it starts; what the user has set stays.

    The libraries read them when they are imported, so this has to be called before.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
