"""Masked operations: what stands in masked places changes nothing, bit for bit."""

import pytest
import torch

from common.masking import lengths_to_mask, masked_mean, masked_softmax, masked_sum

LENGTHS = torch.tensor([3, 0, 5, 1])
MASK = lengths_to_mask(LENGTHS)
GARBAGE = [float("inf"), float("-inf"), float("nan"), 3e38, 0.0]


def sets():
    return torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))


def scores():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


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
    rows = masked_softmax(torch.log(torch.tensor([[1.0, 3.0, 9.0], [1.0, 3.0, 4.0]])), mask)
    torch.testing.assert_close(rows, torch.tensor([[0.25, 0.75, 0.0], [0.125, 0.375, 0.5]]))


@pytest.mark.parametrize(
    "function, x", [(masked_sum, sets()), (masked_mean, sets()), (masked_softmax, scores())]
)
@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_changes_nothing(function, x, value):
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


def test_extra_padding_of_softmax():
    longer = torch.full((4, 9), float("inf"))
    longer[:, :5] = scores()
    rows = masked_softmax(longer, lengths_to_mask(LENGTHS, 9))
    torch.testing.assert_close(rows[:, :5], masked_softmax(scores(), MASK), rtol=1e-6, atol=0)
    assert not rows[:, 5:].any()


def test_softmax_rows_sum_to_one_but_for_empty_sets():
    for x in (scores(), scores() * 1e4, torch.full((4, 5), -3e38)):
        rows = masked_softmax(x, MASK)
        torch.testing.assert_close(rows.sum(-1), (LENGTHS > 0).float())
        assert not rows[~MASK].any()


def test_softmax_broadcasts_over_heads_and_queries():
    x = torch.randn(4, 2, 3, 5)
    rows = masked_softmax(x, MASK[:, None, None])
    assert torch.equal(rows[2, 1, 2], masked_softmax(x[2, 1, 2], MASK[2]))
    torch.testing.assert_close(rows.sum(-1), (LENGTHS > 0).float()[:, None, None].expand(4, 2, 3))


@pytest.mark.parametrize("function", [masked_sum, masked_mean])
def test_empty_sets_give_zero(function):
    assert function(sets(), MASK)[1].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    x = polluted(scores().to(dtype), MASK, float("nan"))
    rows = masked_softmax(x, MASK)
    assert rows.dtype == dtype and rows.isfinite().all() and not rows[~MASK].any()
