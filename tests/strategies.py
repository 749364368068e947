"""Hypothesis strategies for specs and recipes."""

from hypothesis import assume
from hypothesis import strategies as st

from qscale.formats import DIALECTS, FORMATS, QuantSpec, Recipe


@st.composite
def specs(draw):
    dialect = draw(st.sampled_from(sorted(DIALECTS)))
    row = FORMATS[draw(st.sampled_from(sorted(DIALECTS[dialect].formats)))]
    options = DIALECTS[dialect].options
    group = row.block or draw(st.none() | st.integers(1, 10**6))
    strategy = "group" if group else draw(st.sampled_from(["channel", "token", "tensor"]))
    plain_int = row.kind == "int" and row.block is None
    return QuantSpec(
        format=row.name,
        strategy=strategy,
        group_size=group,
        symmetric=not ("asym" in options and plain_int and draw(st.booleans())),
        stochastic="stochastic" in options and draw(st.booleans()),
        dialect=dialect,
    )


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
