"""Models whose answers cannot be mixed are no ensemble: one line, exit code 2, nothing written."""

from __future__ import annotations

import pytest
from command import compress
from tiny_tasks import save_task_teacher

from benchmarks.tasks.settings import class_names


def fields(**values):
    """Sets fields of a config; `text_config__vocab_size` one of a part."""

    def change(config, processor):
        for name, value in values.items():
            part, _, field = name.rpartition("__")
            setattr(getattr(config, part) if part else config, field, value)

    return change


def labels(*names):
    return fields(**class_names(names))


def architecture(name, **values):
    return fields(architectures=[name], **values)


def other_names(config, processor):
    labels(*(f"no {name}" for name in config.id2label.values()))(config, processor)


def one_less(config, processor):
    labels(*list(config.id2label.values())[:-1])(config, processor)


def reduced_labels(config, processor):
    processor.do_reduce_labels = True


def other_letters(config, processor):
    tokenizer = processor.tokenizer
    letters = {token: (index - 2) % 8 + 3 if index > 2 else index for token, index in tokenizer.encoder.items()}
    tokenizer.vocab = tokenizer.encoder = letters


def other_frames(config, processor):
    config.max_length = processor.max_length = 56


def larger_images(config, processor):
    config.vision_config.image_size = 32


CASES = {
    "text-regression": {
        "two outputs": (labels("taste", "price"), "differ in classes"),
        "classes": (fields(problem_type="single_label_classification", **class_names(("a", "b"))), "differ in task"),
        "labels": (fields(problem_type="multi_label_classification", **class_names(("a", "b"))), "differ in task"),
    },
    "text-multi-label": {
        "one label": (fields(problem_type="single_label_classification"), "differ in task"),
        "other names": (other_names, "models of text-multi-label must answer the same"),
        "one less": (one_less, "which"),
    },
    "image-regression": {
        "other names": (labels("sum", "weight"), "models of image-regression must answer the same"),
        "one output": (labels("sum"), "has number, which"),
    },
    "image-multi-label": {"values": (fields(problem_type="regression"), "differ in task")},
    "question-answering": {
        "a classifier": (architecture("BertForSequenceClassification"), "differ in task"),
        "choices": (architecture("BertForMultipleChoice"), "differ in task"),
    },
    "multiple-choice": {"values": (architecture("BertForSequenceClassification", num_labels=1), "differ in task")},
    "audio-classification": {
        "other names": (other_names, "differ in classes"),
        "other lengths": (other_frames, "number of frames"),
    },
    "ctc": {
        "more symbols": (fields(vocab_size=12), "vocabulary size"),
        "another blank": (fields(pad_token_id=1), "symbol of no letter"),
        "other letters": (other_letters, "tokenizers differ"),
    },
    "speech-to-text": {"more tokens": (fields(vocab_size=13), "vocabulary size")},
    "semantic-segmentation": {
        "other names": (other_names, "models of semantic-segmentation must answer the same"),
        "one less": (one_less, "has 9, which"),
        "other masks": (reduced_labels, "do_reduce_labels"),
        "coarser maps": (fields(strides=[4, 2]), "differ in strides"),
    },
    "object-detection": {
        "more places": (fields(num_detection_tokens=7), "places for objects"),
        "other names": (other_names, "models of object-detection must answer the same"),
        "one less": (one_less, "has ring, which"),
    },
    "image-text": {
        "more tokens": (fields(text_config__vocab_size=40), "vocabulary size (text_config)"),
        "longer texts": (fields(text_config__max_position_embeddings=20), "number of positions (text_config)"),
        "larger images": (larger_images, "image size (vision_config)"),
        "larger patches": (fields(vision_config__patch_size=8), "number of patches (vision_config)"),
    },
}


OF_PREPROCESSORS = ("other letters", "other masks")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """{task: a teacher}, made when asked for."""
    made: dict = {}

    def get(task):
        if task not in made:
            made[task] = save_task_teacher(tmp_path_factory.mktemp("teachers") / task, task)
        return made[task]

    return get


@pytest.mark.parametrize(("task", "case"), [(task, case) for task, cases in CASES.items() for case in cases])
def test_teachers_whose_ensemble_is_undefined(capsys, tmp_path, monkeypatch, first, task, case):
    change, said = CASES[task][case]
    second = save_task_teacher(tmp_path / "second", task, 1, change)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    # Preprocessors are compared once the models are loaded; a fusion proves more before that.
    command = ["evaluate", "--data", "digits"] if case in OF_PREPROCESSORS else ["fuse", "-o", "student"]
    code, out, err = compress(capsys, *command, first(task), second)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err and "bug" not in err and not list(here.iterdir())


@pytest.mark.parametrize("task", ["text-multi-label", "semantic-segmentation", "object-detection"])
def test_no_remedy_is_named_that_would_be_refused(capsys, tmp_path, first, task):
    second = save_task_teacher(tmp_path / "second", task, 1, other_names)
    _, _, err = compress(capsys, "plan", first(task), second)
    assert "--classes" not in err


def test_classes_of_a_detector_in_another_order_are_matched(tmp_path, first):
    import torch

    from compressor.models.inherited.class_heads import with_common_classes
    from compressor.models.inputs import dummy_inputs
    from compressor.models.load import load_teacher

    def reverse(config, processor):
        labels(*list(config.id2label.values())[::-1])(config, processor)

    second = save_task_teacher(tmp_path / "second", "object-detection", 1, reverse)
    one, other = (load_teacher(str(folder)) for folder in (first("object-detection"), second))
    matched = with_common_classes([one, other])[1]
    inputs = dummy_inputs(other.config, 2)
    before, after = (model(**inputs).logits for model in (other.model, matched.model))
    assert matched.config.id2label == one.config.id2label
    # The last is no object.
    assert torch.equal(after[..., :-1], before[..., :-1].flip(-1)) and torch.equal(after[..., -1], before[..., -1])


def test_names_that_are_not_matched_must_be_alike(capsys, tmp_path):
    def depth(*names):
        return fields(architectures=["ViTForMaskedImageModeling"], problem_type=None, **class_names(names))

    folders = [
        save_task_teacher(tmp_path / str(seed), "image-multi-label", seed, depth(*names))
        for seed, names in enumerate((("a", "b"), ("b", "a")))
    ]
    code, _, err = compress(capsys, "plan", *folders)
    assert code == 2 and "label 0 (id2label)" in err
