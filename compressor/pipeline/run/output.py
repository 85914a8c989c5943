"""The output folder of a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.bench.rows import to_json
from compressor.bench.size import weight_bytes
from compressor.errors import ParityError
from compressor.layer_maps import save_layer_maps
from compressor.models.folder.save import fingerprint, save_student
from compressor.models.teacher import Teacher
from compressor.pipeline.data_splits import RunData
from compressor.pipeline.deliver import Delivery, export_and_verify
from compressor.pipeline.environment import environment
from compressor.pipeline.output.documents import write_documents, write_page
from compressor.pipeline.output.published import hub_dataset
from compressor.pipeline.run.context import RunContext
from compressor.pipeline.run.former import check_former
from compressor.pipeline.run.initial_student import InitialStudent
from compressor.pipeline.run.report import RunReport
from compressor.pipeline.run_timing import time_models
from compressor.pipeline.scores.evaluation import EvaluatedModel, Evaluator, evaluated_teachers, make_rows
from compressor.pipeline.timing import latency_report, sample_length
from compressor.report.findings import findings, remarks
from compressor.utils.consent import code_trusted
from compressor.utils.files import atomic_directory, disk_full_as_user_error
from compressor.utils.process_memory import peak_memory
from compressor.version import __version__


@dataclass(frozen=True)
class TrainedStudents:
    """Students before and after the finetune, its report or None, and notes on it."""

    students: Sequence[EvaluatedModel]
    finetune: dict[str, Any] | None
    notes: Sequence[str] = ()


def write_output(
    run: RunContext,
    force: bool,
    data: RunData | None,
    evaluator: Evaluator | None,
    student: InitialStudent,
    training: TrainedStudents,
) -> dict[str, Any]:
    """Write the output folder, remove the work folder, return the report.

    Raises:
        ParityError: an exported file disagrees with torch; all else is written.
    """
    replaceable = check_former if force else None
    output = run.recipe.output
    with (
        code_trusted(run.recipe.trust_remote_code),
        disk_full_as_user_error(f"to {output}"),
        atomic_directory(output, replaceable) as folder,
    ):
        _write_student(run, student, folder)
        delivery, failure = _deliver(run, student, folder, data)
        notes = data.notes if data else []
        report = _report(run, folder, evaluator, student, training, delivery, notes).to_dict()
        write_documents(folder, run.recipe, report)
    run.work.remove()
    # Last: a failed picture must not cost the student.
    write_page(output)
    if failure is not None:
        raise ParityError(f"{output} was written, but {failure}; compress report {shlex.quote(output)} shows the rest")
    return report


def _deliver(
    run: RunContext, student: InitialStudent, folder: Path, data: RunData | None
) -> tuple[Delivery, str | None]:
    """The exported files; none if one disagrees with torch, which must not cost the student, and a line on that."""
    try:
        delivery = export_and_verify(
            run.recipe.export, student.model, folder, run.stages,
            companions=run.companions, data=data, seed=run.recipe.seed, skip_unsupported=True,
        )  # fmt: skip
    except ParityError as error:
        # Without the scratch folder of a file that is gone.
        reason = re.sub(r"\S*/(?=(onnx|torch)/)", "", str(error))
        line = f"no exported file, since {reason}"
        return Delivery(None, {}, (line,)), line
    return delivery, None


def _write_student(run: RunContext, student: InitialStudent, folder: Path) -> None:
    with run.stages("write", "writing the student"):
        save_student(folder, student.model, dtype=run.precision)
        run.companions.write(folder, student.model.config)
        # For a later finetune with the loss `hidden`; models without a head are never finetuned.
        if student.layer_maps and run.spec.task.metrics:
            save_layer_maps(folder, student.layer_maps, run.fingerprints)


def _report(
    run: RunContext,
    folder: Path,
    evaluator: Evaluator | None,
    student: InitialStudent,
    training: TrainedStudents,
    delivery: Delivery,
    data_notes: Sequence[str],
) -> RunReport:
    """Measure latency, and gather all results."""
    recipe, size = run.recipe, weight_bytes(folder)
    models = [
        *evaluated_teachers(run.teachers, evaluator),
        *(replace(model, bytes=size) for model in training.students),
    ]
    timings, timing_notes = time_models(recipe, models, folder if delivery.onnx else None, run.stages, delivery.formats)
    length = sample_length(run.spec.config)
    report = RunReport(
        version=__version__,
        task=run.spec.task.name,
        reads=run.spec.reads,
        recipe=recipe.model_dump(mode="json"),
        environment=environment(),
        teachers=[_identity(teacher) for teacher in run.teachers],
        # Of the files: they are read back once, and so known to load.
        student={
            "fingerprint": fingerprint(folder),
            "given": _identity(run.given) if run.given else None,
            # Of teachers that brought some.
            **({"code": code} if (code := sorted(path.name for path in folder.glob("*.py"))) else {}),
        },
        budget=run.budget,
        mixture=student.report["mixture"],
        target=student.report["target"],
        fusion=student.report["fusion"],
        warnings=student.report["warnings"],
        finetune=training.finetune,
        notes=[*run.notes, *data_notes, *training.notes, *delivery.skipped, *timing_notes],
        length=length,
        evaluation={**evaluator.report(), "dataset": hub_dataset(recipe.data.source)} if evaluator else None,
        differences=evaluator.differences([model.name for model in models], run.processor) if evaluator else None,
        table=to_json(make_rows(models, timings)),
        latency=latency_report(timings, recipe.bench.batch_size, recipe.bench.seconds, length),
        onnx=delivery.onnx,
        formats=delivery.formats,
        seconds=run.stages.report(),
        peak_memory_bytes=peak_memory(),
    )
    values = report.to_dict()
    return replace(report, warnings=[*report.warnings, *findings(values)], notes=[*report.notes, *remarks(values)])


def _identity(teacher: Teacher) -> dict[str, Any]:
    return {"name": teacher.name, "kind": teacher.source.kind, "fingerprint": teacher.fingerprint}
