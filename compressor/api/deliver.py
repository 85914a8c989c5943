"""`compressor.export` and `export_onnx`: files of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.api.call import answered
from compressor.api.views import TableView
from compressor.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from compressor.api.kinds import Data, GivenData
    from compressor.api.models import ModelLike
    from compressor.api.sections import Columns, Int8Keys
    from compressor.export.reports import ExportReport


class Export(TableView):
    """The result of `export`.

    Attributes:
        folder: of the files.
        files: all of them.
        formats: {name: bytes, difference from torch, scores}.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.folder = Path(values["folder"])
        self.formats: dict[str, dict[str, Any]] = dict(values["formats"])
        self.files = tuple(self.folder / file for written in self.formats.values() for file in written["files"])

    def to_dict(self) -> dict[str, Any]:
        """The same as `compress export --json`."""
        return dict(self._values)

    def parts(self) -> Sequence[RenderableType]:
        from compressor.report.describe_formats import describe_export

        return describe_export(self._values)


@answered
def export(
    model: ModelLike, folder: str | Path | None = None, *, data: Data = None, force: bool = False, seed: int = 0,
    trust_remote_code: bool = False, processor: Any = None,
    formats: str | Sequence[str] = ("onnx",), int8: Int8Keys | None = None, cache: bool = True, tolerance: float = 1e-4,
    opset: int | None = None,
    samples: int = 1024, train_split: str | None = None, eval_split: str | None = None,
    image_column: str | None = None, label_column: str | None = None, text_column: Columns = None,
    target_column: str | None = None, max_length: int | None = None,
    prompt: str | None = None,
) -> Export:  # fmt: skip
    """Write a model in other formats, each compared with torch; beyond the tolerance nothing is written.

    Args:
        model: a folder, a built-in name, a Hub id, a model or a result.
        folder: to write into; a local model's own if omitted.
        data: samples as in `fuse`, but no batches: calibrates int8, and measures what is not exact.
        force: replace files that exist.
        seed: of the compared inputs.
        trust_remote_code: run code that lies in the model's folder (`auto_map`); read it first.
        processor: written next to the files; the model's own if omitted.
        formats, int8, cache, tolerance, opset: the recipe's section `export`.
        samples: for calibration.
        train_split, eval_split, …, max_length, prompt: the recipe's section `data`.

    Raises:
        ParityError: a file differs from torch by more than `tolerance`.
        UserError: an unusable model, folder or format, or files that exist.
    """
    return _export(locals())


def _export(arguments: Mapping[str, Any]) -> Export:
    from compressor.api.keywords import keyword_names, recipe_sections
    from compressor.api.kinds import kind_of_data
    from compressor.api.models import check_names, on_disk, one_model
    from compressor.api.samples import check_source
    from compressor.export.formats import EXPORT_FORMATS
    from compressor.pipeline.export import export_model
    from compressor.recipe import build_recipe

    model = one_model(arguments["model"], "export: model")
    if arguments["folder"] is None and not isinstance(model, str):
        raise UserError("export: folder is missing: say where the files of this model go, export(model, folder)")
    given = None if arguments["data"] is None else kind_of_data(arguments["data"], "export: data", arguments["samples"])
    sections = recipe_sections(arguments, "export", "calibration", "data")
    output = None if arguments["folder"] is None else str(arguments["folder"])
    sections["export"]["onnx"] = any(name.startswith("onnx") for name in _names(arguments["formats"]))
    values = {"teachers": ["model"], "seed": arguments["seed"], **sections}
    for name in build_recipe(values, where="export", names=keyword_names(sections)).export.wanted:
        EXPORT_FORMATS.get(name)
    check_names([model])
    check_source(given)
    with on_disk([model], processor=arguments["processor"]) as (name,), _as_source(given) as source:
        sections["data"]["source"] = source
        recipe = build_recipe({**values, "teachers": [name]}, where="export", names=keyword_names(sections))
        return Export(export_model(recipe, output, force=arguments["force"]))


def _names(formats: Any) -> list[str]:
    return [formats] if isinstance(formats, str) else [str(name) for name in formats]


@contextmanager
def _as_source(given: GivenData | None) -> Iterator[str | None]:
    """Data by name for one block; a dataset in memory is a file meanwhile.

    Raises:
        UserError: batches, which no file can hold.
    """
    if given is None or given.kind == "source":
        yield None if given is None else given.value
        return
    if given.kind in ("tensors", "samples"):
        raise UserError(f"export: data: {given.name} are no samples to calibrate with: give texts, images or a Dataset")
    import tempfile

    from compressor.api.datasets import splits_of

    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        for split, raw in splits_of(given, "image").items():
            raw.read().to_parquet(Path(scratch, f"{split}.parquet"))
        yield scratch


@answered
def export_onnx(
    model: ModelLike, folder: str | Path, *, cache: bool = True, tolerance: float = 1e-4, seed: int = 0,
    opset: int | None = None,
) -> ExportReport:  # fmt: skip
    """Write a model's ONNX files to `folder`/onnx and compare them with torch over several batch sizes.

    `export` has more formats, and replaces nothing unasked.

    Args:
        model: a folder, a built-in name, a Hub id, a model or a result.
        cache: also write files with past keys and values for a model that generates.
        tolerance: largest difference, relative to the largest value of an output.
        seed: of the random inputs.
        opset: version of ONNX's operations; torch's own if omitted.

    Raises:
        ParityError: a file differs from torch by more than `tolerance`; nothing is written.
        UserError: the model cannot be loaded or exported.
    """
    from compressor.api.models import check_names, load_models, one_model
    from compressor.export.onnx import write_onnx

    given = one_model(model, "export_onnx: model")
    check_names([given])
    (loaded,) = load_models([given])
    return write_onnx(loaded.model, folder, cache=cache, tolerance=tolerance, seed=seed, opset=opset)
