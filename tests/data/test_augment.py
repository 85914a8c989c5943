"""What an augmentation changes, and that it depends on nothing but the seed and the place in the run."""

import pytest
import torch
from distilling import options, same, samples, state, vit

from compressor.data.augment import AUGMENTATIONS, DRAWS, MIXING, check_augmentation, crop_flip, draw_numbers, flip
from compressor.distillation.dataset import TrainingStream
from compressor.distillation.distill import train_student
from compressor.errors import UserError

IMAGE = torch.arange(64.0).reshape(1, 1, 8, 8)


def drawn(*first):
    """Draws of one image, 0.5 where nothing is said: no flip and no shift."""
    return torch.tensor([[*first, *([0.5] * (DRAWS - len(first)))]])


class TestChanges:
    def test_a_flip_is_a_flip(self):
        assert torch.equal(flip(IMAGE, drawn(0.1)), IMAGE.flip(-1))
        assert torch.equal(flip(IMAGE, drawn(0.9)), IMAGE)

    def test_a_crop_shifts_and_reflects(self):
        assert torch.equal(crop_flip(IMAGE, drawn()), IMAGE)
        assert torch.equal(crop_flip(IMAGE, drawn(0.1)), IMAGE.flip(-1))
        down = crop_flip(IMAGE, drawn(0.9, 0.0))
        assert torch.equal(down[..., 1:, :], IMAGE[..., :-1, :]) and torch.equal(down[..., 0, :], IMAGE[..., 1, :])
        left = crop_flip(IMAGE, drawn(0.9, 0.5, 0.99))
        assert torch.equal(left[..., :-1], IMAGE[..., 1:]) and torch.equal(left[..., -1], IMAGE[..., -2])

    def test_a_zoom_stays_inside(self):
        image = torch.arange(8.0).expand(1, 1, 8, 8)
        whole = AUGMENTATIONS.get("zoom-flip")(image, drawn(0.9, 1.0))
        torch.testing.assert_close(whole, image)
        part = AUGMENTATIONS.get("zoom-flip")(image, drawn(0.9, 0.0, 0.5, 0.5, 0.0))
        # The left half, enlarged: from the left edge to the middle.
        assert part[0, 0, 0, 0] < 0.5 and 3 < part[0, 0, 0, -1] < 4

    @pytest.mark.parametrize("name", AUGMENTATIONS.names())
    def test_shapes_and_values_stay(self, name):
        pixels = torch.randn(16, 3, 8, 12, generator=torch.Generator().manual_seed(0))
        changed = AUGMENTATIONS.get(name)(pixels, draw_numbers(0, range(16)))
        assert changed.shape == pixels.shape and changed.dtype == pixels.dtype
        assert changed.min() >= pixels.min() and changed.max() <= pixels.max()
        assert torch.equal(changed, pixels) == (name == "none")

    def test_names(self):
        with pytest.raises(UserError, match=r"unknown augmentation 'rotate' \(known: none, flip, crop-flip"):
            check_augmentation("rotate", images=True, labels=False)
        with pytest.raises(UserError, match="samples are none"):
            check_augmentation("flip", images=False, labels=False)
        for name in MIXING:
            with pytest.raises(UserError, match=r"label_weight to 0"):
                check_augmentation(name, images=True, labels=True)
        with pytest.raises(UserError, match="masks or boxes stay where they are"):
            check_augmentation("flip", images=True, labels=True, placed=True)
        check_augmentation("flip", images=True, labels=False, placed=True)


class TestDraws:
    def test_a_place_is_all_that_matters(self):
        """Read together, one by one, or in the parts that two processes would have."""
        for name in AUGMENTATIONS.names():
            draws = TrainingStream(samples(10), 16, batch_size=8, seed=3, augment=name)
            together = draws.__getitems__(list(range(8, 16)))
            parts = [*draws.__getitems__([8, 9, 10, 11]), *draws.__getitems__([12, 13, 14]), draws[15]]
            assert all(same(one, other) for one, other in zip(together, parts, strict=True))

    def test_a_sample_changes_from_pass_to_pass_and_with_the_seed(self):
        train = samples(4)
        images = {
            seed: [
                one["pixel_values"] for one in TrainingStream(train, 64, batch_size=4, seed=seed, augment="crop-flip")
            ]
            for seed in (0, 1)
        }
        assert len({tuple(image.flatten().tolist()) for image in images[0]}) > 20
        assert not torch.equal(torch.stack(images[0]), torch.stack(images[1]))

    def test_mixup_mixes_within_the_batch(self):
        train = [{"pixel_values": torch.full((1, 4, 4), float(2**index))} for index in range(8)]
        plain = TrainingStream(train, 8, batch_size=4, seed=0, augment="none")
        mixed = TrainingStream(train, 8, batch_size=4, seed=0, augment="mixup")
        for place in range(8):
            own, other = (plain[p]["pixel_values"][0, 0, 0] for p in (place, place // 4 * 4 + (place + 1) % 4))
            assert min(own, other) <= mixed[place]["pixel_values"][0, 0, 0] <= max(own, other)


@pytest.mark.parametrize("name", ["crop-flip", "mixup"])
def test_a_resumed_run_sees_the_same_images(tmp_path, name):
    def run(folder, **more):
        student = vit(2, width=8)
        train_student(
            student, [vit(0)], [1], samples(), options(steps=6, augment=name), seed=5, work_dir=folder, **more
        )
        return state(student)

    def stop(step, *_):
        if step == 4:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", progress=stop)
    assert same(run(tmp_path / "part", resume=True), whole)
    student = vit(2, width=8)
    train_student(student, [vit(0)], [1], samples(), options(steps=6), seed=5, work_dir=tmp_path / "plain")
    assert not same(state(student), whole)
