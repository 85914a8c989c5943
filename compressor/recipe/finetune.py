"""Options of the finetune."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from compressor.recipe.base import Count, NonNegative, Positive, Section


class LossOptions(Section):
    """The weight of one loss, and when it is gone."""

    weight: NonNegative = Field(description="Weight of the loss.")
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        1.0, description="Share of the steps after which the weight has fallen to 0, step by step; null keeps it."
    )

    def at(self, done: float) -> float:
        """The weight when a share of the steps is done."""
        return self.weight if self.decay is None else self.weight * max(0.0, 1 - done / self.decay)


def _with_decay(value: Any) -> Any:
    """A weight alone stands for itself and the usual decay."""
    return {"weight": value} if isinstance(value, int | float | str) else value


class FinetuneOptions(Section):
    """The short training that follows the fusion: distillation from the ensemble, labels, or both."""

    enabled: bool = Field(True, description="Finetune after fusing, when there is data.")
    steps: Count = Field(200, description="Optimiser steps.")
    batch_size: Count = Field(128, description="Samples per step.")
    accumulate: Literal["auto"] | Count = Field(
        "auto",
        description="Parts that a batch is computed in, one after the other: the same step in less memory; auto: as "
        "few as keep the logits of a part below 2**26.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision that the student computes in; its weights stay float32."
    )
    recompute: bool = Field(
        False, description="Compute the layers' activations again in the backward pass: slower, in far less memory."
    )
    tensorboard: str | None = Field(
        None, description="Folder to log every step to, for TensorBoard; needs pip install 'compressor[tensorboard]'."
    )
    augment: str = Field(
        "none",
        description="Change of the training images: none, flip, crop-flip (shifts too), zoom-flip (parts of them), or "
        "mixup (crop-flip, and pairs mixed; for distillation alone).",
    )
    learning_rate: Literal["search"] | Positive = Field(
        3e-4, description="Peak learning rate of AdamW, or search: the best of learning_rates on a validation split."
    )
    learning_rates: tuple[Positive, ...] = Field(
        (1e-4, 3e-4, 1e-3, 3e-3), min_length=1, description="What the search tries, each with search_steps steps."
    )
    search_steps: Count | None = Field(
        None, description="Steps of each trial of the search; as many as steps if omitted."
    )
    validation: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Share of the training samples that is kept out of the training, to judge by."
    )
    validate_every: Count | None = Field(
        None,
        description="Steps between judgements on the samples kept out; the weights of the best are the result, be it "
        "the start. None are kept out if omitted, unless a search needs them.",
    )
    patience: Count | None = Field(
        None, description="Judgements in a row without a better one that end the training; none do if omitted."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps that warm up; cosine after."
    )
    weight_decay: NonNegative = Field(0.01, description="Weight decay of AdamW.")
    temperature: Literal["auto"] | Positive = Field(
        "auto",
        description="Temperature of the distillation; the loss is scaled by its square. auto: 1 for models that answer "
        "with their vocabulary, 2 for classifiers.",
    )
    distil_weight: NonNegative = Field(1.0, description="Weight of the distillation; 0 trains on labels alone.")
    label_weight: NonNegative = Field(0.0, description="Weight of the cross-entropy with labels; 0 needs no labels.")
    losses: dict[str, Annotated[LossOptions, BeforeValidator(_with_decay)]] = Field(
        {},
        description="Further losses by name, each a weight or {weight, decay}: hidden (residual streams against the "
        "transported ones), relations (attention). Of a weight alone nothing is left at the end of the training.",
    )
    cache_logits: bool = Field(
        False,
        description="Keep the teachers' logits of all training samples on disk, and ask no teacher again; for images "
        "without augmentation.",
    )
    checkpoint_every: Count = Field(50, description="Steps between checkpoints that an interrupted run resumes from.")

    @property
    def parts(self) -> int:
        """Parts that a batch is computed in; one where that has not been settled."""
        return 1 if self.accumulate == "auto" else self.accumulate

    @property
    def asks_teachers(self) -> bool:
        """Whether any loss needs the teachers."""
        return self.distil_weight > 0 or any(loss.weight > 0 for loss in self.losses.values())

    def all_losses(self) -> dict[str, LossOptions]:
        """Every loss by name, those of weight 0 too."""
        named = {"logits": self.distil_weight, "labels": self.label_weight}
        return {**{name: LossOptions(weight=weight, decay=None) for name, weight in named.items()}, **self.losses}

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> FinetuneOptions:
        for name, field in (("logits", "distil_weight"), ("labels", "label_weight")):
            if name in self.losses:
                raise ValueError(f"losses: the weight of {name} is {field}")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("patience counts judgements: set validate_every")
        if not self.asks_teachers and self.label_weight == 0:
            raise ValueError("distil_weight and label_weight are both 0: there is nothing to learn from")
        return self
