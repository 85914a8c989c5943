"""Domains of samples: the text file that each is from, or a column of that name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, Value, concatenate_datasets

from compressor.data.split import Split, column

#: The column, in tables of the user's and of several text files.
DOMAIN = "domain"
#: Most domains: a column of more names something else.
MOST_DOMAINS = 64


def join_files(files: Sequence[Path], datasets: Sequence[Dataset]) -> Dataset:
    """The rows of several files, with their names as domains."""
    named = zip(_short_names(files), datasets, strict=True)
    return concatenate_datasets([rows.add_column(DOMAIN, [name] * len(rows)) for name, rows in named])


def find_domain(dataset: Dataset, others: Collection[str | None]) -> str | None:
    """The column of domains, if it is of text, has two values or more, and is none of `others`."""
    feature = dataset.features.get(DOMAIN)
    if DOMAIN in others or not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        return None
    return DOMAIN if 1 < len(dataset.unique(DOMAIN)) <= MOST_DOMAINS else None


def by_domain(split: Split) -> dict[str, Split]:
    """{domain: its samples}, in the order of their first ones; {"": split} without domains."""
    if split.domain is None:
        return {"": split}
    names = np.asarray([str(name) for name in column(split.dataset, split.domain)])
    return {name: split.select(np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())}


def join_domains(split: Split, parts: Mapping[str, Dataset]) -> Split:
    """The split with other samples, given by domain."""
    domain = DOMAIN if len(parts) > 1 else None
    rows = [
        part.add_column(DOMAIN, [name] * len(part)) if domain and DOMAIN not in part.column_names else part
        for name, part in parts.items()
    ]
    return replace(split, dataset=concatenate_datasets(rows), domain=domain)


def domain_numbers(split: Split) -> tuple[list[str], np.ndarray] | None:
    """Names of the domains, and the number of each sample's, int64 [N]; None without domains."""
    if split.domain is None:
        return None
    names, numbers = np.unique([str(name) for name in column(split.dataset, split.domain)], return_inverse=True)
    return names.tolist(), numbers.astype(np.int64)


def _short_names(files: Sequence[Path]) -> list[str]:
    """Names without endings, with folders where they would be alike."""
    stems = [file.name.split(".")[0] or file.name for file in files]
    return [stem if stems.count(stem) == 1 else str(file) for stem, file in zip(stems, files, strict=True)]
