"""The CPU form against the plain form, at odd sizes; its recycled memory."""

import dataclasses

import pytest
import torch

from fastmoco.augmentation.cpu import KEPT, Memory, augment_numba
from fastmoco.augmentation.plain import augment
from fastmoco.recipe import AUGMENT_V2, AUGMENTATIONS
from tests.support.augmented_views import some_draws, some_views


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 33, 64])
def test_equal_to_the_plain_form_at_any_size(name, size):
    aug = AUGMENTATIONS[name]
    views, c = some_views(24, size), some_draws(aug, 24)
    ours, plain = augment_numba(views, c, aug), augment(views, c, aug)
    torch.testing.assert_close(ours, plain, atol=2e-4, rtol=1e-4)
    assert ours.stride() == plain.stride()


@pytest.mark.parametrize("sigma", [(0.1, 0.1), (0.1, 1.0), (1.5, 2.0), (0.1, 3.0), (4.0, 5.0)])
def test_blurs_of_any_width(sigma):
    aug = dataclasses.replace(AUGMENT_V2, blur_p=1.0, blur_sigma=sigma)
    views, c = some_views(8, 20), some_draws(aug, 8)
    torch.testing.assert_close(
        augment_numba(views, c, aug), augment(views, c, aug), atol=2e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size", [7, 40])
def test_bfloat16_is_the_nearest(size):
    views, c = some_views(12, size), some_draws(AUGMENT_V2)
    whole = augment_numba(views, c, AUGMENT_V2)
    half = augment_numba(views, c, AUGMENT_V2, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.stride() == whole.stride()
    # a fused multiplication and addition may round a tie the other way
    assert (half == whole.to(torch.bfloat16)).float().mean() > 0.999
    assert augment_numba(views, c, AUGMENT_V2, torch.float16).dtype == torch.float16


def test_images_that_are_held_are_not_written_again():
    views, c = some_views(4, 24), some_draws(AUGMENT_V2, 4)
    other = some_views(4, 24, seed=9)
    first = augment_numba(views, c, AUGMENT_V2)
    im_q, im_k = first
    copies, place = (im_q.clone(), im_k.clone()), first.data_ptr()
    del first, im_k
    for _ in range(2 * KEPT):  # one view of it still lives
        assert augment_numba(other, c, AUGMENT_V2).data_ptr() != place
    assert torch.equal(im_q, copies[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_taken_again_and_bounded(dtype):
    memory = Memory()
    place = memory.tensor((4, 5), dtype).data_ptr()
    assert memory.tensor((4, 5), dtype).data_ptr() == place  # nobody held it
    held = memory.tensor((4, 5), dtype)
    part = held[1:]
    assert memory.tensor((4, 5), dtype).data_ptr() != held.data_ptr()
    del held
    assert memory.tensor((4, 5), dtype).data_ptr() != place  # a view is left
    del part
    assert place in {memory.tensor((4, 5), dtype).data_ptr()}
    many = [memory.tensor((4, 5), dtype) for _ in range(10)]
    assert len({t.data_ptr() for t in many}) == 10
    del many
    (free,) = memory._free.values()
    assert len(free) == KEPT
    memory.tensor((3, 3), dtype)
    ((array,),) = memory._free.values()  # only of the last shape
    assert array.shape == (3, 3)
