"""The end of a run at its start: what its folder will hold is saved and loaded again, without weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME

from compressor.errors import UserError
from compressor.export.file_kinds import files_of
from compressor.export.write import write_companions
from compressor.models.configs.reading import read_config
from compressor.models.folder.round_trip import check_round_trip
from compressor.models.inherited.companions import Companions
from compressor.models.load import load_processor
from compressor.models.meta import meta_model
from compressor.models.resolve import resolve
from compressor.utils.input_files import MIB, read_json
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.out_of_memory import is_out_of_memory


def rehearse_folder(config: PretrainedConfig, *, companions_of: str, given: str | None = None) -> None:
    """Build a model on the meta device, and save and load its folder without weights.

    Args:
        companions_of: the model whose preprocessor or tokenizer goes along.
        given: the model itself, if it exists; its generation settings go along.

    Raises:
        UserError: something could not be saved, or not loaded again.
    """
    name = given or "the student"
    check_round_trip(config, name)
    model = meta_model(config)
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        folder = Path(scratch)
        try:
            with quiet_transformers():
                if given is not None and (settings := _generation_settings(given)) is not None:
                    model.generation_config = settings
            write_companions(folder, model, Companions(_processor_of(companions_of, config)))
            load_processor(folder, read_config(folder))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = one_line(error).replace(scratch, name)
            raise UserError(f"the folder of {name} could not be written and read again: {reason}") from error


def rehearse_export(config: PretrainedConfig, cache: bool) -> None:
    """Check that there are exported files of a model's kind.

    Raises:
        UnsupportedError: there are none.
    """
    files_of(meta_model(config), cache)


def rehearse_picture(draw: Callable[[Mapping[str, Any], Path], None], suffix: str, names: Sequence[str]) -> None:
    """Draw a picture of made-up scores, with the models' names.

    Args:
        draw: of scores over a plane or along lines.

    Raises:
        UserError: it cannot be drawn.
    """
    scores = {
        "metric": "accuracy",
        "data": "",
        "samples": 1,
        "labelled": 1,
        "models": [{"name": name, "score": 0.5, "x": k / 2, "y": k % 2} for k, name in enumerate(names)],
        "shares": [0.0, 1.0],
        "curves": [{"start": names[0], "end": end, "scores": [0.5, 0.5], "barrier": 0.0} for end in names[1:]],
        "xs": [0.0, 1.0],
        "ys": [0.0, 1.0],
        "scores": [[0.4, 0.5], [0.5, 0.6]],
    }
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        try:
            draw(scores, Path(scratch, f"picture{suffix}"))
        # Whatever matplotlib and its fonts raise.
        except Exception as error:
            raise UserError(f"a picture of {', '.join(names)} cannot be drawn: {one_line(error)}") from error


def _processor_of(name: str, config: PretrainedConfig) -> object | None:
    """A model's preprocessor; None for a built-in teacher that is not trained yet."""
    source = resolve(name)
    if source.kind == "builtin" and not Path(source.location).is_dir():
        return None
    processor: object | None = load_processor(source.location, config)
    return processor


def _generation_settings(name: str) -> GenerationConfig | None:
    path = Path(resolve(name).location, GENERATION_CONFIG_NAME)
    return GenerationConfig.from_dict(read_json(path, MIB)) if path.is_file() else None
