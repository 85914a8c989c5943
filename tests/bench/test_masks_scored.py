import pytest
import torch

from compressor.bench.accuracy import Tally
from compressor.models.tasks.masks import resized_labels, resized_rows
from compressor.models.tasks.table import TASKS

TASK = TASKS["semantic-segmentation"]


def rows_of(predicted, classes=3):
    return torch.nn.functional.one_hot(torch.as_tensor(predicted), classes).float().mul(9).log_softmax(-1)


def test_mean_iou_is_the_mean_over_occurring_classes_of_all_pixels():
    labels = torch.tensor([[[0, 0], [1, -100]], [[0, 1], [1, 1]]])
    predicted = [[[0, 1], [1, 2]], [[0, 1], [1, 0]]]
    tally = Tally(TASK)
    tally.add(rows_of(predicted), {}, labels)
    score = tally.score()
    # Class 0: 2 of 4 pixels that are it or are taken for it, class 1: 3 of 5; class 2 only where nothing is known.
    assert score.value("miou") == pytest.approx((2 / 4 + 3 / 5) / 2) and score.accuracy == pytest.approx(5 / 7)
    assert score.labelled == 7 and score.value("miou_error") > 0 and score.accuracy_error is None


def test_the_error_is_that_of_repeated_draws():
    generator = torch.Generator().manual_seed(0)

    def score(samples):
        labels = torch.randint(0, 3, (samples, 4, 4), generator=generator)
        # Some samples are easy, others not.
        right = torch.rand(samples, 1, 1, generator=generator) > torch.rand(samples, 4, 4, generator=generator)
        predicted = torch.where(right, labels, torch.randint(0, 3, labels.shape, generator=generator))
        tally = Tally(TASK)
        tally.add(rows_of(predicted), {}, labels)
        return tally.score()

    scores = [score(60) for _ in range(200)]
    spread = torch.tensor([each.value("miou") for each in scores]).std()
    assert float(torch.tensor([each.value("miou_error") for each in scores]).mean()) == pytest.approx(
        float(spread), rel=0.15
    )


def test_classes_beyond_the_model_are_wrong():
    tally = Tally(TASK)
    tally.add(rows_of([[[0, 1]]]), {}, torch.tensor([[[0, 5]]]))
    assert tally.score().accuracy == 0.5


def test_coarse_answers_and_fine_labels_meet():
    rows = torch.randn(1, 2, 2, 3)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, -100, -100], [2, 2, -100, -100]]])
    assert resized_labels(labels, rows).tolist() == [[[0, 1], [2, -100]]]
    wanted = torch.nn.functional.interpolate(rows.movedim(-1, 1), size=(4, 4), mode="bilinear").movedim(1, -1)
    assert torch.equal(resized_rows(rows, labels), wanted)
    answered, known = TASK.answered(rows, labels)
    assert known.tolist() == [0, 1, 2] and torch.equal(answered, rows[0].flatten(0, 1)[:3])
