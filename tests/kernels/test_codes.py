"""Packed codes and the way back, op by op: every implementation has the bits of the reference."""

from __future__ import annotations

import re

import pytest
import torch
from bits import assert_same_bits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qscale.errors import BackendError
from qscale.formats import QuantSpec
from qscale.kernels import QuantizedTensor, dequantize, quantize, use_backend
from qscale.kernels.ops import group_count

OPS = torch.ops.qscale
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECS = [
    *(
        "int2",
        "int4",
        "int4:asym",
        "int4:asym:floatzero",
        "int5",
        "int8:full",
        "int8:asym",
        "int3:stochastic",
    ),
    *("fp4_e2m1", "fp4_e3m0:away", "fp_e0m3", "fp6_e2m3", "fp8_e4m3", "fp8_e5m2:stochastic", "fp_e1m1"),
    *("nf4", "fp4_bnb", "nf4:scale_bf16", "mxfp4", "mxfp8_e5m2", "mxint8", "nvfp4", "nvfp4:onelevel"),
]
SPANS = ["g1", "g2", "g5", "g7", "g8", "g16", "g32", "channel", "tensor", "b3", "b16"]


def spec_of(text: str, span: str) -> str:
    name, _, options = text.partition(":")
    if name[:2] in ("mx", "nv"):
        return ":".join(
            part for part in (name, "b16" if span == "b16" and name == "nvfp4" else "", options) if part
        )
    return ":".join(part for part in (name, span, options) if part)


def layout_of(x: Tensor, how: str) -> Tensor:
    """The same shape in other strides."""
    if how == "rows" and x.dim():
        return torch.nn.functional.pad(x, (0, 3))[..., : x.shape[-1]]
    if how == "columns" and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "steps" and x.dim():
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    return x


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Tensor, int]:
    """A spec, a tensor of any shape and strides, and a seed."""
    spec = spec_of(draw(st.sampled_from(SPECS)), draw(st.sampled_from(SPANS)))
    leading = draw(st.lists(st.integers(0, 5), max_size=3))
    shape = draw(st.just(()) | st.integers(0, 90).map(lambda axis: (*leading, axis)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x = torch.randn(shape, generator=generator)
    x = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, x).to(draw(st.sampled_from(DTYPES)))
    if x.numel() and draw(st.booleans()):
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = draw(st.sampled_from([torch.nan, torch.inf, 6e4]))
    how = draw(st.sampled_from(["whole", "rows", "columns", "steps"]))
    return spec, layout_of(x, how), draw(st.integers(-(2**63), 2**63 - 1)) if "stochastic" in spec else 0


def parts(q: QuantizedTensor) -> list[Tensor]:
    return [t for t in (q.codes, q.scale, q.zero_point, q.tensor_scale) if t is not None]


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_quantize_and_back_when_anything_is_given_then_every_part_has_the_bits_of_the_reference_exact(
    implementation, case
):
    spec, x, seed = case
    with use_backend("reference"):
        wanted = quantize(x, spec, seed=seed)
        values = dequantize(wanted)
    with implementation():
        got = quantize(x, spec, seed=seed)
        for mine, theirs in zip(parts(got), parts(wanted), strict=True):
            assert mine.is_contiguous()
            assert_same_bits(mine, theirs)
        assert_same_bits(dequantize(wanted), values)


@settings(max_examples=100, deadline=None)
@given(case=cases(), wild=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_quantize_and_back_when_scales_are_given_then_the_bits_are_those_of_the_reference_exact(
    implementation, case, wild, seed
):
    spec, x, chance = case
    assume(not QuantSpec.parse(spec).has_tensor_scale)
    generator = torch.Generator().manual_seed(seed)
    shape = quantize(x, spec).scale.shape
    scale = torch.rand(shape, generator=generator) + 0.01
    zero = torch.randint(-10, 300, shape, generator=generator) / 4 if "asym" in spec else None
    if wild:
        bits = torch.randint(-(2**31), 2**31, shape, generator=generator)
        scale = bits.to(torch.int32).view(torch.float32)
    given_ = {"scale": scale, "zero_point": zero, "seed": chance}
    with use_backend("reference"):
        wanted = quantize(x, spec, **given_)
        values = dequantize(wanted)
    with implementation():
        assert_same_bits(quantize(x, spec, **given_).codes, wanted.codes)
        assert_same_bits(dequantize(wanted), values)


@settings(max_examples=100, deadline=None)
@given(
    few=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    leading=st.lists(st.integers(0, 4), max_size=2),
    columns=st.integers(0, 70),
    group=st.integers(1, 40) | st.just(-1),
    rows=st.integers(1, 4),
    common=st.booleans(),
    has_zeros=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_dequantize_op_when_codes_are_any_bytes_then_its_bits_are_those_of_the_reference_exact(
    implementation, few, dtype, leading, columns, group, rows, common, has_zeros, seed
):
    generator = torch.Generator().manual_seed(seed)
    shape = torch.Size((*leading, columns))
    width = (columns + 1) // 2 if few else columns
    codes = torch.randint(0, 256, (*leading, width), generator=generator, dtype=torch.uint8)
    table = torch.randn(16 if few else 256, generator=generator)
    groups = 1 if common else group_count(shape, group, rows)
    scale, zero = torch.randn(2, groups, generator=generator).unbind()
    arguments = (codes, table, scale, zero if has_zeros else None, columns, dtype, group, rows)
    with implementation():
        got = OPS.dequantize_codes(*arguments)
    assert_same_bits(got, OPS.dequantize_codes_reference(*arguments))
    assert (got.shape, got.dtype) == (shape, dtype)


def test_codes_when_a_row_is_odd_then_the_last_upper_half_is_zero_and_the_next_row_begins_a_byte(
    implementation,
):
    x = torch.full((3, 5), -1.0)
    with implementation():
        for spec in ("int4:g3", "int4:tensor", "int4:channel", "int4:b2"):
            got = quantize(x, spec, scale=torch.ones(()))
            assert got.codes.tolist() == [[0xFF, 0xFF, 0x0F]] * 3, spec
            assert_same_bits(dequantize(got), x)
        assert quantize(torch.tensor(-1.0), "int4:g8", scale=torch.ones(())).codes.shape == ()


def test_codes_when_groups_of_threads_share_bytes_then_none_is_lost(implementation):
    # More elements than one thread takes.
    x = torch.randint(-7, 8, (3, 70_005), generator=torch.Generator().manual_seed(0)).float()
    with implementation():
        for spec in ("int4:g5", "int4:g16383", "int4:tensor", "int4:b3"):
            assert_same_bits(dequantize(quantize(x, spec, scale=torch.ones(()))), x)


# Errors

GOOD = (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(16), torch.ones(2), None, 5, torch.float32, -1, 1)
BAD = {
    "dtype": (5, torch.float64, "dtype=.*; wanted "),
    "table": (1, torch.zeros(17), "table has dtype .* and 17 elements; wanted contiguous float32 on the CPU"),
    "table of numbers": (1, torch.zeros(16).half(), "table has dtype .*[hH]alf|float16 and 16 elements"),
    "codes": (0, torch.zeros(2, 3), "codes have dtype .* and rows of 3; wanted uint8, 3 for 5 columns"),
    "columns": (4, 7, "codes have dtype .* and rows of 3; wanted uint8, 4 for 7 columns"),
    "scale": (
        2,
        torch.ones(3),
        "scale has dtype .* and 3 elements; wanted contiguous float32, one for each of 2",
    ),
    "zero_point": (3, torch.ones(2).half(), "zero_point has dtype .* and 2 elements"),
    "group_size": (6, 0, "group_size=0; wanted at least 1"),
    "block_rows": (7, 0, "block_rows=0; wanted at least 1"),
}


@pytest.mark.parametrize("ending", ["", "_reference"])
@pytest.mark.parametrize("name", BAD)
def test_dequantize_op_when_an_argument_does_not_fit_then_the_error_names_it(name, ending):
    place, unfit, message = BAD[name]
    arguments = [unfit if i == place else argument for i, argument in enumerate(GOOD)]
    with pytest.raises(RuntimeError, match=f"dequantize: .*(?:{message})"):
        getattr(OPS, f"dequantize_codes{ending}")(*arguments)


def test_dequantize_when_the_backend_cannot_serve_the_codes_then_the_error_says_so():
    q = quantize(torch.ones(2, 4, device="meta"), "int4:g2")
    assert (dequantize(q).shape, dequantize(q).device.type) == ((2, 4), "meta")
    with (
        use_backend("cpu"),
        pytest.raises(BackendError, match=re.escape("dequantize: backend 'cpu' cannot run")),
    ):
        dequantize(q)


# As torch sees it


@pytest.mark.parametrize("ending", ["", "_reference"])
@pytest.mark.parametrize(
    ("shape", "columns", "count"),
    [((2, 3), 5, 2), ((), 1, 1), ((0, 3), 6, 0), ((2, 0), 0, 0)],
    ids=["rows", "no dimensions", "no rows", "no columns"],
)
def test_opcheck_when_given_the_dequantize_op_then_all_four_checks_pass(shape, columns, count, ending):
    codes, zero = torch.zeros(shape, dtype=torch.uint8), torch.ones(count)
    arguments = (codes, torch.randn(16), torch.ones(count), zero, columns, torch.bfloat16, -1, 1)
    result = torch.library.opcheck(getattr(OPS, f"dequantize_codes{ending}").default, arguments)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("spec", ["int4:g32", "fp8_e4m3:channel", "nf4:tensor"])
def test_compile_when_codes_are_undone_in_a_graph_then_bits_are_those_of_eager(spec):
    torch.compiler.reset()
    q = quantize(torch.randn(6, 80, dtype=torch.bfloat16), spec)
    x = torch.ones(80, dtype=torch.bfloat16)
    assert_same_bits(torch.compile(lambda x: dequantize(q) * x, fullgraph=True)(x), dequantize(q))
