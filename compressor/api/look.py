"""`compressor.inspect` and `plan`: what is known before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.api.call import answered
from compressor.api.views import TableView

if TYPE_CHECKING:
    from rich.console import RenderableType
    from transformers import PretrainedConfig

    from compressor.anatomy import Anatomy
    from compressor.api.models import ModelLike, ModelsLike
    from compressor.api.sections import NarrowingName
    from compressor.recipe.fusion import ClassesName, GridName


class Plan(TableView):
    """The result of `plan`.

    Attributes:
        teachers, student: name, parameters, macs and bytes.
        target: the student's shape: width asked and given, config fields.
        others: shapes that held-out samples may prefer.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.teachers: list[dict[str, Any]] = values["teachers"]
        self.student: dict[str, Any] = values["student"]
        self.target: dict[str, Any] = values["target"]
        self.others: list[dict[str, Any]] = values["others"]

    def to_dict(self) -> dict[str, Any]:
        """The same as `compress plan --json`."""
        return dict(self._values)

    def parts(self) -> Sequence[RenderableType]:
        from compressor.report.anatomy import render_plan

        return render_plan(self._values)


@answered
def inspect(model: ModelLike | PretrainedConfig, *, trust_remote_code: bool = False) -> Anatomy:
    """The certified anatomy of an architecture: `.spaces`, `.axes` and `.errors`; no weights are read.

    Args:
        model: a folder, a built-in name, a Hub id, a model, a result or a config.
        trust_remote_code: run code that lies in the model's folder (`auto_map`); read it first.

    Raises:
        UserError: the name or the architecture is unknown.
    """
    from transformers import PretrainedConfig

    from compressor.anatomy import inspect_config
    from compressor.api.models import config_of, one_model

    if isinstance(model, PretrainedConfig):
        return inspect_config(model)
    return inspect_config(config_of(one_model(model, "inspect: model")))


@answered
def plan(
    teachers: ModelsLike, width: float | None = 0.5, *, depth: float | int | None = None,
    narrowing: NarrowingName = "auto", hidden: float | None = None, ffn: float | None = None,
    heads: float | None = None, part: Mapping[str, float] | None = None, grid: GridName = "auto",
    classes: ClassesName = "same", length: int = 128,
    params: float | str | None = None, flops: float | str | None = None, latency: float | str | None = None,
    batch_size: int = 1, revision: str | None = None, trust_remote_code: bool = False,
) -> Plan:  # fmt: skip
    """Shapes, parameters and multiply–accumulates that a width and a depth give; no weights are read.

    Args:
        teachers: one or several of one model type, as in `fuse`.
        width, depth, narrowing, hidden, ffn, heads, part, grid, classes: as in `fuse`; a target picks the width.
        length: tokens of a text sample.
        params, flops, latency, batch_size: the recipe's section `target`.
        revision: branch, tag or commit of the Hub for teachers that have none in their names, `user/model@revision`.
        trust_remote_code: run code that lies in the models' folders (`auto_map`); read it first.

    Raises:
        UserError: an unusable name, width or target, or an unknown architecture.
    """
    from compressor.api.models import check_names, list_models, on_disk
    from compressor.pipeline.plan import plan_student
    from compressor.recipe import build_recipe

    listed = list_models(teachers, "plan: teachers", revision=revision)
    target = {"params": params, "flops": flops, "latency": latency, "batch_size": batch_size}
    values: dict[str, Any] = {"teachers": ["teacher"], "target": target, "depth": depth}
    values["fusion"] = {"narrowing": narrowing, "hidden": hidden, "ffn": ffn, "heads": heads, "part": dict(part or {})}
    values["fusion"]["grid"] = grid
    values["fusion"]["classes"] = classes
    if width is not None and not any((params, flops, latency)):
        values["width"] = width
    keywords = {f"target.{name}": name for name in target} | {f"fusion.{name}": name for name in values["fusion"]}
    recipe = build_recipe(values, where="plan", names=keywords)
    check_names(listed)
    with on_disk(listed, weights=False) as names:
        return Plan(
            plan_student(
                names,
                recipe.width,
                depth=recipe.depth,
                narrowing=narrowing,
                ratios=recipe.fusion.ratios,
                classes=recipe.fusion.classes,
                length=length,
                budget=recipe.target,
            )
        )
