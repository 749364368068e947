"""Dialects by spec: what ``fake_quant`` gives for a library's name is what the library gave."""

from __future__ import annotations

import re

import pytest
import torch
from bits import assert_same_bits
from golden_cases import Case, cases
from hypothesis import assume, given, settings
from strategies import specs
from torch import Tensor

from qscale.errors import BackendError, SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, use_backend
from qscale.kernels.dialects import find

TORCHAO_FORMATS = {
    "e4m3": "mxfp8_e4m3",
    "e5m2": "mxfp8_e5m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp6_e3m2": "mxfp6_e3m2",
    "e2m1": "mxfp4",
}
MICROXCALING_FORMATS = {
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp4_e2m1": "mxfp4",
    "int8": "mxint8",
}
COMPRESSED_FORMATS = {"mxfp4": "mxfp4", "mxfp6": "mxfp6_e2m3", "mxfp8": "mxfp8_e4m3", "nvfp4": "nvfp4"}


def torchao_spec(case: Case) -> str | None:
    span = f"g{case.group_size}" if case.group_size else case.options.get("granularity", "channel")
    mapping = case.options.get("mapping", "").lower()
    if case.op == "mx":
        return f"{TORCHAO_FORMATS[case.format]}:{case.options['scaling_mode'].lower()}"
    if case.op == "nvfp4":
        return "nvfp4" if case.options["per_tensor_scale"] else "nvfp4:onelevel"
    if case.op == "float8" and "scale_dtype" not in case.options:
        return f"fp8_{case.format}:{span.replace('row', 'token')}"
    if case.op == "intx_fake_quantizer" and case.format[0] == "i" and "scale_precision" not in case.options:
        if mapping == "symmetric":
            return f"{case.format}:{span}"
        return f"{case.format}:token:asym" if span == "token" else None
    if case.op == "affine_primitives" and "scale_dtype" not in case.options:
        option = {"symmetric_no_clipping_err": ":noclip", "asymmetric": ":asym"}.get(mapping, "")
        return f"{case.format}:{span}{option}" if option or span == "tensor" else None
    return None


def compressed_tensors_spec(case: Case) -> str | None:
    if case.format in COMPRESSED_FORMATS:
        return COMPRESSED_FORMATS[case.format]
    span = f"g{case.group_size}" if case.group_size else case.options["strategy"]
    if span == "token" and "leading_dim" not in case.options:
        span = "tensor"
    format_ = "fp8_e4m3" if case.format == "e4m3" else case.format
    return f"{format_}:{span}" + ("" if case.options["symmetric"] else ":asym")


def modelopt_spec(case: Case) -> str | None:
    if case.op == "tensor_quantizer" and case.options.get("narrow_range", True):
        span = f"g{case.group_size}" if case.group_size else case.options["granularity"]
        format_ = "fp8_e4m3" if case.format == "e4m3" else case.format
        return f"{format_}:{span.replace('axis0', 'channel')}"
    return {"qtensor_mxfp4": "mxfp4", "qtensor_mxfp8": "mxfp8_e4m3", "qtensor_nvfp4": "nvfp4"}.get(case.op)


def microxcaling_spec(case: Case) -> str | None:
    name = MICROXCALING_FORMATS.get(case.format)
    ties = {"nearest": ":away", "even": ""}.get(case.options["round"])
    if name is None or ties is None or {"axis", "flush_fp32_subnorms"} & case.options.keys():
        return None
    return name + ties


def bitsandbytes_spec(case: Case) -> str | None:
    return f"{case.format.replace('fp4', 'fp4_bnb')}:g{case.group_size}"


SPECS = {
    "torchao": torchao_spec,
    "compressed_tensors": compressed_tensors_spec,
    "modelopt": modelopt_spec,
    "microxcaling": microxcaling_spec,
    "bitsandbytes": bitsandbytes_spec,
}
NAMED = [
    pytest.param(case, f"{spec}@{case.peer}", id=f"{spec}@{case.peer}-{case.input}-{case.input_dtype}")
    for case in cases()
    if case.peer in SPECS
    and (spec := SPECS[case.peer](case)) is not None
    and "y" in case.keys["outputs"]
    and "y" not in case.cpu_dependent
]


@pytest.mark.parametrize(("case", "spec"), NAMED)
def test_fake_quant_by_name_gives_what_the_library_gave_exact(case, spec):
    assert_same_bits(fake_quant(case.inputs()["x"], spec), case.outputs()["y"])


def served(spec):
    if spec.dialect in ("qscale", "chen2025", "aten"):
        return False
    rows_only = spec.dialect == "quest"
    blocks_only = spec.dialect == "bitsandbytes" or spec.format == "nf4"
    is_group = spec.strategy == "group"
    return not (rows_only and (is_group or spec.strategy == "tensor")) and (is_group or not blocks_only)


@given(specs())
@settings(max_examples=200, deadline=None)
def test_every_spec_of_an_emulated_dialect_runs(spec):
    assume(served(spec) and (spec.group_size or 1) <= 4096)
    x = torch.randn(2, 3, 2 * (spec.group_size or 8), generator=torch.Generator().manual_seed(1))
    result = find(spec)(x)
    assert (result.y.shape, result.y.dtype) == (x.shape, x.dtype)
    assert result.codes is None or result.codes.shape == x.shape
    assert (result.y - x).abs().max() <= x.abs().max()


@pytest.mark.parametrize("spec", ["int4:g32@torchao", "mxfp4@ocp", "nf4:g64@bitsandbytes", "nvfp4@te"])
def test_gradient_passes_straight_through(spec):
    x = torch.randn(2, 64, requires_grad=True)
    fake_quant(x, spec).backward(torch.full((2, 64), 3.0))
    assert_same_bits(x.grad, torch.full((2, 64), 3.0))


@pytest.mark.parametrize("spec", ["int4:g32@torchao", "mxfp4@modelopt", "nf4:g64@bitsandbytes"])
def test_an_empty_tensor_stays_empty(spec):
    assert fake_quant(torch.empty(0, 64), spec).shape == (0, 64)


def test_a_group_that_does_not_fit_is_an_error_that_says_so():
    with pytest.raises(SpecError, match="last axis has 40 elements; torchao takes whole groups of 32"):
        fake_quant(torch.ones(2, 40), "int4:g32@torchao")


@pytest.mark.parametrize("spec", ["int4:channel@aten", "int4:g32@quest", "nf4:channel@bitsandbytes"])
def test_what_a_spec_cannot_say_has_no_quantizer(spec):
    assert find(QuantSpec.parse(spec)) is None


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ocp_is_what_qscale_computes_by_default_exact(name, dtype):
    x = torch.randn(8, 80, generator=torch.Generator().manual_seed(2))
    x = (x * torch.logspace(-3, 3, 80)).to(dtype)
    x[0, :32], x[1, 5], x[2, 40] = 0.0, torch.nan, torch.inf
    by_name = fake_quant(x, f"{name}@ocp")
    # qscale's fixed point is two's complement, which has one zero.
    assert_same_bits(fake_quant(x, name), by_name + 0.0 if name == "mxint8" else by_name)


# Dialect aten: scales are the caller's


def aten_call(case: Case) -> tuple[Tensor, dict[str, Tensor], str]:
    inputs = case.inputs()
    x, span = inputs["x"], f"g{case.group_size}" if case.group_size else "tensor"
    shape = (*x.shape[:-1], -1) if case.group_size else (1,)
    named = {"scale": inputs["scale"].reshape(shape), "zero_point": inputs["zp"].reshape(shape)}
    return x, named, f"{case.format}:{span}@aten"


ATEN = [pytest.param(case, id=case.id.removeprefix("aten/")) for case in cases() if case.peer == "aten"]


@pytest.mark.parametrize("case", ATEN)
def test_aten_by_name_gives_the_values_and_gradients_of_the_library_exact(case):
    x, given_, spec = aten_call(case)
    learned = "learnable" in case.op
    leaves = [t.requires_grad_(t.is_floating_point() and (learned or t is x)) for t in (x, *given_.values())]
    options = {"gradient": "lsq", "gradient_scale": case.options["grad_factor"]} if learned else {}
    options = options or {"gradient": "clipped"}
    y = fake_quant(x, spec, scale=leaves[1], zero_point=leaves[2], **options)
    y.backward(case.inputs()["gy"])
    got = {"y": y.detach(), "gx": x.grad, "gscale": leaves[1].grad, "gzp": leaves[2].grad}
    for role, wanted in case.outputs().items():
        if role in case.close:
            rtol, atol = case.close[role]
            torch.testing.assert_close(got[role], wanted.reshape(got[role].shape), rtol=rtol, atol=atol)
        else:
            assert_same_bits(got[role], wanted.reshape(got[role].shape))


def test_aten_when_there_is_no_zero_point_then_it_is_zero():
    x, scale = torch.randn(3, 40), torch.tensor(0.1)
    given_ = {"scale": scale, "gradient": "clipped"}
    wanted = torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)
    for spec in ("int8:channel@aten", "int8:g20@aten", "int8:tensor@aten"):
        assert_same_bits(fake_quant(x, spec, **given_), wanted)
        assert_same_bits(fake_quant(x, spec, zero_point=torch.tensor(0), **given_), wanted)


def test_aten_when_a_learned_zero_point_is_no_integer_then_it_is_rounded_as_torch_does():
    x = torch.randn(3, 16)
    scale, zero = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.5, -2.4, -200.0])
    wanted = torch._fake_quantize_learnable_per_channel_affine(x, scale, zero, 0, -128, 127, 1.0)
    options = {"scale": scale[:, None], "zero_point": zero[:, None], "gradient": "lsq"}
    assert_same_bits(fake_quant(x, "int8:channel:asym@aten", **options), wanted)


def test_aten_when_the_gradient_is_straight_through_then_it_passes_and_nothing_is_saved():
    x, saved = torch.randn(2, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        y = fake_quant(x, "int2:channel@aten", scale=torch.tensor(0.1))
    y.backward(torch.full((2, 8), 3.0))
    assert_same_bits(x.grad, torch.full((2, 8), 3.0))
    assert saved == []


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (1,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("span", ["channel", "tensor", "g1"])
def test_aten_when_the_shape_is_unusual_then_it_is_kept(span, shape):
    x, scale = torch.randn(shape, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = fake_quant(x, f"int4:{span}@aten", scale=scale, gradient="lsq", gradient_scale="lsq")
    y.sum().backward()
    assert (y.shape, x.grad.shape, scale.grad.shape) == (shape, shape, ())


ONE = torch.ones(())


@pytest.mark.parametrize(
    ("message", "spec", "options"),
    [
        ("dialect 'aten' has no scale of its own; give one", "int8:channel@aten", {}),
        ("dialect 'aten' has no scale of its own; give one", "int8:channel@aten", {"gradient": "lsq"}),
        ("dialect 'aten' has no scale of its own; give one", "int8:channel:asym@aten", {"zero_point": ONE}),
        ("a zero point is given with the scale where the spec", "int8:tensor:asym@aten", {"scale": ONE}),
        ("dialect 'aten' has no gradient 'trust'", "int8:tensor@aten", {"scale": ONE, "gradient": "trust"}),
        ("rounds without chance", "int8:tensor@aten", {"scale": ONE, "seed": 1}),
        ("the last axis has 40 elements; aten takes whole groups of 32", "int8:g32@aten", {"scale": ONE}),
        ("wanted [2, 5], or what can be expanded to it", "int8:g8@aten", {"scale": torch.ones(10)}),
        ("scale and zero point have gradients with gradient='lsq'", "int8:tensor@aten",
         {"scale": ONE.clone().requires_grad_(), "gradient": "clipped"}),
    ],
)  # fmt: skip
def test_aten_when_something_is_amiss_then_the_error_says_what(message, spec, options):
    with pytest.raises(SpecError, match=re.escape(message)):
        fake_quant(torch.ones(2, 40), spec, **options)


def test_aten_when_the_compiled_backend_is_named_then_it_refuses():
    with use_backend("cpu"), pytest.raises(BackendError, match="has no kernel for this dialect"):
        fake_quant(torch.ones(32), "int4:channel@aten", scale=ONE)
