"""Hypothesis strategies for specs and recipes."""

from hypothesis import assume
from hypothesis import strategies as st

from qscale.errors import SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, Recipe


@st.composite
def specs(draw):
    """Any spec that its dialect defines."""
    dialect = draw(st.sampled_from(sorted(DIALECTS)))
    row = FORMATS[draw(st.sampled_from(sorted(DIALECTS[dialect].formats)))]
    group = row.block or draw(st.none() | st.integers(1, 10**6))
    strategy = "group" if group else draw(st.sampled_from(["channel", "token", "tensor"]))
    fields = {"format": row.name, "strategy": strategy, "group_size": group, "dialect": dialect}
    for field, values in {
        "symmetric": [False],
        "scale_rule": ["floor", "ceil", "rceil", "even", "noclip"],
        "tensor_scale": [False],
        "rounding": ["away", "stochastic"],
    }.items():
        allowed = [value for value in values if _valid({**fields, field: value})]
        if allowed and draw(st.booleans()):
            fields[field] = draw(st.sampled_from(allowed))
    return QuantSpec(**fields)


def _valid(fields):
    try:
        return bool(QuantSpec(**fields))
    except SpecError:
        return False


@st.composite
def recipes(draw):
    weight, inputs, override = (draw(st.none() | specs()) for _ in range(3))
    assume(weight or inputs)
    assume(weight is None or weight.strategy != "token")
    assume(inputs is None or inputs.strategy != "channel")
    return Recipe(
        weight=weight,
        input=inputs,
        overrides={"down_proj.input": override} if draw(st.booleans()) else {},
        rotation=draw(st.sampled_from([None, "hadamard:128"])),
        quantizer=draw(st.sampled_from(["absmax", "lsq"])),
    )
