"""The page of the zoo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from benchmarks.zoo.tiny import class_of
from compressor.anatomy.fields import head_counts

#: Types that most published models are of, by hand.
_PUBLISHED = frozenset(
    """
    albert audio-spectrogram-transformer bart beit bert blip blip-2 bloom camembert clip cohere convnext deberta
    deberta-v2 deepseek_v3 deit detr dinov2 distilbert electra falcon gemma gemma2 gemma3 gemma3_text gpt2
    gpt_neo gpt_neox gptj granite hubert layoutlm layoutlmv3 llama llava longformer m2m_100 marian mbart mistral
    mixtral modernbert mpnet mt5 olmo2 opt paligemma pegasus phi phi3 qwen2 qwen2_5_vl qwen2_vl qwen3 qwen3_moe
    roberta segformer siglip smollm3 stablelm starcoder2 swin swinv2 t5 videomae vilt vit vit_mae wav2vec2 wavlm
    whisper xlm-roberta xlnet yolos
    """.split()  # noqa: SIM905
)

#: Tasks for which a widely used type has heads.
_TASKS = 3


@cache
def widely_used() -> frozenset[str]:
    """Types for whose heads transformers' Auto mappings name at least three tasks, and those of the list by hand."""
    mappings = [
        names for name, names in vars(modeling_auto).items() if re.fullmatch(r"MODEL_FOR_\w+_MAPPING_NAMES", name)
    ]
    tasks = Counter(kind for names in mappings for kind in names)
    return _PUBLISHED | {kind for kind, count in tasks.items() if count >= _TASKS}


_HEAD = """# The zoo

Every model type of transformers {transformers} that has an Auto class, at tiny size with random weights
(torch {torch}), made by `python -m benchmarks.zoo -o docs/zoo.md`.

- **certified**: largest relative change of any answer when all spaces are permuted; in brackets the least change by a
  *wrong* map of a space.
- **proven**: share of the parameters that a trial input reaches, or that keep their size because none does; the rest
  would be resized unproven. `compress inspect` names both.
- **fused**: two teachers at half the width (FFN: half of the hidden units alone, as the stream keeps its width).
- **widely used**: a type with heads of at least three tasks in transformers' Auto mappings, or on a list by hand
  (`benchmarks/zoo/page.py`).
- **ONNX**: the largest relative difference of the student's files, without caches. Empty where it was not tried.

{summary}

Of those that do not certify, {reasons}.

Rows are of the code {codes}.

| type | class | certified | proven | fused | ONNX | message |
| :-- | :-- | --: | --: | :-- | --: | :-- |"""


def markdown(rows: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """The table, with a summary."""
    known = {name: row for name, row in rows.items() if row.get("class")}
    with_heads = {name: row for name, row in known.items() if _counts_heads(name)}
    common = {name: row for name, row in known.items() if name in widely_used()}
    groups = {"types": known, "types whose config counts heads": with_heads, "widely used ones": common}
    summary = "\n".join(f"- {_shares(f'{len(group)} {what}', group)}" for what, group in groups.items())
    left = sum(class_of(name) is not None for name in CONFIG_MAPPING if name not in rows)
    summary += f"\n- {left} types have not been tried yet." if left else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in _reasons(known.values()).most_common())
    counted = Counter(str(row["code"]) for row in rows.values() if row.get("code"))
    codes = ", ".join(f"`{code}` ({count})" for code, count in counted.most_common())
    lines = [_HEAD.format(summary=summary, reasons=reasons, codes=codes, **versions)]
    lines += [f"| {name} | `{row['class']}` | {' | '.join(_cells(row))} |" for name, row in known.items()]
    return "\n".join(lines) + "\n"


def _shares(what: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence about a group of rows."""
    certified = [row for row in rows.values() if row["certified"]]
    tried = [row for row in certified if row.get("until") != "certify"]
    counts = {
        "keep the width of a stream": sum(bool(row.get("placed")) for row in certified),
        "have other spaces or parameters pinned": sum(
            bool(row.get("pinned")) and not row.get("placed") for row in certified
        ),
        "have idle parameters": sum(bool(row.get("idle")) for row in certified),
    }
    share = f" ({len(certified) / len(rows):.0%})" if rows else ""
    return (
        f"Of {what}, {len(certified)} certify{share}; of these "
        f"{', '.join(f'{number} {name}' for name, number in counts.items())}. "
        f"A fusion was tried on {len(tried)}: {sum(bool(row['fused']) for row in tried)} are fused, "
        f"{sum(row['onnx'] is not None for row in tried)} exported. "
        f"{sum(bool(row.get('traceback')) for row in rows.values())} end in a traceback, "
        f"{sum(row.get('failed') == 'time' for row in rows.values())} at a time limit."
    )


#: (pattern of a message, what it says of a type), the first that matches counts.
_REASONS = (
    (r"requires the \w+ library", "need a library that is not installed"),
    (r"stopped after", "are stopped by the limit of time"),
    (r"no tiny config", "have no tiny config that could be built"),
    (r"no random|missing .* argument|NoneType|given|tokens do not match", "read inputs that are not made"),
    (r"no trial input reaches", "have parts that no trial reaches, and nothing else that could become narrower"),
    (r"cannot be built and run", "do not run at a small size with the inputs that are made"),
    (r"changes the number of layers", "have no list of layers"),
    (r"nothing could become narrower|have fixed places", "have nothing that could become narrower"),
)


def _reasons(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Why types do not certify."""
    messages = [str(row["message"]) for row in rows if not row["certified"]]
    return Counter(
        next((reason for pattern, reason in _REASONS if re.search(pattern, message)), "fail otherwise")
        for message in messages
    )


@cache
def _counts_heads(name: str) -> bool:
    """Whether the default config of a type counts heads of attention."""
    try:
        return any(True for _ in head_counts(CONFIG_MAPPING[name]()))
    # Defaults need not be a sound config.
    except Exception:
        return False


def _cells(row: Mapping[str, Any]) -> list[str]:
    sensitivity = row.get("sensitivity")
    wrong = "" if sensitivity is None else f" ({sensitivity:.0e})"
    return [
        f"{row['error']:.0e}{wrong}" if row["certified"] else "no",
        f"{row['proven']:.0%}" if row["certified"] else "",
        "" if row.get("until") == "certify" else ("FFN" if row.get("placed") else "yes") if row["fused"] else "no",
        "" if row.get("until") == "certify" else "no" if row["onnx"] is None else f"{row['onnx']:.0e}",
        str(row["message"]).replace("|", "/").replace("\n", " ")[:240],
    ]
