"""Masked operations: what stands in masked places changes nothing, bit for bit."""

import pytest
import torch

from common.masking import lengths_to_mask, masked_mean, masked_sum

LENGTHS = torch.tensor([3, 0, 5, 1])
MASK = lengths_to_mask(LENGTHS)
GARBAGE = [float("inf"), float("-inf"), float("nan"), 3e38, 0.0]


def sets():
    return torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))


def polluted(x, mask, value):
    return torch.where(mask.view(*mask.shape, *[1] * (x.dim() - 2)), x, torch.tensor(value))


def value_and_gradient(function, x, mask):
    x = x.clone().requires_grad_()
    y = function(x, mask)
    weights = torch.arange(1.0, y.numel() + 1).view(y.shape)  # so that no gradient cancels
    (y * weights).sum().backward()
    return y.detach(), x.grad


def test_lengths_to_mask():
    expected = [[1, 1, 1, 0, 0], [0] * 5, [1] * 5, [1, 0, 0, 0, 0]]
    assert MASK.dtype == torch.bool and MASK.int().tolist() == expected
    assert lengths_to_mask(LENGTHS, 7).int().tolist() == [row + [0, 0] for row in expected]
    with pytest.raises(ValueError, match="5 elements doesn't fit in max_length 4"):
        lengths_to_mask(LENGTHS, 4)


def test_values():
    x = torch.arange(12.0).view(2, 3, 2)
    mask = lengths_to_mask(torch.tensor([2, 3]))
    assert masked_sum(x, mask).tolist() == [[2, 4], [24, 27]]
    assert masked_mean(x, mask).tolist() == [[1, 2], [8, 9]]


@pytest.mark.parametrize("function", [masked_sum, masked_mean])
@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_changes_nothing(function, value):
    x = sets()
    clean, clean_grad = value_and_gradient(function, polluted(x, MASK, 0.5), MASK)
    dirty, dirty_grad = value_and_gradient(function, polluted(x, MASK, value), MASK)
    assert clean.isfinite().all() and clean_grad.isfinite().all() and clean_grad[MASK].any()
    assert torch.equal(clean, dirty) and torch.equal(clean_grad, dirty_grad)
    assert not dirty_grad[~MASK].any()  # no gradient flows into padding


@pytest.mark.parametrize("function", [masked_sum, masked_mean])
def test_extra_padding_changes_nothing(function):
    longer = torch.full((4, 9, 2), float("nan"))
    longer[:, :5] = sets()
    assert torch.equal(function(sets(), MASK), function(longer, lengths_to_mask(LENGTHS, 9)))


@pytest.mark.parametrize("function", [masked_sum, masked_mean])
def test_empty_sets_give_zero(function):
    assert function(sets(), MASK)[1].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    for function in (masked_sum, masked_mean):
        rows = function(polluted(sets().to(dtype), MASK, float("nan")), MASK)
        assert rows.dtype == dtype and rows.isfinite().all()
