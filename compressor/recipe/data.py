"""Options of samples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from compressor.recipe.section import Count, Section


class DataOptions(Section):
    """The source of samples and labels."""

    source: str | None = Field(
        None,
        description="A built-in name, a folder of images by class, parquet/csv/tsv/json/jsonl/txt file(s) or a folder "
        "of them, a data set saved to disk, or a Hub dataset name. Built-in teachers bring their own data.",
    )
    train_split: str | None = Field(None, description="Split for calibration and finetuning; found by name if omitted.")
    eval_split: str | None = Field(None, description="Split for evaluation; found by name if omitted.")
    image_column: str | None = Field(None, description="Column that holds the image; found by its feature if omitted.")
    label_column: str | None = Field(
        None, description="Column that holds the label, or a list of tags; found by its feature or name if omitted."
    )
    text_column: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=2,
        description="Column(s) that hold the text, two for pairs of texts; found by name if omitted.",
    )
    target_column: str | None = Field(
        None, description="Column of the target text of encoder-decoders; found by name if omitted."
    )
    prompt: str | None = Field(
        None,
        description="Text of an image whose class alone is known, {} its name, of models that compare images with "
        "texts (CLIP); 'a photo of a {}.' if omitted.",
    )
    max_length: Count | None = Field(
        None,
        description="Tokens of the longest text, and of the blocks that text is packed into for language models; "
        "512 and 128 if omitted, and never more than the model can read.",
    )

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        if prompt is None:
            return None
        if prompt.count("{}") != 1 or prompt.count("{") != 1 or prompt.count("}") != 1:
            raise ValueError("it needs the place of the class's name, {}, once")
        return prompt

    @field_validator("text_column", mode="before")
    @classmethod
    def _one_column_or_several(cls, columns: Any) -> Any:
        return (columns,) if isinstance(columns, str) else columns


class CalibrationOptions(Section):
    """The unlabelled samples for statistics and the closed-form refit."""

    samples: Count = Field(1024, description="Training samples used for calibration.")
    batch_size: Count = Field(128, description="Samples per forward pass.")
    holdout: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.125, description="Share of the calibration samples held out to choose map, teacher weights and ridge."
    )


class EvaluationOptions(Section):
    """The samples on which accuracy, perplexity and KL are measured."""

    samples: Count | None = Field(2000, description="Evaluation samples, the first of the split; null for all of them.")
    batch_size: Count = Field(128, description="Samples per forward pass.")
