from __future__ import annotations

import logging

import datasets
import pytest
from transformers.utils import logging as transformers_logging

from compressor.utils.logging import one_line, quiet_datasets, quiet_transformers, root_cause


@pytest.mark.parametrize(("errors", "level"), [(True, logging.ERROR), (False, logging.CRITICAL)])
def test_transformers_is_quiet_inside_and_as_before_outside_even_after_an_error(errors, level):
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with pytest.raises(RuntimeError), quiet_transformers(errors=errors):
        assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == (level, False)
        raise RuntimeError
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_datasets_is_quiet_inside_and_as_before_outside_even_after_an_error():
    before = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    with pytest.raises(RuntimeError), quiet_datasets():
        assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == (logging.CRITICAL, True)
        raise RuntimeError
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before


def test_a_cause_is_one_line_of_limited_length():
    error = ValueError("outer")
    error.__cause__ = KeyError()
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("x" * 300)) == "x" * 239 + "…"
    assert root_cause(error) == "KeyError"
