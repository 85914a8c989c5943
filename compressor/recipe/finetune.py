"""Options of the finetune."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from compressor.recipe.section import Count, NonNegative, Positive, Section


class LossOptions(Section):
    """The weight of one loss, and its decay."""

    weight: NonNegative = Field(description="Weight of the loss.")
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        1.0, description="Share of the steps over which the weight falls linearly to 0; null keeps it constant."
    )

    def at(self, done: float) -> float:
        """Weight after a share of the steps."""
        return self.weight if self.decay is None else self.weight * max(0.0, 1 - done / self.decay)


def _with_decay(value: Any) -> Any:
    """Turn a number into a weight with default decay."""
    return {"weight": value} if isinstance(value, int | float | str) else value


class FinetuneOptions(Section):
    """The short training after the fusion: distillation from the ensemble, labels, or both."""

    enabled: bool = Field(True, description="Finetune after the fusion if there is data.")
    steps: Count = Field(200, description="Optimiser steps.")
    batch_size: Count = Field(128, description="Samples per step.")
    accumulate: Literal["auto"] | Count = Field(
        "auto",
        description="Gradient accumulation: micro-batches per step, for the same step in less memory; auto: as few "
        "as keep the logits of a micro-batch below 2**26.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the student's computation; its weights stay float32."
    )
    recompute: bool = Field(
        False,
        description="Gradient checkpointing: recompute activations in the backward pass; slower, far less memory.",
    )
    tensorboard: str | None = Field(
        None, description="Folder of TensorBoard logs; needs pip install 'compressor[tensorboard]'."
    )
    augment: str = Field(
        "none",
        description="Augmentation of training images: none, flip, crop-flip (flip and shift), zoom-flip (flip and "
        "random crop), or mixup (crop-flip and mixed pairs; for distillation without labels).",
    )
    learning_rate: Literal["search"] | Positive = Field(
        3e-4, description="Peak learning rate of AdamW, or search: the best of learning_rates on a validation split."
    )
    learning_rates: tuple[Positive, ...] = Field(
        (1e-4, 3e-4, 1e-3, 3e-3),
        min_length=1,
        description="Learning rates that the search tries, each for search_steps steps.",
    )
    search_steps: Count | None = Field(
        None, description="Steps of each trial of the search; as many as steps if omitted."
    )
    validation: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05,
        description="Share of the training samples held out for validation, also from the fusion of the same run.",
    )
    validate_every: Count | None = Field(
        None,
        description="Steps between validations; the result is the best checkpoint, which may be the start. Without "
        "it no samples are held out, unless the search needs them.",
    )
    patience: Count | None = Field(
        None,
        description="Early stopping: validations in a row without improvement that end the training; off if omitted.",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps for linear warm-up; cosine decay after it."
    )
    weight_decay: NonNegative = Field(0.01, description="Weight decay of AdamW.")
    temperature: Literal["auto"] | Positive = Field(
        "auto",
        description="Temperature of the distillation; the loss is scaled by its square. auto: 1 for language models, "
        "2 for classifiers.",
    )
    distil_weight: NonNegative = Field(1.0, description="Weight of the distillation loss; 0 trains on labels alone.")
    label_weight: NonNegative = Field(0.0, description="Weight of the cross-entropy with labels; 0 needs no labels.")
    losses: Literal["auto"] | dict[str, Annotated[LossOptions, BeforeValidator(_with_decay)]] = Field(
        "auto",
        description="More losses by name, each a weight or {weight, decay}: hidden (residual streams against "
        "transported ones), relations (attention). Without decay the weight falls to 0 over the whole training. "
        "auto: hidden with weight 10 where samples come more than 4 times and a fusion's maps are known, else none.",
    )
    cache_logits: bool = Field(
        False,
        description="Cache the teachers' logits of all training samples on disk, so that teachers run once per sample; "
        "for images only without augmentation.",
    )
    checkpoint_every: Count = Field(50, description="Steps between checkpoints that an interrupted run resumes from.")

    @property
    def parts(self) -> int:
        """Micro-batches per step; 1 while "auto"."""
        return 1 if self.accumulate == "auto" else self.accumulate

    @property
    def keeps_out(self) -> bool:
        """Whether training samples are kept out to choose by."""
        return self.learning_rate == "search" or self.validate_every is not None

    @property
    def asks_teachers(self) -> bool:
        """Whether a loss needs the teachers."""
        return self.distil_weight > 0 or any(loss.weight > 0 for loss in self.named_losses.values())

    @property
    def named_losses(self) -> dict[str, LossOptions]:
        """The losses that were asked for by name."""
        return {} if self.losses == "auto" else self.losses

    def all_losses(self) -> dict[str, LossOptions]:
        """Every loss by name, also of weight 0."""
        named = {"logits": self.distil_weight, "labels": self.label_weight}
        return {**{name: LossOptions(weight=weight, decay=None) for name, weight in named.items()}, **self.named_losses}

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> FinetuneOptions:
        for name, field in (("logits", "distil_weight"), ("labels", "label_weight")):
            if name in self.named_losses:
                raise ValueError(f"losses: the weight of {name} is {field}")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("patience counts judgements: set validate_every")
        if not self.asks_teachers and self.label_weight == 0:
            raise ValueError("distil_weight and label_weight are both 0: there is nothing to learn from")
        return self
