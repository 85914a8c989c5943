"""The one schema of every option: what a recipe file may say and what the command's flags mean.

A recipe is a YAML file; the flags of the command are the same fields.  Both are validated by the models below,
unknown keys are refused, and every output folder holds the resolved recipe that reproduces it.
"""

from compressor.recipe.base import Section
from compressor.recipe.data import CalibrationOptions, DataOptions, EvaluationOptions
from compressor.recipe.delivery import BenchOptions, ExportOptions, Int8Options
from compressor.recipe.finetune import FinetuneOptions, LossOptions
from compressor.recipe.fusion import AlignmentOptions, FusionOptions
from compressor.recipe.load import build_recipe, read_recipe
from compressor.recipe.recipe import Recipe
from compressor.recipe.target import TargetOptions

__all__ = [
    "AlignmentOptions",
    "BenchOptions",
    "CalibrationOptions",
    "DataOptions",
    "EvaluationOptions",
    "ExportOptions",
    "FinetuneOptions",
    "FusionOptions",
    "Int8Options",
    "LossOptions",
    "Recipe",
    "Section",
    "TargetOptions",
    "build_recipe",
    "read_recipe",
]
