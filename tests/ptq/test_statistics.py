"""Statistics streamed in batches are those of all inputs at once."""

import numpy as np
import pytest
import torch

from qscale.errors import ConfigError
from qscale.ptq.statistics import NEEDS, Statistics, output_error


def _inputs(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * torch.logspace(-2, 2, width)
    x[:, -1] = 0.0  # a channel without inputs
    return x


def _gathered(x, sizes, **options):
    found = Statistics(width=x.shape[1], needs=options.pop("needs", NEEDS), **options)
    for part in x.split(sizes):
        found.add(part)
    return found


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 0, 20, 23]], ids=["at once", "one by one", "ragged"])
def test_batches_give_what_float64_gives_at_once(sizes):
    x = _inputs(50, 6)
    found, X = _gathered(x, sizes), x.numpy().astype(np.float64)
    assert found.count == 50
    np.testing.assert_allclose(found.moments.numpy(), X.T @ X, rtol=1e-13, atol=1e-13)
    assert torch.equal(found.moments, found.moments.t())
    np.testing.assert_allclose(found.mean.numpy(), np.abs(X).mean(0), rtol=1e-14)
    np.testing.assert_array_equal(found.absmax.numpy(), np.abs(x.numpy()).max(0))
    np.testing.assert_array_equal(found.low.numpy(), x.numpy().min(0))


def test_rows_are_spread_bounded_and_do_not_depend_on_the_batches():
    x = _inputs(1000, 3)
    kept = [_gathered(x, sizes, limit=64).rows for sizes in ([1000], [1] * 1000, [3, 400, 597])]
    assert torch.equal(kept[0], x[::16]) and len(kept[0]) == 63
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])


def test_only_what_is_needed_is_gathered():
    found = _gathered(_inputs(10, 4), [10], needs={"mean"})
    assert (found.moments, found.absmax, found.rows) == (None, None, None)
    assert found.mean is not None


@pytest.mark.parametrize("shift", [False, True])
def test_divided_is_what_divided_inputs_give(shift):
    x = _inputs(40, 5)
    scale, z = torch.linspace(0.5, 4, 5), torch.linspace(-1, 1, 5) if shift else None
    changed = (x.double() - (0.0 if z is None else z.double())) / scale.double()
    found = _gathered(x, [40]).divided(scale, z)
    np.testing.assert_allclose(found.moments, changed.t() @ changed, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.absmax, changed.abs().amax(0), rtol=1e-6)
    np.testing.assert_allclose(found.rows, changed, rtol=1e-6, atol=1e-6)
    if shift:
        assert found.mean is None
    else:
        np.testing.assert_allclose(found.mean, changed.abs().mean(0), rtol=1e-12)


def test_rotated_is_what_rotated_inputs_give():
    from qscale.kernels import hadamard

    x = _inputs(40, 8)
    found = _gathered(x, [40]).rotated(lambda rows: hadamard(rows, 4))
    turned = hadamard(x, 4).double()
    np.testing.assert_allclose(found.moments, turned.t() @ turned, rtol=1e-5, atol=1e-4)
    assert found.absmax is None and found.mean is None


def test_output_error_is_that_of_the_outputs():
    x, d = _inputs(30, 4).double(), torch.randn(3, 4, dtype=torch.float64)
    np.testing.assert_allclose(output_error(d, x.t() @ x), (x @ d.t()).square().sum(0), rtol=1e-10)


def test_inputs_that_are_not_finite_name_the_layer():
    found = Statistics(width=2, needs=NEEDS, name="layer 3.fc1")
    with pytest.raises(ConfigError, match=r"layer 3\.fc1 are not finite"):
        found.add(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(ConfigError, match="3 channels came, 2 were wanted"):
        found.add(torch.zeros(1, 3))
