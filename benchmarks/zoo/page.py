"""The page of the zoo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_HEAD = """# The zoo

Every model type of transformers {transformers} that has an Auto class, at tiny size with random weights
(torch {torch}), made by `python -m benchmarks.zoo -o docs/zoo.md`.

- **certified**: largest relative change of any answer when all spaces are permuted; in brackets the least change by a
  *wrong* map of a space.
- **proven**: share of the parameters that some trial input reaches; what none reaches is named by `compress inspect`.
- **fused**: two teachers at half the width; **ONNX**: the largest relative difference of the student's files.

{summary} Rows are of the code {codes}.

| type | class | certified | proven | fused | ONNX | message |
| :-- | :-- | --: | --: | :-- | --: | :-- |"""


def markdown(rows: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """The table, with a summary."""
    known = {name: row for name, row in rows.items() if row.get("class")}
    counts = {
        "certify": sum(bool(row["certified"]) for row in known.values()),
        "fuse": sum(bool(row["fused"]) for row in known.values()),
        "export": sum(row["onnx"] is not None for row in known.values()),
        "end in a traceback": sum(bool(row.get("traceback")) for row in known.values()),
    }
    summary = f"Of {len(known)} types {', '.join(f'{count} {what}' for what, count in counts.items())}."
    counted = Counter(str(row["code"]) for row in rows.values() if row.get("code"))
    codes = ", ".join(f"`{code}` ({count})" for code, count in counted.most_common())
    lines = [_HEAD.format(summary=summary, codes=codes, **versions)]
    lines += [f"| {name} | `{row['class']}` | {' | '.join(_cells(row))} |" for name, row in known.items()]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    sensitivity = row.get("sensitivity")
    wrong = "" if sensitivity is None else f" ({sensitivity:.0e})"
    return [
        f"{row['error']:.0e}{wrong}" if row["certified"] else "no",
        f"{row['proven']:.0%}" if row["certified"] else "",
        "" if row.get("until") == "certify" else "yes" if row["fused"] else "no",
        "" if row.get("until") == "certify" else "no" if row["onnx"] is None else f"{row['onnx']:.0e}",
        str(row["message"]).replace("|", "/").replace("\n", " ")[:240],
    ]
