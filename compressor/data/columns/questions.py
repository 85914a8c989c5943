"""Columns of questions, the contexts that answer them, and the answers."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from compressor.data.columns.by_name import named_column
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.domains import DOMAIN
from compressor.data.split import Split, column
from compressor.errors import UserError

_QUESTIONS, _CONTEXTS = ("question", "query"), ("context", "passage", "paragraph", "document")
#: The column of answers, its usual names, and that of starts where answers are texts.
_COLUMN, _ANSWERS, _START = "answers", ("answers", "answer", "answer_text"), "answer_start"
#: Answers as they are kept.
_ANSWER_TYPE = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])


def find_questions(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """Questions, contexts and, if any, answers as {"text": [...], "answer_start": [...]}.

    Raises:
        UserError: a column is missing, or holds no answers.
    """
    names = {name.lower(): name for name in dataset.column_names}
    option = request.options.text_column
    if option is not None and len(option) == 2:
        text = tuple(named_column(dataset, name, "text", where) for name in option)
    else:
        found = [next((names[each] for each in kinds if each in names), None) for kinds in (_QUESTIONS, _CONTEXTS)]
        if None in found:
            raise UserError(
                f"{where} has no columns of questions and contexts: name both with data.text_column (--text-column "
                f"QUESTION --text-column CONTEXT); its columns are {', '.join(dataset.column_names)}"
            )
        text = tuple(name for name in found if name is not None)
    answers = _answers(dataset, request.options.label_column, text, where)
    columns: dict[str, Any] = {name: [str(value or "") for value in column(dataset, name)] for name in text}
    if answers is not None:
        columns[_COLUMN] = pa.array(answers, _ANSWER_TYPE)
    kept = [name for name in dataset.column_names if name == DOMAIN and name not in columns]
    table = pa.table({**columns, **{name: column(dataset, name) for name in kept}})
    return Split(Dataset(InMemoryTable(table)), None, None if answers is None else _COLUMN, text, where)


def _answers(dataset: Dataset, option: str | None, text: tuple[str, ...], where: str) -> list[dict[str, list]] | None:
    """Answers as dicts of texts and starts."""
    names = {name.lower(): name for name in dataset.column_names if name not in text}
    if option is not None:
        named_column(dataset, option, "label", where)
    name = option or next((names[each] for each in _ANSWERS if each in names), None)
    if name is None:
        return None
    starts = column(dataset, names[_START]) if _START in names else None
    contexts = column(dataset, text[1])
    rows = []
    for index, value in enumerate(column(dataset, name)):
        place = f"row {index} of {where}, column '{name}'"
        answer = _answer(value, None if starts is None else starts[index], place)
        for each, start in zip(answer["text"], answer["answer_start"], strict=True):
            if str(contexts[index])[start : start + len(each)].lower() != each.lower():
                raise UserError(f"{place}: the context does not hold {each!r} at character {start} (answer_start)")
        rows.append(answer)
    return rows


def _answer(value: Any, start: Any, place: str) -> dict[str, list]:
    """One row's answers."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f'{place} is no JSON such as {{"text": ["…"], "answer_start": [0]}}') from None
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        value = {key: [each.get(key) for each in value] for key in ("text", "answer_start")}
    if isinstance(value, str) or value is None:
        value = {"text": value, "answer_start": start} if value else {"text": [], "answer_start": []}
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        raise UserError(f"{place} has no text and answer_start: give both, or a column answer_start of characters")
    texts, starts = (each if isinstance(each, list) else [each] for each in (value["text"], value["answer_start"]))
    if len(texts) != len(starts) or not all(
        isinstance(t, str) and isinstance(s, int) for t, s in zip(texts, starts, strict=False)
    ):
        raise UserError(f"{place}: every answer has a text and the number of its first character (answer_start)")
    return {"text": texts, "answer_start": starts}
