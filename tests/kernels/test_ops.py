"""The ops as torch sees them: opcheck, torch.compile, straight-through gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch._dynamo.testing
from bits import assert_same_bits
from torch import Tensor

from qscale.errors import BackendError, SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, call_for
from qscale.kernels import dialects, fake_quant, use_backend
from qscale.kernels.dialects.compiled import OPS as LIBRARY_OPS
from qscale.kernels.ops import FAMILIES, MEMBERS, OPTIONS, group_count

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPS = torch.ops.qscale
#: The arguments of each family's element, and of its options.
ELEMENTS = {
    "fake_quant_int": (0, 15, 7.5, 2),
    "fake_quant_float": (3, -6, 448.0),
    "fake_quant_codebook": (0,),
}
NUMBERS = {"scale_kind": 0, "tensor_level": 0, "group_size": 32, "block_rows": 1, "rounding": 0, "seed": 0}
SUFFIXES = [member.suffix for member in MEMBERS]
SPECS = ["int2:g32", "int4:g32@chen2025", "int8:tensor", "int4:b16:asym", "fp8_e4m3:g32", "mxfp4", "nvfp4"]
SPECS += ["nf4:g64:scale_fp16"]
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}


def compiles(test):
    """torch 2.13's own tracing triggers the first of these, its inductor the second."""
    quiet = (
        "ignore:.*Function'> should not be inst:DeprecationWarning",
        "ignore:.*torch.jit:DeprecationWarning",
    )
    return pytest.mark.filterwarnings(*quiet)(test)


def op(name: str):
    return getattr(OPS, name).default


def numbers(family: str, **options: int) -> tuple[float, ...]:
    """What an op of the family takes after its tensors."""
    return (*ELEMENTS[family], *(NUMBERS | options).values())


def call(family: str, suffix: str, x: Tensor, **options: int) -> tuple:
    """All arguments of an op."""
    chosen = NUMBERS | options
    count = group_count(x.shape, chosen["group_size"], chosen["block_rows"])
    scale, zero = torch.full((count,), 0.25), torch.full((count,), 2.5)
    tensors = {"_given": (x, scale, zero), "_codes": (x, scale, None, True), "_rotated": (x, 1, None)}
    tensors["_gradient"] = (torch.ones_like(x), x, scale, zero, 1, 0.5)
    columns = x.detach().double().reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.dim() else 1)
    factor = torch.eye(len(columns)).double().requires_grad_(x.requires_grad)
    tensors["_feedback"] = (columns, factor, torch.ones(columns.shape), torch.zeros(columns.shape))
    return (*tensors.get(suffix, (x,)), *numbers(family, **options))


def test_every_op_of_the_namespace_is_checked_in_this_file():
    mains = [f"{name}{end}" for name in (*ELEMENTS, "fake_quant_emulated") for end in ENDINGS["main"]]
    others = [
        f"{name}{suffix}{end}" for name in ELEMENTS for suffix in SUFFIXES[1:] for end in ENDINGS["other"]
    ]
    registered = [
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qscale::fake_quant")
    ]
    libraries = [
        f"{row.name}{end}" for row in LIBRARY_OPS for end in ENDINGS["main"]
    ]  # test_dialects_compiled
    wanted = [f"qscale::{name}" for name in (*mains, *others, *libraries, "fake_quant_aten")]
    assert sorted(registered) == sorted(wanted)
    assert [family.name for family in FAMILIES] == [*ELEMENTS]
    assert [option.split()[1] for option in OPTIONS.split(", ")] == [*NUMBERS]


ENDINGS = {"main": ["", "_forward", "_reference", "_out"], "other": ["", "_reference"]}
SHAPES = {"ragged": ((3, 50), {}), "squares": ((2, 5, 7), {"block_rows": 3, "group_size": 3})}
UNUSUAL = {"no dimensions": ((), {}), "empty": ((0, 7), {}), "empty groups": ((3, 0), {"group_size": -1})}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "suffix", [f"{s}{e}" for s in (*SUFFIXES, "_forward") for e in ("", "_reference")][:-1]
)
@pytest.mark.parametrize("family", ELEMENTS)
def test_opcheck_when_given_each_op_then_all_four_checks_pass(family, suffix, shape):
    size, options = SHAPES[shape]
    x = torch.randn(size, requires_grad=shape == "squares")
    arguments = call(family, suffix.removesuffix("_reference"), x, **options)
    assert torch.library.opcheck(op(family + suffix), arguments) == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", UNUSUAL)
@pytest.mark.parametrize("suffix", ["", "_scales_reference", "_given", "_codes_reference", "_gradient"])
def test_opcheck_when_shape_and_dtype_differ_then_all_four_checks_pass(suffix, shape, dtype):
    size, options = UNUSUAL[shape]
    x = torch.randn(size).to(dtype).requires_grad_()
    arguments = call("fake_quant_int", suffix.removesuffix("_reference"), x, **options)
    assert torch.library.opcheck(op(f"fake_quant_int{suffix}"), arguments) == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("name", ELEMENTS)
def test_opcheck_when_given_the_out_variant_then_all_four_checks_pass(name):
    x = torch.randn(4, 100)
    result = torch.library.opcheck(op(f"{name}_out"), (x, *numbers(name), torch.empty_like(x)))
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("ending", ENDINGS["main"])
def test_opcheck_when_the_op_is_an_emulation_then_all_four_checks_pass(ending):
    x = torch.randn(3, 64, requires_grad=ending != "_out")
    arguments = (x, EMULATED, torch.empty_like(x)) if ending == "_out" else (x, EMULATED)
    result = torch.library.opcheck(op(f"fake_quant_emulated{ending}"), arguments)
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


def test_opcheck_when_scales_are_for_aten_then_all_four_checks_pass():
    arguments = (torch.randn(3, 5, requires_grad=True), torch.ones(3), torch.zeros(3), -8, 7)
    assert torch.library.opcheck(op("fake_quant_aten"), arguments) == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_out_variant_when_called_then_it_writes_what_the_op_returns(name, backend):
    x = torch.randn(4, 100)[:, ::2]
    out = torch.empty(4, 50)
    getattr(OPS, f"{name}_out")(x, *numbers(name), out)
    suffix = "_reference" if backend == "reference" else ""
    assert_same_bits(out, getattr(OPS, name + suffix)(x, *numbers(name)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (7,), (2, 3, 4, 5), (9, 33)], ids=str)
@pytest.mark.parametrize(("group", "rows"), [(-1, 1), (1, 1), (4, 1), (4, 4), (100, 2)])
def test_group_count_when_the_op_has_scales_then_it_is_their_number(shape, group, rows):
    arguments = call("fake_quant_int", "_scales", torch.randn(shape), group_size=group, block_rows=rows)
    counts = {
        t.numel() for end in ("", "_reference") for t in op(f"fake_quant_int_scales{end}")(*arguments)[:2]
    }
    assert counts == {group_count(torch.Size(shape), group, rows)}


# Straight through


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("spec", SPECS)
def test_gradient_when_backward_runs_then_it_is_passed_unchanged(backend, spec):
    x = torch.randn(3, 100, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(3, 100).to(torch.bfloat16)
    with use_backend(backend):
        fake_quant(x, spec).backward(gradient)
    assert_same_bits(x.grad, gradient)


@pytest.mark.parametrize("name", ELEMENTS)
def test_gradient_when_the_op_is_called_directly_then_it_is_passed_unchanged(name):
    x = torch.randn(3, 100, requires_grad=True)
    getattr(OPS, name)(x, *numbers(name)).sum().backward()
    assert_same_bits(x.grad, torch.ones(3, 100))


def test_forward_when_gradients_are_off_then_the_result_has_none():
    x = torch.randn(3, 100, requires_grad=True)
    with torch.no_grad():
        assert not fake_quant(x, "int4:g32").requires_grad
    with torch.inference_mode():
        assert_same_bits(fake_quant(x.detach(), "int4:g32"), fake_quant(x, "int4:g32"))


# In a compiled graph


@compiles
@pytest.mark.parametrize(
    ("spec", "backend"),
    [
        ("int4:g32", "auto"),
        (QuantSpec.parse("int8:tensor@chen2025"), "reference"),
        ("fp8_e4m3:b16", "auto"),
        ("nvfp4", "reference"),
        ("nf4:g64", "auto"),
    ],
    ids=str,
)
def test_compile_when_the_whole_graph_is_traced_then_bits_and_gradients_are_those_of_eager(backend, spec):
    torch.compiler.reset()
    with use_backend(backend):
        compiled = torch.compile(lambda x: fake_quant(x * 2, spec) + 1, fullgraph=True)
        x = torch.randn(6, 80, dtype=torch.bfloat16, requires_grad=True)
        gradient = torch.randn(6, 80).to(torch.bfloat16)
        got = compiled(x)
        got.backward(gradient)
        assert_same_bits(got, fake_quant(x * 2, spec) + 1)
    assert_same_bits(x.grad, gradient * 2)


def graph_of(spec: QuantSpec | str, **options):
    def run(x: Tensor, *given: Tensor) -> Tensor:
        named = dict(zip(("scale", "zero_point"), given, strict=False))
        return fake_quant(x * 2, spec, **named, **options) + 1

    return run


WITH_OPTIONS = {
    "given scale": ("int4:g32", (6, 3), {"gradient": "clipped"}),
    "scale and zero point": ("int4:g32:asym:floatzero", (6, 3), {"gradient": "lsq", "gradient_scale": "lsq"}),
    "one scale": ("fp8_e4m3:tensor", (1,), {"gradient": "trust", "trust": 2.0}),
    "own scales": ("mxfp4", None, {"gradient": "clipped"}),
    "own scales, at random": ("int4:b16:stochastic", None, {"gradient": "clipped", "seed": 2**40}),
    "aten": ("int4:g40:asym@aten", (6, 2), {"gradient": "lsq", "gradient_scale": 0.5}),
}


@compiles
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_compile_when_there_are_options_then_bits_and_gradients_are_those_of_eager(name):
    torch.compiler.reset()
    spec, shape, options = WITH_OPTIONS[name]
    x = torch.randn(6, 80).to(torch.float32 if name == "aten" else torch.bfloat16).requires_grad_()
    count = 0 if shape is None else 2 if "asym" in spec else 1
    given = [torch.rand(shape).add(0.1).requires_grad_() for _ in range(count)]
    gradient = torch.randn(6, 80).to(x.dtype)
    results = []
    for run in (graph_of(spec, **options), torch.compile(graph_of(spec, **options), fullgraph=True)):
        y = run(x, *given)
        results.append((y, *torch.autograd.grad(y, (x, *given), gradient)))
    for i, (eager, compiled) in enumerate(zip(*results, strict=True)):
        if name == "aten" and i > 1:  # sums of plain torch: in any order
            torch.testing.assert_close(compiled, eager)
        else:
            assert_same_bits(compiled, eager)


@compiles
def test_compile_when_calls_differ_in_nothing_or_the_seed_then_nothing_is_compiled_again():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()

    def run(x, scale, seed):
        return fake_quant(x, "int4:g32:stochastic", scale=scale, gradient="clipped", seed=seed)

    compiled = torch.compile(run, fullgraph=True, backend=counter)
    x, scale = torch.randn(2, 64, requires_grad=True), torch.rand(2, 2, requires_grad=True)
    compiled(x, scale, 3)
    compiled(x, scale, 3)
    assert counter.frame_count == 1
    for seed in (4, 5, 2**40, -7):  # the second seed makes it an input of the graph
        assert_same_bits(compiled(x, scale, seed), run(x, scale, seed))
    assert counter.frame_count == 2


@compiles
def test_compile_when_sizes_differ_then_the_factor_of_lsq_follows_them():
    torch.compiler.reset()
    run = graph_of(QuantSpec.parse("int4:g32"), gradient="lsq", gradient_scale="lsq")
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        x, scale = torch.randn(rows, 64, requires_grad=True), torch.rand(rows, 2, requires_grad=True)
        for mine, theirs in zip(
            *(torch.autograd.grad(f(x, scale).sum(), (x, scale)) for f in (compiled, run)), strict=True
        ):
            assert_same_bits(mine, theirs)


def test_compile_when_a_new_spec_is_seen_elsewhere_then_nothing_is_compiled_again():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda x: fake_quant(x, "int4:g32"), fullgraph=True, backend=counter)
    compiled(torch.randn(2, 64))
    fake_quant(torch.randn(2, 64), "int5:g31")
    compiled(torch.randn(2, 64))
    assert counter.frame_count == 1


# Errors


@pytest.mark.parametrize("spec", ["nf4:channel@bitsandbytes", "int4:g32@quest"])
def test_fake_quant_when_a_spec_has_no_kernel_then_the_error_lists_those_that_have(spec):
    with pytest.raises(SpecError) as caught:
        fake_quant(torch.ones(4), spec)
    message = str(caught.value)
    assert spec in message
    assert "qscale: int2, int3, int4, int5, int6, int7, int8, fp8_e4m3" in message
    assert "chen2025: int2" in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.float8_e4m3fn], ids=str)
def test_fake_quant_when_the_dtype_has_no_kernel_then_every_backend_says_why(dtype):
    with pytest.raises(BackendError) as caught:
        fake_quant(torch.ones(2, 3).to(dtype), "int4:g2")
    message = str(caught.value)
    assert f"input: {dtype} [2, 3] on cpu".replace("torch.", "") in message
    for backend in ("cpu", "reference"):
        assert f"{backend}: needs float32, bfloat16 or float16" in message


#: The family, its own arguments, the options, and what both backends say.
BAD = {
    "qmin": ("int", (1, 7, 7.0, 0), {}, "qmin=1, qmax=7"),
    "qmax": ("int", (-7, 2**21, 7.0, 0), {}, "qmax=2097152"),
    "denominator zero": ("int", (-7, 7, 0.0, 0), {}, "denominator=0"),
    "denominator odd": ("int", (-7, 7, 7.25, 0), {}, "denominator=7.25.*wanted a multiple of 0.5"),
    "zero_point": ("int", (-7, 7, 7.0, 3), {}, r"zero_point=3; wanted 0 \(none\)"),
    "int scale_kind": ("int", (-7, 7, 7.0, 0), {"scale_kind": 1}, "scale_kind=1; integers take 0, or 3 to 8"),
    "mantissa_bits": ("float", (11, -6, 448.0), {}, "mantissa_bits=11"),
    "min_exponent": ("float", (3, 2, 448.0), {}, "min_exponent=2"),
    "largest between values": ("float", (3, -6, 449.0), {}, "largest=449"),
    "largest infinite": ("float", (3, -6, float("inf")), {}, "largest=inf"),
    "largest negative": ("float", (3, -6, -448.0), {}, "largest=-448"),
    "largest too fine": ("float", (1, 0, 6.0 + 2.0**-40), {}, "largest=6.0*"),
    "codebook": ("codebook", (3,), {}, "codebook=3; wanted 0 to 2"),
    "codebook rounding": ("codebook", (0,), {"rounding": 1}, "rounding=1; codebooks take 0"),
    "codebook scale_kind": ("codebook", (0,), {"scale_kind": 2}, "scale_kind=2; codebooks take 0, or 3 to 8"),
    "scale_kind": ("float", (3, -6, 448.0), {"scale_kind": 9}, "scale_kind=9; wanted 0 .*8 .the dtype of x"),
    "tensor_level": (
        "float",
        (3, -6, 448.0),
        {"tensor_level": 2, "scale_kind": 7},
        "tensor_level=2; wanted 0",
    ),
    "tensor_level alone": (
        "int",
        (-7, 7, 7.0, 0),
        {"tensor_level": 1},
        "tensor_level=1; wanted 0, or 1 beside",
    ),
    "group_size zero": ("int", (-7, 7, 7.0, 0), {"group_size": 0}, "group_size=0; wanted at least 1"),
    "group_size negative": ("codebook", (0,), {"group_size": -2}, "group_size=-2"),
    "block_rows": ("int", (-7, 7, 7.0, 0), {"block_rows": 0}, "block_rows=0; wanted at least 1"),
    "rounding": ("int", (-7, 7, 7.0, 0), {"rounding": 3}, "rounding=3; wanted 0"),
}
both = pytest.mark.parametrize("ending", ["", "_reference"], ids=["compiled", "reference"])


@both
@pytest.mark.parametrize("case", BAD)
def test_op_when_an_argument_is_out_of_range_then_the_error_names_it(case, ending):
    family, own, options, message = BAD[case]
    with pytest.raises(RuntimeError, match=f"fake_quant_{family}: .*{message}"):
        op(f"fake_quant_{family}{ending}")(torch.ones(4), *own, *(NUMBERS | options).values())


@both
@pytest.mark.parametrize("suffix", SUFFIXES[:-1])  # feedback takes float64
@pytest.mark.parametrize("name", ELEMENTS)
def test_op_when_the_dtype_is_wrong_then_the_error_names_it(name, suffix, ending):
    wanted = "float32, bfloat16 or float16" if ending else "Float, BFloat16 or Half"
    with pytest.raises(RuntimeError, match=f"{name}: x has dtype .*[dD]ouble|float64; wanted {wanted}"):
        op(name + suffix + ending)(*call(name, suffix, torch.ones(4, dtype=torch.float64)))


UNFIT_SCALES = {"short": torch.ones(2), "bfloat16": torch.ones(3).bfloat16(), "strided": torch.ones(6)[::2]}


@both
@pytest.mark.parametrize("which", ["scale", "zero_point"])
@pytest.mark.parametrize("unfit", UNFIT_SCALES)
@pytest.mark.parametrize("suffix", ["_given", "_codes", "_gradient"])
def test_op_when_a_given_scale_does_not_fit_then_the_error_says_what_was_wanted(suffix, unfit, which, ending):
    fits = {"scale": torch.ones(3), "zero_point": torch.ones(3)}
    pair = (fits | {which: UNFIT_SCALES[unfit]}).values()
    x = torch.ones(3, 32)
    calls = {"_gradient": (x, x, *pair, 0, 1.0), "_codes": (x, *pair, True)}
    more = (calls.get(suffix, (x, *pair)), numbers("fake_quant_int"))
    message = f"{which} has dtype .* and . elements; wanted contiguous float32, one for each of 3 groups"
    with pytest.raises(RuntimeError, match=f"fake_quant_int: {message}"):
        op(f"fake_quant_int{suffix}{ending}")(*more[0], *more[1])


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [96, 80])  # groups of 32: whole, and a short one at the end
@pytest.mark.parametrize("suffix", ["_given", "_codes", "_gradient"])
def test_op_when_rows_have_scales_in_common_then_the_bits_are_those_of_scales_for_each(
    suffix, width, dtype, ending
):
    x = torch.randn(11, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    run = op(f"fake_quant_int{suffix}{ending}")
    before = (x.flip(0), x) if suffix == "_gradient" else (x,)
    after = {"_gradient": (2, 0.0), "_codes": (False,)}.get(suffix, ())
    numbers_ = (0, 15, 7.5, 2, *numbers("fake_quant_int")[4:])
    scale, zero = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([7.5])
    few = run(*before, scale, zero, *after, *numbers_)
    each = run(*before, scale.repeat(11), zero.repeat(33), *after, *numbers_)
    for one, other in zip(*((r,) if suffix != "_gradient" else r for r in (few, each)), strict=True):
        assert torch.equal(one, other)


@both
def test_gradient_op_when_gate_or_gradient_do_not_fit_then_the_error_says_so(ending):
    x, one, run = torch.ones(4), torch.ones(1), op(f"fake_quant_int_gradient{ending}")
    with pytest.raises(RuntimeError, match=r"fake_quant_int: gate=4; wanted 0 \(open\), 1 \(clipped\)"):
        run(x, x, one, one, 4, 1.0, *numbers("fake_quant_int"))
    for unfit in (torch.ones(5), torch.ones(4).half()):
        with pytest.raises(
            RuntimeError, match="fake_quant_int: the gradient has another shape or dtype than x"
        ):
            run(unfit, x, one, one, 1, 1.0, *numbers("fake_quant_int"))


UNFIT = {"short": torch.empty(5), "half": torch.empty(4).half(), "strided": torch.empty(8)[::2]}


@pytest.mark.parametrize("name", UNFIT)
def test_out_variant_when_out_does_not_fit_then_the_error_says_what_was_wanted(name):
    with pytest.raises(RuntimeError, match="wanted a contiguous tensor of x's shape and dtype Float"):
        OPS.fake_quant_int_out(torch.ones(4), *numbers("fake_quant_int"), UNFIT[name])


def test_fake_quant_when_the_device_is_meta_then_shape_and_dtype_are_inferred():
    x = torch.empty(3, 5, dtype=torch.float16, device="meta", requires_grad=True)
    scale = torch.ones(3, 1, device="meta", requires_grad=True)
    for given in ({}, {"scale": scale, "gradient": "lsq"}, {"gradient": "clipped"}):
        y = fake_quant(x, "int4:channel", **given)
        assert (y.shape, y.dtype, y.device.type) == ((3, 5), torch.float16, "meta")
        y.sum().backward()
    assert (x.grad.shape, scale.grad.shape) == ((3, 5), (3, 1))


# Emulated dialects

EMULATED = "int4:channel@quest"


def emulated(x: torch.Tensor, spec: str = EMULATED) -> torch.Tensor:
    return dialects.find(QuantSpec.parse(spec))(x).y


def test_dialect_when_it_is_emulated_then_it_runs_and_the_gradient_passes_straight_through():
    x = torch.randn(3, 64, requires_grad=True)
    y = fake_quant(x, EMULATED)
    y.sum().backward()
    assert_same_bits(y, emulated(x))
    assert_same_bits(x.grad, torch.ones_like(x))
    assert fake_quant(torch.ones(32, 2).t(), EMULATED).is_contiguous()


@compiles
def test_dialect_when_the_graph_is_compiled_then_its_bits_stay():
    torch.compiler.reset()
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    assert_same_bits(torch.compile(lambda t: fake_quant(t, EMULATED), fullgraph=True)(x), emulated(x))


def test_dialect_when_the_compiled_backend_is_named_then_it_refuses():
    with use_backend("cpu"), pytest.raises(BackendError, match="cpu: has no kernel for this dialect"):
        fake_quant(torch.ones(32), EMULATED)
    with use_backend("reference"):
        assert_same_bits(fake_quant(torch.ones(32), EMULATED), emulated(torch.ones(32)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_when_a_dialect_is_emulated_then_every_spec_has_an_implementation_and_no_other(dialect):
    for name in DIALECTS[dialect].formats:
        spans = [""] if FORMATS[name].block else [":g32", ":channel", ":token", ":tensor"]
        for spec in (QuantSpec.parse(f"{name}{span}@{dialect}") for span in spans):
            call = call_for(spec)
            planned = call is not None and call.op not in ELEMENTS
            assert planned == (dialects.find(spec) is not None), spec
