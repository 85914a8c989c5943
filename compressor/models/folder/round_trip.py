"""What will be written at the end is written and read back at the start, without weights."""

from __future__ import annotations

import copy
import tempfile

from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.configs.own_code import copy_code
from compressor.models.configs.reading import read_config
from compressor.models.folder.save import config_json
from compressor.models.meta import meta_model
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.out_of_memory import is_out_of_memory


def check_round_trip(config: PretrainedConfig, name: str = "the student") -> None:
    """Save a config, read it back and build its model on the meta device.

    Raises:
        UserError: it cannot be saved, read or built, or reads as another model; names it by `name`.
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        try:
            with quiet_transformers():
                # Saving may change it.
                copy.deepcopy(config).save_pretrained(folder)
            copy_code(config, folder)
            again = read_config(folder)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = one_line(error).replace(f"the config of {folder}", "its config").replace(folder, name)
            raise UserError(f"{name} could not be built, saved and loaded again: {reason}") from error
    if config_json(again) != config_json(config) and (parameter := _differing_parameter(config, again)):
        raise UserError(f"{name} could not be saved and loaded again: {parameter} would differ")


def _differing_parameter(config: PretrainedConfig, again: PretrainedConfig) -> str | None:
    """A parameter that two configs build differently, if any."""
    first, second = ({name: p.shape for name, p in meta_model(c).named_parameters()} for c in (config, again))
    return next((name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)), None)
