"""Options of the fusion."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from compressor.recipe.section import Count, NonNegative, Positive, Section, number_with_unit

EffortName = Literal["fast", "normal", "thorough"]
MixtureName = Literal["auto", "probabilities", "logits", "tempered"]
GridName = Literal["auto", "none"]
PreferName = Literal["accuracy", "balanced", "speed"]
ClassesName = Literal["same", "union", "first", "intersection"]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
#: {unit of memory: bytes}.
_BYTES = {"": 1.0, "mb": 1e6, "gb": 1e9, "m": 1e6, "g": 1e9, "mib": 2.0**20, "gib": 2.0**30}


class Ratios(NamedTuple):
    """Shares of single sizes, None for the width's.

    Attributes:
        part: {part of a composite config: its width}.
        grid: whether large sizes are multiples that kernels like.
    """

    hidden: float | None = None
    ffn: float | None = None
    heads: float | None = None
    part: Mapping[str, float] = MappingProxyType({})
    grid: bool = True

    @property
    def given(self) -> bool:
        """Whether any size has a share of its own."""
        return bool(self.part) or any(share is not None for share in self[:3])


#: All sizes follow the width.
BY_WIDTH = Ratios()


class AlignmentOptions(Section):
    """How coordinates of models are compared and coupled: features, ground cost, solver, marginals."""

    features: Literal["auto", "activations", "weights"] = Field(
        "auto", description="Features for ground costs; auto: activations if there is data."
    )
    tokens: str = Field(
        "all",
        description="Tokens whose activations are compared: all, class (the first token), window:N (the class token "
        "and the N x N patches in the middle), random:SHARE, or loss:X (samples whose loss is below X).",
    )
    preparation: str = Field("raw", description="Preprocessing of features: raw, centred, standardised, normalised.")
    cost: str = Field(
        "euclidean", description="Ground cost between coordinates: euclidean, squared, cosine, correlation."
    )
    normalise: str = Field("median", description="Scale that costs are divided by: their median, mean or max, or none.")
    solver: str = Field(
        "emd",
        description="Transport solver: emd (hard), sinkhorn (soft), partial, unbalanced, semirelaxed or "
        "semirelaxed-entropic.",
    )
    epsilon: Positive = Field(
        0.05, description="Entropic regularisation of soft solvers, in units of the cost's scale."
    )
    mass: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of the mass that partial transport moves."
    )
    relaxation: Positive = Field(
        1.0, description="How strongly unbalanced transport holds to its marginals, in units of the cost's scale."
    )
    marginals: Literal["uniform", "activation", "outgoing"] = Field(
        "uniform",
        description="Mass of a coordinate, where it is aligned to an anchor: the same for all, or by importance: the "
        "norm of its activations or of its outgoing weights.",
    )
    heads: Literal["auto", "within", "across"] = Field(
        "auto",
        description="Channels of attention are coupled within heads, once these are matched, or across all heads as in "
        "the paper; auto: within.",
    )
    query_key: Literal["joint", "separate", "equal"] = Field(
        "joint",
        description="Maps of queries and keys: one of both costs (joint), the query's for both (equal), or one each "
        "(separate: their product is then not kept).",
    )
    scaling: Literal["push-pull", "one-matrix"] = Field(
        "push-pull",
        description="one-matrix uses the push for readers too, as the paper's released code does: wrong by the ratio "
        "of the widths when they differ, and here for comparison only.",
    )


class FusionOptions(Section):
    """How teachers are transported into the student."""

    residual: str = Field(
        "auto",
        description="Residual map: auto, or the name of a registered map; or, to align everything to an anchor as in "
        "the paper, a residual policy: averaging, weighted-scalar, weighted-matrix, residual-only, branch-only, "
        "identity or global.",
    )
    narrowing: Literal["auto", "fewer-heads", "smaller-heads", "all-heads"] = Field(
        "auto",
        description="How attention becomes narrower: fewer heads of the teachers' size, as many of a smaller size, or, "
        "smaller still, as many as all teachers have together; auto: chosen on held-out calibration data.",
    )
    prefer: PreferName = Field(
        "balanced",
        description="What decides between ways to narrow attention, where narrowing is auto: accuracy (the pilot "
        "nearest to the ensemble), balanced (the fastest of those about as near), or speed (the fastest); how fast a "
        "shape is follows from its sizes, the same on every machine.",
    )
    hidden: Share | None = Field(
        None, description="Share of the residual stream alone (hidden size), in place of the width."
    )
    ffn: Share | None = Field(None, description="Share of the hidden units of FFNs alone, in place of the width.")
    heads: Share | None = Field(
        None,
        description="Share of the attention heads alone; they keep their size where the config has one, else it is the "
        "hidden size over their number.",
    )
    part: dict[str, Share] = Field(
        {},
        description="Widths of single parts of a composite model, such as vision=0.5 or text=0.75, in place of the "
        "width.",
    )
    grid: GridName = Field(
        "auto",
        description="What sizes are rounded to: auto (hidden sizes and FFNs to multiples of 64 from 512 up; heads of "
        "64 and more to 32, 64, 96 or 128 where a config field sizes them, else to multiples of 8 in models from 512 "
        "up), or none.",
    )
    inner: str = Field("auto", description="Map of heads and hidden units: auto, or the name of a registered map.")
    alignment: AlignmentOptions = AlignmentOptions()
    weights: Literal["auto", "equal"] | tuple[NonNegative, ...] = Field(
        "auto",
        description="The teachers' weights: equal, or one per teacher (normalised), or auto: by the likelihood of "
        "calibration labels (of next tokens) where there are any, else equal; shares in the student's coordinates are "
        "chosen on held-out calibration data (by a residual policy only with a refit).",
    )
    mixture: MixtureName = Field(
        "auto",
        description="How the teachers' predictions are mixed: the mean of their probabilities, of their logits, or of "
        "tempered probabilities, in between; auto: logits where the teachers disagree widely about classes, else by "
        "the likelihood of calibration labels where there are any.",
    )
    classes: ClassesName = Field(
        "same",
        description="Classes of the student, where the teachers' classes are not the same by name: all of them "
        "(union), the first teacher's, or those that all have (intersection); same: unlike classes are refused. A "
        "given student keeps its own.",
    )
    ridge: Literal["auto"] | NonNegative = Field(
        "auto",
        description="Ridge of the refit, relative to the mean input variance, or auto: chosen on held-out data.",
    )
    polish: Literal["auto"] | NonNegativeInt = Field(
        "auto",
        description="Steps of layer-wise reconstruction: after the refit, each layer in turn is trained to reproduce "
        "the transported outputs of the teachers, and last the last layer and the head to reproduce the ensemble's "
        "predictions (no labels, no gradients between layers); 0: none; auto: 600 if the "
        "width drops more than 2 % of the residual stream and pilots are more than 0.05 nats from the ensemble.",
    )
    effort: EffortName = Field(
        "normal",
        description="What choosing and refitting may cost: fast (few samples for candidates, a refit on a quarter of "
        "the tokens, no automatic reconstruction), normal (near ties on more samples, a refit on as many tokens as "
        "change it), or thorough (all candidates on more samples, a refit on all tokens).",
    )
    keep_dim: bool = Field(
        False,
        description="A sentence-embedding student keeps the dimension and the coordinates of the first teacher's "
        "embeddings, so that an index stays valid: a linear map (a Dense module) after its pooling, fitted to "
        "calibration texts.",
    )
    max_memory: Count | None = Field(
        None,
        description="Most memory of a fusion, such as 8GB: teachers, which must be local folders, are then read layer "
        "by layer, and hidden states beyond it lie on disk; without pilots, evaluation aside nothing else is done.",
    )
    refit: bool = Field(True, description="Refit the transported weights in closed form; off: pure transport.")
    anchor: str | None = Field(
        None,
        description="A trained model whose shape the student takes and whose coordinates the teachers are aligned to; "
        "it takes part in the fusion if it is one of the teachers. Residual policies then take the first teacher.",
    )

    @field_validator("max_memory", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        size = number_with_unit(value, _BYTES, "a size such as 8GB")
        return int(size) if isinstance(size, float) and size >= 1 else size

    @property
    def ratios(self) -> Ratios:
        """The shares of single sizes."""
        return Ratios(self.hidden, self.ffn, self.heads, self.part, self.grid == "auto")

    @model_validator(mode="after")
    def _heads_are_given_once(self) -> FusionOptions:
        if self.heads is not None and self.narrowing != "auto":
            raise ValueError("heads (--heads) says how attention becomes narrower: leave narrowing (--narrowing) out")
        if self.anchor is not None and self.ratios.given:
            raise ValueError(
                "an anchor (--anchor) has the student's shape: leave --hidden, --ffn, --heads and --part out"
            )
        return self

    def given_weights(self, teachers: int) -> list[float] | None:
        """The weights of so many teachers; None for auto."""
        if self.weights == "auto":
            return None
        return [1.0] * teachers if self.weights == "equal" else [float(weight) for weight in self.weights]
