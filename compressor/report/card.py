"""Model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.bench.metrics import METRICS
from compressor.bench.rows import format_threads, from_json, to_markdown
from compressor.models.tasks.table import TASKS
from compressor.recipe import Recipe
from compressor.report.card_metadata import data_name, front_matter
from compressor.report.choices import choices_of, format_value, tried_shapes
from compressor.report.describe import describe_legend, describe_validation
from compressor.report.describe_formats import describe_half
from compressor.report.tables import FORMAT_NOTES, FORMAT_TITLES, format_rows
from compressor.utils.markdown import code_block, code_span, escape_markdown

# Arguments of the example, where they are no picture or text.
_ARGUMENTS = {
    "question-answering": '"a question" "the text that answers it"',
    "multiple-choice": '"a text" "how it may go on" "another way"',
}


def render_card(
    recipe: Recipe,
    report: Mapping[str, Any],
    *,
    task: str = "image-classification",
    reads: str | None = None,
    encoder: bool = False,
    example: str | None = None,
) -> str:
    """The README.md of a student; leaves out sections that the report lacks.

    Args:
        reads: "image", "audio" or "text"; default by task.
        encoder: whether it is the encoder alone of a type that has a decoder too.
        example: a program that needs only onnxruntime.
    """
    holds = task.partition("-")[0] if task.startswith(("image-", "audio-")) else "text"
    image = (reads or holds) == "image"
    sections = [
        front_matter(recipe, report, task),
        f"# {_title(recipe)}\n\n{_made_of(recipe, report)}",
        f"## Use\n\n{code_block('python', _snippet(task, reads or holds, recipe.trust_remote_code, encoder))}",
        _section("Run it with onnxruntime alone", _example(example, image, task)),
        _section("What was measured", _table(report.get("table") or [])),
        _section("Choices of the run", _list(map(str, [*choices_of(report), *tried_shapes(report)]))),
        _section("ONNX against torch", _scalars(_of_all_files(report.get("onnx") or {}))),
        _section("Formats", _formats(report.get("formats") or {})),
        _section("Seconds", _scalars(report.get("seconds") or {})),
        _section("Made with", _scalars(report.get("environment") or {})),
        _section("Limits", _limits(recipe, report, task)),
        "## Make it again\n\n"
        + code_block("bash", f"compress run recipe.yaml --output again{_consent(recipe)}")
        + "\n\nwith this `recipe.yaml`:\n\n"
        + code_block("yaml", recipe.to_yaml().rstrip()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(recipe: Recipe) -> str:
    depth = "" if recipe.depth is None else f" and depth {recipe.depth:g}"
    names = " + ".join(escape_markdown(Path(name).name or name) for name in recipe.teachers)
    return f"{names} at width {recipe.width:g}{depth}"


def _made_of(recipe: Recipe, report: Mapping[str, Any]) -> str:
    count = len(recipe.teachers)
    origin = (
        "One wide transformer, made narrow" if count == 1 else f"{count} wide transformers, fused into a narrow one"
    )
    finetune = report.get("finetune")
    training = "distilled from their ensemble" if recipe.finetune.asks_teachers else "trained on labels"
    after = f"then {training} for a short while" if finetune else "without any finetuning"
    validation = (
        f" It has the {describe_validation(finetune)}." if finetune and finetune.get("best_step") is not None else ""
    )
    lines = [
        f"{origin} by `compressor` {escape_markdown(report.get('version', ''))}".rstrip() + f", {after}.{validation}",
        "",
    ]
    teachers = {teacher["name"]: teacher for teacher in report.get("teachers") or []}
    for name in recipe.teachers:
        teacher = teachers.get(name, {})
        digest = f" (sha256 {code_span(teacher['fingerprint'][:16] + '…')})" if teacher.get("fingerprint") else ""
        local = teacher.get("kind") == "folder"
        lines.append(f"- teacher {code_span(Path(name).name or name if local else name)}{digest}")
    return "\n".join(lines)


def _consent(recipe: Recipe) -> str:
    return " --trust-remote-code" if recipe.trust_remote_code else ""


#: What a user of sentence-transformers does: load, encode, search.
_SEARCH = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")  # backend="onnx" runs onnx/model.onnx
texts = ["The cat sleeps on the sofa.", "Prices fell on Monday.", "A kitten is dozing."]
embeddings = model.encode(texts)
query = model.encode(["Which animal is asleep?"])
scores = model.similarity(query, embeddings)[0].tolist()
for score, text in sorted(zip(scores, texts), reverse=True):
    print(f"{score:.3f}  {text}")"""


def _snippet(task: str, reads: str, own_code: bool, encoder: bool) -> str:
    if TASKS[task].answers == "embeddings":
        return _SEARCH
    cls, trust = TASKS[task].auto, ", trust_remote_code=True" if own_code else ""
    processor = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}.get(reads, "AutoTokenizer")
    if TASKS[task].answers == "pairs" or (reads == "audio" and task in ("ctc", "seq2seq-lm")):
        processor = "AutoProcessor"
    if reads == "audio" and task == "seq2seq-lm":
        cls = "AutoModelForSpeechSeq2Seq"
    if encoder and task == "features":
        # AutoModel would add a decoder of random weights.
        cls = "AutoModelForTextEncoding"
    return (
        f"from transformers import {', '.join(sorted((cls, processor)))}\n\n"
        f'model = {cls}.from_pretrained("path/to/this/folder"{trust})\n'
        f'processor = {processor}.from_pretrained("path/to/this/folder"{trust})'
    )


def _example(example: str | None, image: bool, task: str) -> str:
    if example is None:
        return ""
    packages = "numpy and pillow" if image else "numpy and tokenizers"
    argument = _ARGUMENTS.get(task, "picture.png" if image else '"a text"')
    return (
        f"Save it as `example.py` in this folder; it also needs {packages}: `python example.py {argument}`. ONNX "
        "Runtime sends telemetry unless the environment variable `ORT_DISABLE_TELEMETRY` is 1.\n\n"
        f"{code_block('python', example.rstrip())}"
    )


def _formats(formats: Mapping[str, Mapping[str, Any]]) -> str:
    """The formats in Markdown."""
    if not formats:
        return ""
    lines: list[Sequence[str]] = [FORMAT_TITLES, [":--", ":--", *["--:"] * 5]]
    for name, files, *cells in format_rows(formats):
        lines.append([escape_markdown(name), ", ".join(map(code_span, files)), *cells])
    return (
        "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        + f"\n\n{FORMAT_NOTES}"
        + _half(formats)
        + _program(formats)
    )


def _half(formats: Mapping[str, Mapping[str, Any]]) -> str:
    """How float16 files were proven."""
    lines = [f"{name}: {describe_half(about['float16'])}." for name, about in formats.items() if about.get("float16")]
    return "".join(f"\n\n{escape_markdown(line)}" for line in lines)


def _program(formats: Mapping[str, Mapping[str, Any]]) -> str:
    """Code for torch.export programs, if any."""
    files = (formats.get("torch-export") or {}).get("files") or {}
    parts = []
    for file, about in files.items():
        inputs, output = ", ".join(f'"{name}": {name}' for name in about["inputs"]), about["outputs"][0]
        program = (
            f'import torch\n\nmodel = torch.export.load("{file}").module()\n{output} = model({{{inputs}}})["{output}"]'
        )
        parts.append(f"\n\n{code_span(file)} runs with torch alone:\n\n{code_block('python', program)}")
    return "".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown, and what their signs mean."""
    if not rows:
        return ""
    known = from_json(rows)
    lower = [metric.title for name, metric in METRICS.items() if metric.lower and known[-1].score(name) is not None]
    signs = [describe_legend(known, result=True, tails=True), *(f"a lower {title} is better" for title in lower)]
    return f"{to_markdown(known, result=True)}\n{'; '.join(signs)}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _scalars(values: Mapping[str, Any]) -> str:
    """Values that are no tables."""
    known = {key: value for key, value in values.items() if value is not None and not isinstance(value, Mapping)}
    return _list(f"{key.replace('_', ' ')}: {format_value(value)}" for key, value in known.items())


def _of_all_files(onnx: Mapping[str, Any]) -> dict[str, Any]:
    """An export's values with all file names."""
    if not onnx.get("files"):
        return dict(onnx)
    return {"files": list(onnx["files"]), **{key: value for key, value in onnx.items() if key not in ("file", "files")}}


def _limits(recipe: Recipe, report: Mapping[str, Any], task: str) -> str:
    rows = report.get("table") or []
    count = recipe.evaluation.samples
    samples = "all samples" if count is None else f"at most {count} samples"
    data = data_name(report) if (report.get("evaluation") or {}).get("data") else recipe.data.source
    source = data or "the teachers’ own data"
    names = {name: metric.title[:1].upper() + metric.title[1:] for name, metric in METRICS.items()}
    measured = [names[metric] for metric in TASKS[task].metrics if any(row.get(metric) is not None for row in rows)]
    if measured:
        lines = [f"- {' and '.join([*measured, 'KL'])} were measured on {samples} of {code_span(source)}."]
    elif TASKS[task].metrics:
        lines = [f"- {names[TASKS[task].metrics[0]]} was not measured: there were no labelled samples."]
    else:
        without = (
            "a model without a head makes no predictions" if task == "features" else "its answers have no score here"
        )
        lines = [f"- Nothing was measured: {without}."]
    if recipe.bench.latency:
        latency = report.get("latency") or {}
        each = f" texts of {latency['length']} tokens" if latency.get("length") else ""
        timed = next(iter((latency.get("models") or {}).values()), None)
        threads = f" with {format_threads(timed['torch']['threads'])}" if timed else ""
        lines.append(
            f"- Latency is of batches of {recipe.bench.batch_size}{each}{threads} on the machine above; it differs on "
            "others."
        )
    lines.append("- It predicts like its teachers, with their classes, their inputs and their mistakes.")
    return "\n".join(lines)


def _section(heading: str, body: str) -> str:
    return f"## {heading}\n\n{body}" if body else ""
