"""Schema of all options of recipe files and flags; unknown keys are refused.

Every output folder holds the resolved recipe that reproduces it.
"""

from compressor.recipe.data import CalibrationOptions, DataOptions, EvaluationOptions
from compressor.recipe.delivery import BenchOptions, ExportOptions, Int8Options
from compressor.recipe.finetune import FinetuneOptions, LossOptions
from compressor.recipe.fusion import AlignmentOptions, FusionOptions
from compressor.recipe.read import build_recipe, read_recipe
from compressor.recipe.recipe import Recipe
from compressor.recipe.section import Section
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
