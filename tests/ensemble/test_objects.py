"""Answers of detectors: sets of boxes, whose places have no order."""

import pytest
import torch

from compressor.ensemble.answers import ANSWERS, distillation_loss
from compressor.ensemble.objects import object_probability
from compressor.models.tasks.boxes import EMPTY, box_overlaps
from compressor.models.tasks.table import TASKS, find_task
from compressor.models.tasks.task import IGNORED

BOXES, TASK, CLASSES = ANSWERS["boxes"], TASKS["object-detection"], 3


def answer(*objects, places=4):
    """Logits [Q, C + 5] of a detector that is sure of (class, box) pairs and of nothing elsewhere."""
    rows = torch.zeros(places, CLASSES + 5)
    rows[:, CLASSES] = 9
    rows[:, -4:] = 0.5
    for place, (number, box) in enumerate(objects):
        rows[place, : CLASSES + 1] = torch.tensor([9.0 if index == number else 0.0 for index in range(CLASSES + 1)])
        rows[place, -4:] = torch.tensor(box)
    return rows


LEFT, RIGHT = (0.2, 0.5, 0.2, 0.4), (0.8, 0.5, 0.2, 0.4)


def rows_of(*answers):
    return BOXES.rows(torch.stack(answers))


def test_order_of_places_does_not_count():
    first = rows_of(answer((0, LEFT), (1, RIGHT)))
    other = first[:, [2, 1, 3, 0]]
    assert BOXES.divergence(first, other) == pytest.approx(0, abs=1e-6) and BOXES.agree(first, other).all()
    torch.testing.assert_close(BOXES.mix([first, other], [1, 1]), first)


def test_mixed_objects_are_means_where_both_see_them_and_doubtful_where_one_does():
    near = (0.22, 0.5, 0.2, 0.4)
    both, one = rows_of(answer((0, LEFT), (1, RIGHT))), rows_of(answer((0, near)))
    mixed = BOXES.mix([both, one], [1.0, 3.0])
    sure = object_probability(mixed)[0].sort(descending=True).values
    assert sure[0] > 0.99 and 0.2 < sure[1] < 0.3 and sure[2] < 0.01
    place = mixed[0, :, 0].argmax()
    torch.testing.assert_close(mixed[0, place, -4:], torch.tensor((0.215, 0.5, 0.2, 0.4)), atol=1e-3, rtol=0)
    # The box of an object that one sees is that of the one, not of the other's empty place.
    place = mixed[0, :, 1].argmax()
    torch.testing.assert_close(mixed[0, place, -4:], torch.tensor(RIGHT), atol=2e-2, rtol=0)


def test_divergence_counts_classes_and_boxes_but_not_those_of_empty_places():
    first = rows_of(answer((0, LEFT)))
    moved, renamed = rows_of(answer((0, RIGHT))), rows_of(answer((1, LEFT)))
    assert BOXES.divergence(first, moved) > 1 and BOXES.divergence(first, renamed) > 1
    elsewhere = first.clone()
    elsewhere[0, 1:, -4:] = 0.3
    assert BOXES.divergence(first, elsewhere) < 0.01
    assert not BOXES.agree(first, moved).any() and BOXES.agree(first, elsewhere).all()


def test_a_softened_mixture_is_what_a_student_learns():
    teachers = [torch.stack([answer((0, LEFT))]), torch.stack([answer((0, LEFT), (1, RIGHT))])]
    mixed = BOXES.mix([BOXES.rows(each) for each in teachers], [1, 1])
    student = mixed.clone().requires_grad_(True)
    loss = distillation_loss(BOXES, student, teachers, [1, 1])
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and torch.isfinite(student.grad).all()
    assert distillation_loss(BOXES, teachers[0], teachers, [1, 1]) > 0.1


def test_loss_of_labels_matches_transformers():
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    torch.manual_seed(0)
    logits = torch.cat([torch.randn(2, 6, CLASSES + 1), torch.rand(2, 6, 2), 0.1 + 0.3 * torch.rand(2, 6, 2)], -1)
    labels = torch.full((2, 3, 5), float(IGNORED))
    labels[0] = torch.tensor([[0, *LEFT], [2, *RIGHT], [1, 0.5, 0.2, 0.3, 0.3]])
    labels[1, 0] = torch.tensor([EMPTY, 0, 0, 0, 0])
    targets = [
        {"class_labels": labels[0, :, 0].long(), "boxes": labels[0, :, 1:]},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    terms = ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes"])(
        {"logits": logits[..., :-4], "pred_boxes": logits[..., -4:]}, targets
    )
    expected = terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"]
    torch.testing.assert_close(BOXES.label_loss(TASK, logits, labels, {}), expected)


def test_images_without_known_objects_add_nothing_to_the_loss_of_labels():
    logits = torch.stack([answer((0, LEFT)), answer((1, RIGHT))])
    labels = torch.full((2, 1, 5), float(IGNORED))
    assert BOXES.label_loss(TASK, logits, labels, {}) == 0
    labels[0, 0] = torch.tensor([0.0, *LEFT])
    assert torch.equal(TASK.known(labels), torch.tensor([True, False]))
    torch.testing.assert_close(
        BOXES.label_loss(TASK, logits, labels, {}), BOXES.label_loss(TASK, logits[:1], labels[:1], {})
    )


def test_more_objects_than_places_are_left_out():
    labels = torch.tensor([[[0.0, *LEFT], [1.0, *RIGHT], [2.0, 0.5, 0.5, 0.2, 0.2]]])
    assert torch.isfinite(BOXES.label_loss(TASK, answer((0, LEFT), places=2)[None], labels, {}))


def test_overlaps_are_those_of_transformers():
    from transformers.loss.loss_for_object_detection import center_to_corners_format, generalized_box_iou

    torch.manual_seed(1)
    first, second = (torch.cat([torch.rand(5, 2), 0.1 + torch.rand(5, 2)], -1) for _ in range(2))
    expected = generalized_box_iou(center_to_corners_format(first), center_to_corners_format(second))
    torch.testing.assert_close(box_overlaps(first[:, None], second[None])[1], expected)


def test_detectors_of_sigmoids_are_not_scored():
    from transformers import ConditionalDetrConfig, DetrConfig, YolosConfig

    assert find_task(YolosConfig(architectures=["YolosForObjectDetection"])).name == "object-detection"
    assert find_task(DetrConfig(architectures=["DetrForObjectDetection"])).name == "object-detection"
    sigmoid = ConditionalDetrConfig(architectures=["ConditionalDetrForObjectDetection"])
    assert find_task(sigmoid).name == "unscored"
