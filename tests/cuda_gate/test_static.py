"""The figures of benchmarks/cuda_static.py: a kernel written by hand, weights, occupancy."""

from __future__ import annotations

from collections import Counter

import pytest
from cuda_gate.faults import fused, inexact, outside_registers, shuffles, widest
from ptx.build import Compiled, Usage, usages
from ptx.cost import cost, total
from ptx.gpus import ARCHITECTURES
from ptx.listing import Kernel, code, kernels_of
from ptx.walk import Launch, Walk

#: Adds up `count` floats from `x`, in a loop; thread 0 alone stores the sum, and its half as a 16-bit pair.
TEXT = """
.version 8.0
.target sm_90
.address_size 64

.visible .entry summed(
	.param .u64 summed_param_0,
	.param .align 8 .b8 summed_param_1[16]
)
.maxntid 128, 1, 1
{
	.reg .pred 	%p<3>;
	.reg .f32 	%f<5>;

	ld.param.u64 	%rd1, [summed_param_0];
	cvta.to.global.u64 	%rd2, %rd1; // a comment; with a semicolon
	mov.b64 	%rd9, summed_param_1;
	ld.param.u32 	%r1, [%rd9+8];
	mov.f32 	%f1, 0f00000000;
	mov.u32 	%r2, 0;

$L__BB0_1:
	ld.global.v2.f32 	{%f2, %f3}, [%rd2];
	add.rn.f32 	%f1, %f1, %f2;
	add.rn.f32 	%f1, %f1, %f3;
	add.s64 	%rd2, %rd2, 8;
	add.s32 	%r2, %r2, 2;
	setp.lt.s32 	%p1, %r2, %r1;
	@%p1 bra 	$L__BB0_1;

	mov.u32 	%r3, %tid.x;
	setp.ne.s32 	%p2, %r3, 0;
	@%p2 bra 	$L__BB0_3;

	fma.rn.f32 	%f4, %f1, 0f3F000000, 0f00000000;
	// begin inline asm
	{  cvt.rn.f16x2.f32 %r5, %f1, %f4;}
	// end inline asm
	st.global.f32 	[%rd1+-16], %f1;
	st.global.u32 	[%rd1+-8], %r5;

$L__BB0_3:
	ret;

}

"""
X = 1 << 40


def walk(thread: int, count: int = 6) -> Walk:
    arch, (kernel,) = kernels_of(TEXT)
    assert arch == "sm_90"
    arguments = [X.to_bytes(8, "little"), (0).to_bytes(8, "little") + count.to_bytes(8, "little")]
    launch = Launch(grid=(1, 1, 1), block=(128, 1, 1), arguments=arguments)
    return Walk(kernel=kernel, launch=launch, load=lambda _at, _size: 0x3F800000, thread=(thread, 0, 0))


def test_listing_when_read_then_it_has_every_instruction_and_label():
    _, (kernel,) = kernels_of(TEXT)
    instructions, labels = code(kernel)
    assert kernel.parameters == (("summed_param_0", 8), ("summed_param_1", 16))
    assert len(instructions) == 21
    assert labels == {"$L__BB0_1": 6, "$L__BB0_3": 20}
    assert kernel.operations.count("add.rn.f32") == 2
    assert "cvt.rn.f16x2.f32" in kernel.operations


def test_thread_when_followed_then_loops_count_by_their_turns_and_branches_by_where_they_go():
    first = walk(thread=0)
    wanted = {
        "add.rn.f32": 6,
        "ld.global.v2.f32": 3,
        "add.s64": 3,
        "setp.lt.s32": 3,
        "bra": 4,
        "fma.rn.f32": 1,
    }
    assert wanted.items() <= first.run().items()
    assert first.memory == {(X - 16, 4): 0x40C00000, (X - 8, 4): 0x46004200}  # 6, and the pair of 3 and 6
    assert first.most_waited == 8
    other = walk(thread=1).run()
    assert "st.global.f32" not in other
    assert other["add.rn.f32"] == 6


def test_thread_when_an_instruction_is_not_known_then_it_is_named():
    _, (kernel,) = kernels_of(TEXT.replace("fma.rn", "tanh.approx"))
    run = walk(thread=0)
    run.kernel = kernel
    with pytest.raises(NotImplementedError, match=r"tanh\.approx\.f32"):
        run.run()


def test_costs_when_added_then_what_is_part_of_another_instruction_is_free():
    slots, work = total(
        {"mov.u32": 9, "ld.param.u64": 3, "abs.f32": 2, "add.s64": 1, "ld.global.v4.u32": 2, "fma.rn.f32": 3}
    )
    assert (slots, work) == (7, Counter({"global": 8, "fma": 3, "alu": 2}))
    assert cost("shfl.sync.bfly.b32") == (1, {"shuffle": 1})
    assert cost("div.rn.f32")[0] > cost("mul.rn.f32")[0]


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "wanted"),
    [
        (32, 256, 0, 1.0),
        (40, 256, 0, 0.75),
        (64, 256, 0, 0.5),
        (33, 1024, 0, 0.5),
        (32, 128, 56 * 1024, 0.25),
    ],
)
def test_occupancy_when_something_runs_out_exact(registers, threads, shared, wanted):
    found = ARCHITECTURES["sm_90"].occupancy(registers=registers, threads=threads, shared=shared)
    assert found == wanted


# What the gate looks for, planted


def planted(*replaced: tuple[str, str]) -> Kernel:
    text = TEXT
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return kernels_of(text)[1][0]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("fma.rn.f32", "div.approx.f32", {"div.approx.f32"}),
        ("fma.rn.f32", "div.full.f32", {"div.full.f32"}),
        ("fma.rn.f32", "rsqrt.approx.ftz.f32", {"rsqrt.approx.ftz.f32"}),
        ("add.rn.f32", "add.f32", {"add.f32"}),
        ("add.rn.f32", "add.rn.ftz.f32", {"add.rn.ftz.f32"}),
        ("fma.rn.f32", "div.rn.f32", set()),
        ("fma.rn.f32", "rcp.rn.f32", set()),
    ],
)
def test_gate_when_an_operation_need_not_round_as_written_then_it_is_found(old, new, found):
    assert inexact(planted((old, new))) == found


def test_gate_when_a_kernel_is_read_then_widths_shuffles_and_fused_operations_are_known():
    kernel = planted()
    assert (widest(kernel, "ld"), widest(kernel, "st"), shuffles(kernel), fused(kernel)) == (8, 4, 0, True)
    wide = planted(("ld.global.v2.f32", "ld.global.nc.v4.u32"), ("st.global.u32", "shfl.sync.bfly.b32"))
    assert (widest(wide, "ld"), shuffles(wide)) == (16, 1)
    assert not fused(planted(("fma.rn", "mul.rn")))


REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'good' for 'sm_90'
ptxas info    : Function properties for good
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 33 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compiling entry function 'bad' for 'sm_80'
ptxas info    : Function properties for bad
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 16 bytes cumulative stack size
"""


def test_gate_when_ptxas_spills_then_it_is_found():
    found = dict(usages(REPORT))
    good, bad = found["sm_90", "good"], found["sm_80", "bad"]
    assert good == Usage(registers=33, shared=128, stack=0, spilled=0, local=0)
    assert bad == Usage(registers=255, shared=0, stack=32, spilled=12, local=0)
    held = [outside_registers(Compiled(unit="u", arch="a", kernel=planted(), usage=u)) for u in (good, bad)]
    assert held == [False, True]
    local = planted((".reg .f32 	%f<5>;", ".reg .f32 %f<5>; .local .align 4 .b8 depot[64];"))
    assert outside_registers(Compiled(unit="u", arch="a", kernel=local, usage=good))
