"""A card loads a student with the classes that transformers has for its task."""

from __future__ import annotations

import re

import pytest
import transformers

from compressor.models.tasks.table import TASKS
from compressor.recipe import Recipe
from compressor.report.card import render_card

PROCESSORS = {
    ("question-answering", "text"): "AutoTokenizer",
    ("multiple-choice", "text"): "AutoTokenizer",
    ("object-detection", "image"): "AutoImageProcessor",
    ("audio-classification", "audio"): "AutoFeatureExtractor",
    ("ctc", "audio"): "AutoProcessor",
    ("seq2seq-lm", "audio"): "AutoProcessor",
    ("seq2seq-lm", "text"): "AutoTokenizer",
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_names_a_class_of_transformers(name):
    assert hasattr(transformers, TASKS[name].auto)


@pytest.mark.parametrize(("task", "reads"), PROCESSORS)
def test_a_card_loads_what_the_task_reads(task, reads):
    card = render_card(Recipe(teachers=("a",), width=0.5), {}, task=task, reads=reads)
    names = re.search(r"from transformers import (\w+), (\w+)", card).groups()
    assert PROCESSORS[task, reads] in names and all(hasattr(transformers, each) for each in names)
    assert ("AutoModelForSpeechSeq2Seq" in names) == ((task, reads) == ("seq2seq-lm", "audio"))


def test_an_encoder_alone_is_loaded_without_the_decoder_of_its_type():
    card = render_card(Recipe(teachers=("a",), width=0.5), {}, task="features", reads="text", encoder=True)
    assert "AutoModelForTextEncoding.from_pretrained" in card
    card = render_card(Recipe(teachers=("a",), width=0.5), {}, task="features", reads="text")
    assert "AutoModel.from_pretrained" in card
