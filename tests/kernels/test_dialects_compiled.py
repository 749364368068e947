"""The compiled dialects against their emulations, which test_golden.py holds to recorded bits."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.errors import SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, call_for
from qscale.formats.calls import EMULATED, FAMILIES
from qscale.kernels import dialects, fake_quant, use_backend, use_isa

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}


def texts() -> list[str]:
    """Every spec of a library that has a compiled kernel, at a few granularities."""
    found = []
    for dialect in DIALECTS.values():
        for name in sorted(dialect.formats):
            spans = [""] if FORMATS[name].block else [":g32", ":g7", ":channel", ":token", ":tensor"]
            for span in spans:
                for option in ("", *(f":{option}" for option in sorted(dialect.options))):
                    try:
                        spec = QuantSpec.parse(f"{name}{span}{option}@{dialect.name}")
                    except SpecError:
                        continue
                    call = call_for(spec)
                    if call is not None and call.op not in (EMULATED, *FAMILIES):
                        found.append(str(spec))
    return found


SPECS = texts()


def test_specs_when_they_are_gathered_then_seven_libraries_have_kernels():
    libraries = {text.partition("@")[2] for text in SPECS}
    assert libraries == {
        "bitsandbytes",
        "compressed_tensors",
        "microxcaling",
        "modelopt",
        "ocp",
        "te",
        "torchao",
    }


def drawn(generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    if kind == "ordinary":
        return torch.randn(shape, generator=generator).to(dtype)
    if kind == "spread":
        powers = torch.randint(-40, 41, shape, generator=generator)
        return torch.ldexp(torch.randn(shape, generator=generator), powers).to(dtype)
    if kind == "special":
        values = torch.tensor([0.0, -0.0, 1.0, -2.5, 6.0, float("inf"), float("nan"), 2.0**-149, 3.4e38])
        return values[torch.randint(0, len(values), shape, generator=generator)].to(dtype)
    integer = torch.int32 if dtype is torch.float32 else torch.int16
    info = torch.iinfo(integer)
    words = torch.randint(info.min, info.max + 1, shape, generator=generator, dtype=torch.int64)
    return words.to(integer).view(dtype)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SPECS),
    st.sampled_from(DTYPES),
    st.sampled_from(["ordinary", "spread", "special", "patterns"]),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_kernel_when_inputs_are_drawn_then_its_bits_are_those_of_the_emulation(
    isa, text, dtype, kind, rows, groups, seed
):
    spec = QuantSpec.parse(text)
    x = drawn(torch.Generator().manual_seed(seed), dtype, (rows, groups * (spec.group_size or 9)), kind)
    wanted = dialects.find(spec)(x).y
    with use_backend("cpu"), use_isa(isa):
        assert_same_bits(fake_quant(x, spec), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", SPECS)
def test_kernel_when_values_are_ordinary_then_its_bits_are_those_of_the_emulation(text, dtype):
    spec = QuantSpec.parse(text)
    x = torch.randn(3, 224, generator=torch.Generator().manual_seed(1)).to(dtype)
    with use_backend("cpu"):
        got = fake_quant(x.t().contiguous().t(), spec)
    assert_same_bits(got, dialects.find(spec)(x).y)


OPS = {call_for(QuantSpec.parse(text)).op: text for text in SPECS}


@pytest.mark.parametrize("op", OPS)
def test_opcheck_when_given_the_op_of_a_dialect_then_all_four_checks_pass(op):
    call = call_for(QuantSpec.parse(OPS[op]))
    shape = (2, 3 * 224)
    for gradient in (False, True):
        x = torch.randn(shape, requires_grad=gradient)
        result = torch.library.opcheck(getattr(torch.ops.qscale, op).default, (x, *call.arguments))
        assert result == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize(
    "text", ["int4:g32@torchao", "mxfp8_e4m3@modelopt", "nf4:g64@bitsandbytes", "nvfp4@te"]
)
def test_kernel_when_there_is_nothing_or_one_element_then_the_shape_is_kept(text):
    for shape in ((0,), (3, 0), (0, 64)):
        assert fake_quant(torch.empty(shape), text).shape == shape
    with pytest.raises(SpecError, match="takes whole groups of 32"):
        fake_quant(torch.ones(33), "int4:g32@torchao")
