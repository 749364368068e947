"""Hypothesis strategies for specs, recipes and tensors."""

import torch
from hypothesis import assume
from hypothesis import strategies as st

from qscale.errors import SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, Recipe

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: In the order in which one decides whether another may be given.
_CHOICES = {
    "symmetric": [False],
    "zero_point": ["float"],
    "full_range": [True],
    "scale_rule": ["floor", "ceil", "rceil", "even", "noclip"],
    "scale_dtype": ["input", "float16", "bfloat16", "e4m3", "e8m0"],
    "tensor_scale": [False],
    "rounding": ["away", "stochastic"],
}


@st.composite
def specs(draw, dialects=None, formats=None, group_sizes=None):
    """Any spec that its dialect defines; ``formats`` are names to draw from."""
    dialect = DIALECTS[draw(st.sampled_from(dialects or sorted(DIALECTS)))]
    row = FORMATS[draw(st.sampled_from(formats or sorted(dialect.formats)))]
    sizes = st.integers(1, 10**6) if group_sizes is None else group_sizes
    spans = ["group", *(["block"] if dialect.square_blocks else [])]
    strategy = draw(st.sampled_from(spans if row.block else [*spans, "channel", "token", "tensor"]))
    fields = {"format": row.name, "strategy": strategy, "dialect": dialect.name}
    if strategy in spans:
        fields["group_size"] = row.block or draw(sizes)
    for field, values in _CHOICES.items():
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
    kv, qkr, rotation = draw(
        st.sampled_from(
            [
                (None, None, None),
                ("int4:g32", None, "hadamard:128"),
                (None, "int4:g32", None),
                (None, None, "hadamard:full:signs"),
            ]
        )
    )
    return Recipe(
        weight=weight,
        input=inputs,
        overrides={"down_proj.input": override} if draw(st.booleans()) else {},
        rotation=rotation,
        quantizer=draw(st.sampled_from(["absmax", "lsq", "clip(0.9)/lac", "absmax/absmax"])),
        kv=kv,
        qkr=qkr,
        keep=draw(st.sampled_from([None, "first", "first+last"])),
        anneal=draw(st.sampled_from([None, "0.1", "0.25:0.007"])),
    )


@st.composite
def shapes(draw):
    """Of no dimensions to three, most of them with elements."""
    rows = draw(st.lists(st.integers(0, 7), max_size=2))
    return (*rows, draw(st.integers(0, 75))) if rows or draw(st.booleans()) else ()


@st.composite
def tensors(draw):
    """Rows of one magnitude or of many, of any bits, of few bits (for ties), on one side of zero, subnormal.

    Of every dtype; now and then with zeros of both signs, infinities and NaN among them.
    """
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(shapes())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    one_a_row = (*shape[:-1], 1) if shape else ()

    def integers(low, high, size=shape):
        return torch.randint(low, high, size, generator=generator)

    kind = draw(st.sampled_from(["ordinary", "mixed", "bits", "ties", "one side", "subnormal"]))
    x = torch.randn(shape, generator=generator)
    if kind == "ordinary":
        x = torch.ldexp(x, integers(-140, 126, one_a_row))
    elif kind == "mixed":
        x = torch.ldexp(x, integers(-20, 20))
    elif kind == "ties":
        x = torch.ldexp((x * 16).round() / 16, integers(-12, 12, one_a_row))
    elif kind == "one side":
        x = torch.ldexp(x.abs() + integers(0, 20), integers(-30, 30, one_a_row))
        x = x * draw(st.sampled_from([1.0, -1.0]))
    elif kind == "subnormal":
        x = integers(-40, 40).to(torch.int32).abs().view(torch.float32) * x.sign()
    else:
        bits = integers(-(2**31), 2**31).to(torch.int32)
        x = (bits if dtype is torch.float32 else bits << 16).view(torch.float32)
        x = x.masked_fill(~x.isfinite(), 0.0)
    x = x.to(dtype)
    if draw(st.integers(0, 3)) == 0:
        x = torch.where(integers(0, 4) == 0, x * 0.0, x)
    if draw(st.integers(0, 7)) == 0:
        special = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
        x = torch.where(integers(0, 60) == 0, special[integers(0, 3)], x)
    return x
