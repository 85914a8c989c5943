"""Fuse two ViTs into one of half their width, step by step, with the library's own pieces.

    python docs/examples/fuse_two_vits.py

`compressor.fuse` does this in one call, for any architecture, and chooses maps and shape on held-out samples. Here they
are given, so that the algorithm can be read from top to bottom. docs/how.md has the mathematics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from compressor.anatomy import certify, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.probabilities import mix_predictions
from compressor.fusion.build.head import refit_head
from compressor.fusion.build.refit import StudentRefit
from compressor.fusion.build.student import BuildOptions, StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.features.activations import ActivationFeatures, TeacherActivations
from compressor.fusion.maps.residual import RESIDUAL_MAPS, ResidualProblem
from compressor.fusion.maps.residual_statistics import space_grams
from compressor.fusion.shape.spec import student_specs
from compressor.fusion.teacher import FusionTeacher, prepare_teacher
from compressor.models.builtin import digits
from compressor.models.inputs import dummy_inputs
from compressor.models.load import load_teacher


def understand(models: Sequence[PreTrainedModel]) -> list[FusionTeacher]:
    """Steps 1 to 3: the teachers with their anatomy, in canonical form."""
    # 1. Anatomy: which coordinates are interchangeable, and which parameters write and read them.
    config = models[0].config
    anatomy = inspect_config(config)
    print(f"anatomy: {', '.join(f'{space.name} ({space.size})' for space in anatomy.spaces.values())}")
    # 2. Certificate: in a model of random weights, a random permutation of every space must not change the logits.
    inputs = {name: value.double() for name, value in dummy_inputs(config, 4).items()}
    change = certify(random_model(config), inputs, anatomy)["all"]
    print(f"certificate: permutations change the logits by {change:.0e} of the largest one")
    # 3. Canonical form: norm scales are folded into what reads them, what writes the stream is centred.
    print(f"canonical form: the residual stream may be {'rotated' if anatomy.canonical else 'permuted'}")
    return [prepare_teacher(f"teacher {k + 1}", model, weight=1 / len(models)) for k, model in enumerate(models)]


def fuse(
    teachers: Sequence[FusionTeacher], images: Tensor, *, width: float = 0.5, residual: str = "barycentre",
    inner: str = "transport", narrowing: str = "fewer-heads", refit: bool = True,
) -> PreTrainedModel:  # fmt: skip
    """Steps 4 to 6: a student of the teachers, from unlabelled images [N, channels, height, width]."""
    # 4. Shape: hidden size, attention and FFN all shrink.
    spec = student_specs(teachers[0].model.config, teachers[0].anatomy, width, narrowing=narrowing)[0]
    print("shape: " + ", ".join(f"{field} {old} -> {new}" for field, (old, new) in spec.fields.items()))
    anatomy = inspect_config(spec.config)
    # 5. Residual map: couple every teacher's coordinates to their barycentre. Costs need only second moments.
    stream = anatomy.residual
    calibration = CalibrationSet.split([{"pixel_values": part} for part in images.split(64)], share=0.125)
    problem = ResidualProblem(
        gram=space_grams(teachers, anatomy, [stream.name], calibration.all)[stream.name],
        sizes=[teacher.space(stream.name).size for teacher in teachers],
        weights=[teacher.weight for teacher in teachers],
        m=stream.size,
        centred=stream.name in anatomy.centred and anatomy.rotatable(stream.name),
        rotatable=anatomy.rotatable(stream.name),
    )
    mapped = RESIDUAL_MAPS.get(residual)(problem)
    for coupling in mapped.couplings:  # principal components are maps without a coupling
        print(f"coupling by {coupling.solver}: {tuple(coupling.plan.shape)}, entropy {coupling.entropy:.2f} nats")
    # 6. Build the student layer by layer.
    model = ViTForImageClassification(cast(ViTConfig, spec.config)).eval().requires_grad_(False)
    options = BuildOptions(inner, refit=refit)
    build(StudentBuilder(model, anatomy, teachers, {stream.name: mapped}, options), calibration)
    return model


@torch.no_grad()
def build(student: StudentBuilder, calibration: CalibrationSet) -> None:
    """Set the student's weights in forward order; the teachers and the student run layer after layer, side by side."""
    anatomy, plan, batches = student.anatomy, student.plan, calibration.all
    masks, refit = Masks(batches, anatomy), StudentRefit(student, calibration)
    teachers = [LayerwiseRunner(teacher.model, [teacher.anatomy.layers], batches) for teacher in student.teachers]
    runner = LayerwiseRunner(student.model, [anatomy.layers], batches)
    # Embeddings write the stream and read nothing that changes: the residual map carries them over exactly.
    student.transport(plan.early_parameters)
    for model in (*teachers, runner):
        model.start_stack(0)
    for layer, pieces in plan.layer_plans.items():
        # The teachers run the layer once; the inputs and outputs of its modules are recorded.
        activations = TeacherActivations(student.teachers, anatomy, masks, tokens=masks.count(layer, runner.hidden))
        taps = list(dict.fromkeys([*pieces.taps, *pieces.thin_taps]))
        for k, teacher in enumerate(teachers):
            teacher.capture(layer, taps, partial(activations.record, k), advance=True)
        features = ActivationFeatures(activations, student.maps)
        # Maps of the layer's own spaces: heads as wholes, channels inside heads, hidden units.
        student.map_spaces(pieces.spaces, features)
        # Transport: every axis of every parameter by its map, push where it writes a space, pull where it reads one.
        student.transport(pieces.parameters)
        # Refit: ridge regressions from the student's own input of a module to the teachers' transported output.
        for stage in pieces.stages if student.options.refit else ():
            refit.refit(stage, features, partial(runner.capture, layer))
        runner.advance(layer)
    # The head: transported, fitted to the mean of the logits, then to the mean of the probabilities.
    activations = TeacherActivations(student.teachers, anatomy, masks, tokens=0)
    for k, teacher in enumerate(teachers):
        teacher.capture_tail(plan.tail_taps, partial(activations.record, k))
    student.transport(plan.late_parameters)
    if student.options.refit:
        for stage in plan.tail_stages:
            refit.refit(stage, ActivationFeatures(activations, student.maps), runner.capture_tail)
        refit_head(student, runner, teachers, masks, calibration)


def pixels(role: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits as the built-in teachers read them: [N, 3, 8, 8] in [-1, 1], and labels [N]."""
    images, labels = digits(role)
    return (torch.from_numpy(images) / 127.5 - 1)[:, None].expand(-1, 3, -1, -1), torch.from_numpy(labels)


@torch.no_grad()
def main() -> None:
    models = [load_teacher(name).model for name in ("vit-a", "vit-b")]
    (images, _), (test, labels) = pixels("train"), pixels("test")
    teachers = understand(models)
    rows = {"teacher 1": models[:1], "teacher 2": models[1:], "ensemble": models}
    rows["transport alone"] = [fuse(teachers, images, refit=False)]
    rows["transport, refit"] = [fuse(teachers, images)]
    rows["components, refit"] = [
        fuse(teachers, images, residual="principal", inner="select", narrowing="smaller-heads")
    ]
    logs = {name: mix_predictions([logits_of(m, {"pixel_values": test}).log_softmax(-1) for m in row], [1.0] * len(row))
            for name, row in rows.items()}  # fmt: skip
    for name, log in logs.items():
        kl = (logs["ensemble"].exp() * (logs["ensemble"] - log)).sum(-1).mean()
        print(f"{name:18} accuracy {(log.argmax(-1) == labels).double().mean():.1%}, KL to the ensemble {kl:.3f}")


if __name__ == "__main__":
    main()
