"""Every dialect against the recorded outputs of its library, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from golden_cases import Case, cases
from torch import Tensor

from qscale.formats import FORMATS, Grid
from qscale.kernels.dialects import (
    aten,
    bitsandbytes,
    casts,
    compressed_tensors,
    elements,
    microxcaling,
    modelopt,
    quest,
    te,
    torchao,
    torchao_floats,
)
from qscale.kernels.dialects._shared import Quantized

CASES = cases()
Outputs = Mapping[str, Tensor | None]

#: Outputs that are not followed, by case; docs/dialects.md has the reason. All others of the case are.
NOT_FOLLOWED: Mapping[str, frozenset[str]] = {
    f"quest/{case}/dyadic/f32": frozenset({"std"})
    for case in (
        "TrustQuantizer/int1/centered=True",
        "TrustQuantizer/int2/centered=True",
        "TrustQuantizer/int4/centered=True",
        "TrustQuantizer/int8/centered=True",
        "STEQuantizer/int4/centered=True",
        "STEQuantizer/int4/centered=False",
        "ClipQuantizer/int4/centered=True-clip_scale=1.0",
    )
}


def of(result: Quantized) -> Outputs:
    """The roles of a result, under every name that the vectors have for them."""
    return {
        "y": result.y,
        "codes": result.codes,
        "q": result.codes,
        "scale": result.scale,
        "zp": result.zero_point,
        "tensor_scale": result.tensor_scale,
        "global_scale": result.tensor_scale,
        "amax": result.tensor_scale,
    }


def bits_of(case: Case) -> int:
    return int(case.format.removeprefix("u").removeprefix("int"))


def mapping(case: Case) -> torchao.Mapping:
    name = case.options["mapping"].lower()
    return "noclip" if name == "symmetric_no_clipping_err" else name


def torchao_intx(case: Case, x: Tensor) -> Outputs:
    asymmetric_group = mapping(case) == "asymmetric" and case.options["granularity"] != "token"
    result = torchao.intx_fake_quantizer(
        x,
        bits_of(case),
        case.group_size,
        mapping=mapping(case),
        float_zero_point=asymmetric_group,
        scale_dtype=torch.bfloat16 if "scale_precision" in case.options else torch.float32,
        unsigned=case.format.startswith("u"),
    )
    return of(result)


def torchao_intx_grad(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    asymmetric_group = mapping(case) == "asymmetric" and case.options["granularity"] != "token"
    options = {"mapping": mapping(case), "float_zero_point": asymmetric_group}
    call = (bits_of(case), case.group_size)
    y = torchao.intx_fake_quantizer(x, *call, **options).y
    return {"y": y, "gx": torchao.intx_fake_quantizer_backward(gy, x, *call, **options)}


def torchao_affine(case: Case, x: Tensor) -> Outputs:
    whole = case.options.get("granularity") == "tensor"
    result = torchao.affine_primitives(
        x.reshape(1, -1) if whole else x,
        bits_of(case),
        case.group_size,
        mapping=mapping(case),
        scale_dtype=torch.float32 if "scale_dtype" in case.options else None,
    )
    return of(result)


def torchao_int4_weight(case: Case, x: Tensor) -> Outputs:
    run = {
        "e4m3": torchao.int4_weight_fake_quantizer_e4m3,
        "bf16": torchao.int4_weight_fake_quantizer_bf16,
    }[case.options["activation_dtype"]]
    return {"y": run(x, case.group_size)}


ELEMENTS = {
    "e4m3": elements.E4M3,
    "e5m2": elements.E5M2,
    "fp6_e2m3": elements.E2M3,
    "fp6_e3m2": elements.E3M2,
    "e2m1": elements.E2M1,
}


def torchao_range_learning(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    result = torchao_intx(case, x)
    call = (result["scale"], result["zp"].float(), bits_of(case), case.group_size)
    y = torchao.intx_range_learning(x, *call)
    gx, gscale, gzp = torchao.intx_range_learning_backward(gy, x, *call)
    return {"y": y, "scale": call[0], "zp": call[1], "gx": gx, "gscale": gscale, "gzp": gzp}


def torchao_float8(case: Case, x: Tensor) -> Outputs:
    result = torchao_floats.float8(
        x.reshape(1, -1) if case.options["granularity"] == "tensor" else x,
        ELEMENTS[case.format],
        case.group_size,
        power_of_two_scale="scale_dtype" in case.options,
    )
    return of(result)


def torchao_float8_grad(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    call = (ELEMENTS[case.format], case.group_size)
    y = torchao_floats.float8(x, *call).y
    return {"y": y, "gx": torchao_floats.float8_backward(gy, x, *call)}


def torchao_mx(case: Case, x: Tensor) -> Outputs:
    rule = case.options["scaling_mode"].lower()
    return of(torchao_floats.mx(x, ELEMENTS[case.format], case.group_size, rule=rule))


def torchao_nvfp4(case: Case, x: Tensor) -> Outputs:
    return of(torchao_floats.nvfp4(x, two_levels=case.options["per_tensor_scale"]))


def compressed_tensors_case(case: Case, x: Tensor) -> Outputs:
    strategy = case.options["strategy"]
    whole = strategy == "tensor" or (strategy == "token" and "leading_dim" not in case.options)
    x = x.reshape(1, -1) if whole else x
    group = case.group_size
    if case.format.startswith("int"):
        symmetric = case.options["symmetric"]
        return of(compressed_tensors.integers(x, bits_of(case), group, symmetric=symmetric))
    if case.format == "e4m3":
        return of(compressed_tensors.float8(x, group))
    if case.format == "nvfp4":
        return of(compressed_tensors.nvfp4(x, group))
    element = {"mxfp4": elements.E2M1, "mxfp6": elements.E2M3, "mxfp8": elements.E4M3}[case.format]
    return of(compressed_tensors.mx(x, element, group))


def compressed_tensors_cast(case: Case, x: Tensor) -> Outputs:
    return {"y": compressed_tensors.cast(x.float(), ELEMENTS[case.format])}


def torchao_cast(case: Case, x: Tensor) -> Outputs:
    return {"codes": torchao_floats.cast(x.float(), ELEMENTS[case.format])}


def modelopt_quantizer(case: Case, x: Tensor, amax: Tensor | None = None) -> Outputs:
    whole = case.options["granularity"] == "tensor"
    flat = x.reshape(1, -1) if whole else x
    if case.format == "e4m3":
        return of(modelopt.tensor_quantizer_e4m3(flat, case.group_size, amax=amax))
    narrow = case.options.get("narrow_range", True)
    return of(
        modelopt.tensor_quantizer_int(flat, bits_of(case), case.group_size, narrow_range=narrow, amax=amax)
    )


def modelopt_quantizer_grad(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    groups = x.reshape(-1, case.group_size or x.shape[-1])
    amax = groups.abs().amax(-1, keepdim=True) * case.options.get("static_amax_factor", 1.0)
    pass_through = case.options.get("pass_through_bwd", True)
    gx = modelopt.tensor_quantizer_backward(gy, x, case.group_size, amax, pass_through=pass_through)
    return {"y": modelopt_quantizer(case, x, amax)["y"], "gx": gx, "amax": amax}


def aten_case(case: Case, x: Tensor, scale: Tensor, zp: Tensor, gy: Tensor) -> Outputs:
    half = 2 ** (bits_of(case) - 1)
    call = (x.reshape(scale.numel(), -1), scale, zp, -half, half - 1)
    gy = gy.reshape(scale.numel(), -1)
    y = aten.fake_quantize(*call)
    if "learnable" not in case.op:
        return {"y": y, "gx": aten.fake_quantize_backward(gy, *call)}
    gx, gscale, gzp = aten.learnable_backward(
        gy, *call, grad_factor=case.options["grad_factor"], per_tensor="per_tensor" in case.op
    )
    return {"y": y, "gx": gx, "gscale": gscale, "gzp": gzp}


def bitsandbytes_case(case: Case, x: Tensor) -> Outputs:
    table = {"nf4": bitsandbytes.NF4, "fp4": bitsandbytes.FP4}[case.format]
    return of(bitsandbytes.quantize_4bit(x, table, case.group_size))


def microxcaling_grid(case: Case) -> Grid:
    fixed_point = {"int8": "mxint8", "int4": "fp_e0m3"}
    return FORMATS[fixed_point.get(case.format, case.format)].grid


def microxcaling_case(case: Case, x: Tensor) -> Outputs:
    y = microxcaling.quantize_mx(
        x,
        microxcaling_grid(case),
        case.group_size,
        case.options["round"],
        axis=case.options.get("axis", -1),
        flush_subnormals="flush_fp32_subnorms" in case.options,
    )
    return {"y": y}


def microxcaling_cast(case: Case, x: Tensor) -> Outputs:
    return {"y": microxcaling.cast(x.float(), microxcaling_grid(case), case.options["round"])}


def te_case(case: Case, x: Tensor) -> Outputs:
    tile = tuple(case.options["tile"])
    if case.format == "nvfp4":
        return of(te.nvfp4(x, tile, row_scaled="row_scaled" in case.options))
    error, e4m3_max = case.options["err"], case.options["e4m3_max"]
    return of(te.nvfp4_4over6(x, tile, error=error, e4m3_max=e4m3_max))


def quest_case(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    """From the recorded standard deviation on: its last bit depends on the CPU (docs/dialects.md)."""
    given = case.outputs()["std"]
    if case.op == "STEQuantizer":
        result = quest.straight_through(x, bits_of(case), centered=case.options["centered"], std=given)
    elif case.op == "ClipQuantizer":
        result = quest.clip(x, bits_of(case), clip_scale=case.options["clip_scale"], std=given)
    else:
        result = quest.trust(x, bits_of(case), std=given)
    return {"y": result.y, "gx": quest.backward(gy, result), "std": quest.row_std(x)}


def quest_hadamard_case(case: Case, x: Tensor, gy: Tensor) -> Outputs:
    matrix = quest.hadamard_matrix(case.group_size)
    x_had = quest.rotate(x, matrix)
    result = quest.trust(x_had, bits_of(case), std=case.outputs()["std"])
    y = result.y
    if case.op == "HadamardTrustQuantizer":  # the "half" class leaves the result rotated
        y, gy = quest.rotate(y, matrix.T), quest.rotate(gy, matrix)
    gx = quest.rotate(quest.backward(gy, result), matrix.T)
    return {"y": y, "gx": gx, "std": quest.row_std(x_had), "x_had": x_had}


def ml_dtypes_case(case: Case, x: Tensor) -> Outputs:
    if case.format == "e8m0":
        return {"codes": casts.ml_dtypes_cast_e8m0(x.float())}
    return {"codes": casts.ml_dtypes_cast(x.float(), elements.ELEMENTS[case.format])}


def torch_case(case: Case, x: Tensor) -> Outputs:
    if case.format == "e8m0":
        return {"codes": casts.torch_cast_e8m0(x.float())}
    return {"codes": casts.torch_cast(x.float(), elements.ELEMENTS[case.format])}


GFLOAT_ROUNDING: dict[str, elements.Rounding] = {
    "TiesToEven": "even",
    "TiesToAway": "away",
    "TowardZero": "zero",
    "TowardPositive": "up",
    "TowardNegative": "down",
}


def gfloat_case(case: Case, x: Tensor) -> Outputs:
    rounding = GFLOAT_ROUNDING[case.options["round_mode"]]
    element = elements.ELEMENTS[case.format]
    codes = casts.gfloat_cast(x.float(), element, rounding, saturate=case.options["saturate"])
    return {"codes": codes, "valid": x.isfinite()}


RUN: dict[tuple[str, str], Callable[..., Outputs]] = {
    ("torchao", "intx_fake_quantizer"): torchao_intx,
    ("torchao", "intx_fake_quantizer_grad"): torchao_intx_grad,
    ("torchao", "affine_primitives"): torchao_affine,
    ("torchao", "tinygemm"): lambda case, x: of(torchao.tinygemm(x, 4, case.group_size)),
    ("torchao", "int4_weight_fake_quantizer"): torchao_int4_weight,
    ("torchao", "intx_range_learning_grad"): torchao_range_learning,
    ("torchao", "float8"): torchao_float8,
    ("torchao", "float8_grad"): torchao_float8_grad,
    ("torchao", "mx"): torchao_mx,
    ("torchao", "nvfp4"): torchao_nvfp4,
    ("compressed_tensors", "fake_quantize"): compressed_tensors_case,
    ("modelopt", "tensor_quantizer"): modelopt_quantizer,
    ("modelopt", "tensor_quantizer_grad"): modelopt_quantizer_grad,
    ("modelopt", "qtensor_mxfp4"): lambda case, x: of(modelopt.mxfp4(x, case.group_size)),
    ("modelopt", "qtensor_mxfp8"): lambda case, x: of(modelopt.mxfp8(x, case.group_size)),
    ("modelopt", "qtensor_nvfp4"): lambda case, x: of(modelopt.nvfp4(x, case.group_size)),
    ("modelopt", "qtensor_int4"): lambda case, x: of(modelopt.int4(x, case.group_size)),
    ("modelopt", "qtensor_nf4"): lambda case, x: of(modelopt.nf4(x, case.group_size)),
    ("peer_element_casts", "modelopt_nvfp4"): lambda _, x: {"codes": modelopt.cast_e2m1(x.float())},
    ("aten", "fake_quantize_per_channel_affine"): aten_case,
    ("aten", "fake_quantize_per_tensor_affine"): aten_case,
    ("aten", "_fake_quantize_learnable_per_channel_affine"): aten_case,
    ("aten", "_fake_quantize_learnable_per_tensor_affine"): aten_case,
    ("bitsandbytes", "quantize_4bit"): bitsandbytes_case,
    ("microxcaling", "quantize_mx"): microxcaling_case,
    ("peer_element_casts", "microxcaling_elemwise"): microxcaling_cast,
    ("transformer_engine_ref", "nvfp4_ref"): te_case,
    ("peer_element_casts", "transformer_engine_ref"): lambda _, x: {"codes": te.cast_e2m1(x.float())},
    ("quest", "TrustQuantizer"): quest_case,
    ("quest", "STEQuantizer"): quest_case,
    ("quest", "ClipQuantizer"): quest_case,
    ("quest", "HadamardTrustQuantizer"): quest_hadamard_case,
    ("quest", "HalfHadamardTrustQuantizer"): quest_hadamard_case,
    ("ml_dtypes", "cast"): ml_dtypes_case,
    ("torch_cast", "cast"): torch_case,
    ("gfloat", "round_encode"): gfloat_case,
    ("peer_element_casts", "torchao"): torchao_cast,
    ("peer_element_casts", "compressed_tensors"): compressed_tensors_cast,
}

_CODES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_INTEGER_OF = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def difference(got: Tensor, wanted: Tensor, close: tuple[float, float] | None) -> str | None:
    """What is wrong with an output, in one line, or None."""
    if got.numel() != wanted.numel():
        return f"shape {list(got.shape)}, wanted {list(wanted.shape)}"
    got, wanted = got.detach().reshape(-1), wanted.reshape(-1)
    if got.is_floating_point() and wanted.dtype in (torch.int8, torch.float8_e4m3fn):
        got = got.to(wanted.dtype)  # compressed_tensors: values on their way to the type that holds them
    if close is not None:
        rtol, atol = close
        bad = ~torch.isclose(got.double(), wanted.double(), rtol=rtol, atol=atol, equal_nan=True)
    elif wanted.is_floating_point():
        got = got.view(wanted.dtype) if wanted.element_size() == got.element_size() == 1 else got
        if got.dtype != wanted.dtype:
            return f"dtype {got.dtype}, wanted {wanted.dtype}"
        integer = _INTEGER_OF[wanted.element_size()]
        bad = (got.view(integer) != wanted.view(integer)) & ~(got.isnan() & wanted.isnan())
    elif got.dtype in _CODES or got.element_size() == 1:
        if got.is_floating_point() and got.element_size() == 1:
            got = got.view(torch.uint8)
        bad = got.long() != wanted.long()
    else:
        return f"dtype {got.dtype}, wanted {wanted.dtype}"
    if not (count := int(bad.sum())):
        return None
    first = int(bad.nonzero()[0])
    return (
        f"{count} of {got.numel()} differ, first at {first}: "
        f"got {got[first].item()!r}, wanted {wanted[first].item()!r}"
    )


def differences(case: Case) -> dict[str, str]:
    """What is wrong with each output of a case that is not the library's, by role."""
    outputs = RUN[case.peer, case.op](case, **case.inputs())
    found = {}
    for role, wanted in case.outputs().items():
        if role in case.cpu_dependent:
            continue
        got = outputs.get(role)
        problem = "not given" if got is None else difference(got, wanted, case.close.get(role))
        if problem is not None:
            found[role] = problem
    return found


needs_vectors = pytest.mark.skipif(not CASES, reason="no folder shared/golden beside the repository")


@needs_vectors
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_dialect_follows_the_library_exact(case):
    found = differences(case)
    assert found.keys() == NOT_FOLLOWED.get(case.id, frozenset()), found


@needs_vectors
def test_at_most_two_in_a_hundred_cases_are_not_followed():
    assert NOT_FOLLOWED.keys() <= {case.id for case in CASES}
    assert len(NOT_FOLLOWED) <= 0.02 * len(CASES)


ROWS = {
    "torchao": "torchao",
    "compressed_tensors": "compressed-tensors",
    "modelopt": "modelopt",
    "microxcaling": "microxcaling",
    "aten": "aten",
    "bitsandbytes": "bitsandbytes",
    "transformer_engine_ref": "TransformerEngine reference",
    "quest": "QuEST",
}
OTHERS = "element casts (ml_dtypes, torch, gfloat, and those of five libraries)"
DOCUMENT = Path(__file__).parents[2] / "docs" / "dialects.md"


@needs_vectors
def test_counts_and_exceptions_of_the_document_are_those_of_this_file():
    cases_of = Counter(ROWS.get(case.peer, OTHERS) for case in CASES)
    missed = Counter(ROWS.get(case_id.partition("/")[0], OTHERS) for case_id in NOT_FOLLOWED)
    rows = [f"| {row} | {count} | {count - missed[row]} |" for row, count in cases_of.most_common()]
    rows.append(f"| all | {len(CASES)} | {len(CASES) - len(NOT_FOLLOWED)} |")
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    absent = [line for line in (*rows, *(f"- `{case_id}`" for case_id in NOT_FOLLOWED)) if line not in lines]
    assert not absent, "docs/dialects.md lacks:\n" + "\n".join(absent)


def test_a_wrong_sign_of_zero_is_a_difference():
    assert difference(torch.tensor([1.0, -0.0]), torch.tensor([1.0, 0.0]), None) is not None
    assert difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), None) is None
    assert difference(torch.tensor([1.0]), torch.tensor([1.0]).bfloat16(), None) is not None
    assert difference(torch.tensor([1.0]), torch.tensor([1.1]), (0.0, 0.2)) is None
