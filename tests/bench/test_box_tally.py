"""Mean average precision against pycocotools."""

import pytest
import torch

from compressor.bench.accuracy import Tally
from compressor.models.tasks.table import TASKS
from compressor.models.tasks.task import IGNORED

TASK, CLASSES = TASKS["object-detection"], 3


def drawn(seed, noise, images=40, places=12):
    """Rows and labels of a detector that errs."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    labels, rows = torch.full((images, 6, 5), float(IGNORED)), torch.zeros(images, places, CLASSES + 5)
    for image in range(images):
        count = int(torch.randint(0, 6, (1,), generator=draw))
        if count == 0:
            labels[image, 0, 0] = -1
        for index in range(count):
            size = 0.1 + 0.4 * uniform(2)
            centre = size / 2 + uniform(2) * (1 - size)
            number = int(torch.randint(0, CLASSES, (1,), generator=draw))
            labels[image, index] = torch.tensor([number, *centre, *size])
        logits = torch.randn(places, CLASSES + 1, generator=draw)
        boxes = torch.cat([uniform(places, 2), 0.1 + 0.3 * uniform(places, 2)], 1)
        for index in range(count):
            logits[index, int(labels[image, index, 0])] += 2
            off = noise * (uniform(4) - 0.5) * labels[image, index, [3, 4, 3, 4]] * 3
            boxes[index] = labels[image, index, 1:].double() + off
        rows[image] = torch.cat([logits.double().log_softmax(-1), boxes], 1)
    return rows, labels


def score(rows, labels):
    tally = Tally(TASK)
    for start in range(0, len(rows), 16):
        tally.add(rows[start : start + 16], {}, labels[start : start + 16])
    return tally.score()


@pytest.mark.parametrize(
    ("seed", "noise", "expected"),
    [(0, 0.05, (0.37084, 0.53133)), (1, 0.2, (0.03987, 0.16019)), (2, 0.4, (0.00158, 0.01071))],
)
def test_precisions_are_those_of_coco(seed, noise, expected):
    """Expected: `COCOeval(…, "bbox").stats[:2]` of pycocotools 2.0.11 on the same boxes."""
    found = score(*drawn(seed, noise))
    assert (found.value("map"), found.value("map50")) == pytest.approx(expected, abs=2e-4)
    assert found.labelled == 40


def test_right_answers_have_precision_one_and_missed_objects_cost():
    rows, labels = drawn(3, 0.0)
    rows[..., : CLASSES + 1] = torch.tensor([*[-9.0] * CLASSES, 0.0])
    for image, objects in enumerate(labels):
        for place, each in enumerate(objects[objects[:, 0] >= 0]):
            rows[image, place, : CLASSES + 1] = torch.tensor([-9.0] * (CLASSES + 1))
            rows[image, place, int(each[0])] = 0.0
            rows[image, place, -4:] = each[1:]
    assert score(rows, labels).value("map") == pytest.approx(1)
    rows[:20, :, : CLASSES + 1] = torch.tensor([*[-9.0] * CLASSES, 0.0])
    assert 0.2 < score(rows, labels).value("map") < 0.8


def test_standard_error_is_the_spread_over_samples():
    scores = [score(*drawn(seed, 0.05)) for seed in range(10, 26)]
    spread = float(torch.tensor([each.value("map") for each in scores]).std())
    errors = torch.tensor([each.value("map_error") for each in scores])
    assert float(errors.mean()) == pytest.approx(spread, rel=0.4)


def test_images_without_known_objects_do_not_count():
    rows, labels = drawn(4, 0.05)
    labels[10:] = IGNORED
    found = score(rows, labels)
    assert found.labelled == 10 and found.value("map") == pytest.approx(score(rows[:10], labels[:10]).value("map"))
    assert found.samples == 40 and found.value("map_error") is not None
