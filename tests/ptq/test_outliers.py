"""What rotations and runtime scales do for a trained model whose activations have outliers."""

import numpy as np
import pytest
from ptq.trained import loss, trained, windows, with_outliers

from qscale.ptq.run import quantize_trained

METHODS = (
    "rtn",
    "smoothquant",
    "granq",
    "rrs(group=1)",
    "quarot(online=false)",
    "quarot",
    "quarot+smoothrot",
    "quarot+smoothrot(search=true)",
    "quarot+rrs(group=1)",
    "quarot+granq",
)


@pytest.fixture(scope="module")
def measured():
    """The loss in excess of the model's own, and the error of the last layers, by method, in ``w4a4``."""
    before = loss(trained())
    found = {}
    for method in METHODS:
        model = with_outliers(trained())
        report = quantize_trained(model, "w4a4:channel", method, windows(3, 16))
        errors = [one.relmse for one in report.layers if one.role == "fc2"]
        found[method] = loss(model) - before, float(np.mean(errors))
    return found


def test_outliers_leave_the_model_as_it_was():
    assert loss(with_outliers(trained())) == pytest.approx(loss(trained()), abs=1e-4)


def test_rotations_lose_less_than_smoothing_and_that_less_than_rounding_to_nearest(measured):
    deltas = [measured[m][0] for m in ("quarot", "quarot(online=false)", "smoothquant", "rtn")]
    assert deltas == sorted(deltas) and deltas[0] > 0 and deltas[2] < deltas[3] / 2


def test_smoothing_before_the_rotation_lowers_the_error_of_the_last_layer(measured):
    errors = {method: error for method, (_, error) in measured.items()}
    assert errors["quarot+smoothrot"] < 0.9 * errors["quarot"] < errors["smoothquant"]
    assert errors["quarot+smoothrot(search=true)"] < 1.02 * errors["quarot+smoothrot"]
    assert measured["quarot+smoothrot"][0] < measured["smoothquant"][0]


def test_runtime_scales_lose_less_than_rounding_to_nearest_and_less_still_when_rotated(measured):
    deltas = {method: delta for method, (delta, _) in measured.items()}
    assert max(deltas["granq"], deltas["rrs(group=1)"]) < deltas["rtn"] / 5
    assert deltas["quarot+granq"] < deltas["granq"]
    assert deltas["quarot+rrs(group=1)"] < min(deltas["quarot"], deltas["rrs(group=1)"])
