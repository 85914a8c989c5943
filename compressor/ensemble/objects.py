"""Answers of detectors: a set of objects, each a class and a box, among places of which most hold none.

Rows [B, Q, C + 5] are as in `compressor.models.tasks.boxes`.  Places have no order, so two answers are compared after
the assignment of places that costs least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from compressor.ensemble.probabilities import check_ensemble_weights, kl_rows, mix_predictions
from compressor.models.tasks.boxes import BOX, box_distance, box_overlaps, known_images, split_rows
from compressor.models.tasks.task import Task

#: Weight of places without an object in the loss of labels, as in DETR.
NO_OBJECT_WEIGHT = 0.1
#: Overlap from which two boxes are of one object.
SAME_OBJECT = 0.5
#: Least weight of a box in a mean.
_LEAST = 1e-3


def object_probability(rows: Tensor) -> Tensor:
    """Probability that there is an object at each place, [..., Q]."""
    classes, _ = split_rows(rows)
    return 1 - classes[..., -1].exp()


@torch.no_grad()
def place_costs(first: Tensor, second: Tensor) -> Tensor:
    """What it costs to take two places for one, [B, Q, Q] of rows [B, Q, C + 5].

    The total variation of the classes, and the boxes' distance as far as both hold an object.
    """
    (classes, boxes), (others, other_boxes) = split_rows(first), split_rows(second)
    both = object_probability(first)[..., :, None] * object_probability(second)[..., None, :]
    apart = torch.cdist(classes.exp(), others.exp(), p=1) / 2
    return apart + both * box_distance(boxes[..., :, None, :], other_boxes[..., None, :, :])


def assigned(costs: Tensor) -> Tensor:
    """For each row of costs [B, M, N], M ≤ N, the column that it is assigned, [B, M] (Hungarian method)."""
    columns = [torch.as_tensor(linear_sum_assignment(each)[1]) for each in costs.double().cpu().numpy()]
    return torch.stack(columns).to(costs.device)


def in_order_of(reference: Tensor, rows: Tensor) -> Tensor:
    """Rows [B, Q, C + 5] with each place where the reference has its like."""
    order = assigned(place_costs(reference, rows.detach()))
    return rows.gather(-2, order[..., None].expand(*order.shape, rows.shape[-1]))


class BoxAnswers:
    """A class or no object at every place, and where the object is."""

    def rows(self, logits: Tensor) -> Tensor:
        classes, boxes = split_rows(logits)
        return torch.cat([classes.log_softmax(-1), boxes], -1)

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        """Matched places: their classes are mixed, and boxes are means, weighted by how sure of an object a model is.

        The weights of boxes are those of Solovyev et al. 2021, https://arxiv.org/abs/1910.13302.
        """
        check_ensemble_weights(len(rows), weights)
        first = max(range(len(rows)), key=lambda k: weights[k])
        pairs = [
            (row if k == first else in_order_of(rows[first], row), weights[k])
            for k, row in enumerate(rows)
            if weights[k]
        ]
        classes = mix_predictions([split_rows(row)[0] for row, _ in pairs], [weight for _, weight in pairs], mixing)
        sure = torch.stack([weight * (object_probability(row) + _LEAST) for row, weight in pairs])
        boxes = torch.stack([split_rows(row)[1] for row, _ in pairs])
        return torch.cat([classes, (boxes * sure[..., None]).sum(0) / sure.sum(0)[..., None]], -1)

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Nats an object [B]: KL of classes at matched places, and DETR's distance of boxes where there are objects."""
        rows = in_order_of(reference, rows)
        (expected, boxes), (given, given_boxes) = split_rows(reference), split_rows(rows)
        objects = object_probability(reference).double()
        distance = box_distance(boxes.double(), given_boxes.double())
        return (kl_rows(expected, given) + objects * distance).sum(-1) / objects.sum(-1).clamp(min=1)

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        """Whether both find the same objects in an image, bool [B]."""
        rows = in_order_of(reference, rows)
        (expected, boxes), (given, given_boxes) = split_rows(reference), split_rows(rows)
        found, overlaps = expected.argmax(-1), box_overlaps(boxes, given_boxes)[0]
        nothing = found == expected.shape[-1] - 1
        return ((found == given.argmax(-1)) & (nothing | (overlaps >= SAME_OBJECT))).all(-1)

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """DETR's loss, of labels [B, M, 5] (class, box), padded below `EMPTY`."""
        known = known_images(labels)
        if not known.any():
            return logits.sum() * 0
        classes, boxes = split_rows(logits[known.to(logits.device)])
        image, place, numbers, wanted = _places_of(classes.detach(), boxes.detach(), labels[known].to(classes.device))
        nothing = classes.shape[-1] - 1
        target = torch.full(classes.shape[:-1], nothing, device=classes.device)
        target[image, place] = numbers
        weight = torch.ones(nothing + 1, device=classes.device)
        weight[nothing] = NO_OBJECT_WEIGHT
        loss = functional.cross_entropy(classes.flatten(0, 1), target.flatten(), weight)
        return loss + box_distance(boxes[image, place], wanted).sum() / max(len(numbers), 1)

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        classes, boxes = split_rows(rows)
        return torch.cat([(classes / temperature).log_softmax(-1), boxes], -1)


def _places_of(classes: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all objects their image, place, class and box; more objects in an image than places leave some out.

    Args:
        classes, boxes: logits [B, Q, C + 1] and boxes [B, Q, 4].
        labels: [B, M, 5].
    """
    numbers, wanted = labels[..., 0].long(), labels[..., -BOX:].to(boxes)
    objects = numbers >= 0
    chances = classes.softmax(-1).gather(-1, numbers.clamp(min=0)[:, None].expand(-1, classes.shape[1], -1))
    costs = (box_distance(wanted[:, :, None], boxes[:, None]) - chances.transpose(1, 2)).double().cpu().numpy()
    places = []
    for index, rows in enumerate(objects.cpu().nonzero()[:, 1].split(objects.sum(-1).tolist())):
        row, column = linear_sum_assignment(costs[index, rows.numpy()])
        places += [(index, int(rows[at]), int(place)) for at, place in zip(row, column, strict=True)]
    image, row, place = torch.tensor(places, dtype=torch.long, device=boxes.device).reshape(-1, 3).unbind(-1)
    return image, place, numbers[image, row], wanted[image, row]
