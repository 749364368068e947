"""The ops beside what else runs on a device: repeats, streams, graphs, other devices, the sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from bits import assert_same_bits
from devices import drawn, needs_gpu

from qscale.kernels import fake_quant, hadamard, rotate_fake_quant, use_backend

pytestmark = needs_gpu

CALLS = {
    "int4:g32": lambda x: fake_quant(x, "int4:g32"),
    "int8:channel": lambda x: fake_quant(x, "int8:channel"),
    "int4:tensor": lambda x: fake_quant(x, "int4:tensor"),
    "mxfp4": lambda x: fake_quant(x, "mxfp4"),
    "nvfp4": lambda x: fake_quant(x, "nvfp4"),
    "stochastic": lambda x: fake_quant(x, "int4:g32:stochastic", seed=5),
    "hadamard": lambda x: hadamard(x, 1024),
    "hadamard base": lambda x: hadamard(x, 768),
    "rotated": lambda x: rotate_fake_quant(x, "int4:g128", 128),
}
every_call = pytest.mark.parametrize("call", [pytest.param(f, id=name) for name, f in CALLS.items()])


def inputs() -> torch.Tensor:
    return drawn((64, 6144), torch.bfloat16).cuda()


@every_call
def test_call_when_made_twenty_times_then_every_bit_is_the_same(call):
    x = inputs()
    first = call(x)
    for _ in range(19):
        assert_same_bits(call(x), first)


def test_gradients_when_computed_twenty_times_then_every_bit_is_the_same():
    x, upstream = inputs(), drawn((64, 6144), torch.bfloat16, seed=1).cuda()
    found = []
    for _ in range(20):
        leaf, scale = x.clone().requires_grad_(), torch.full((64, 48), 0.1, device="cuda", requires_grad=True)
        fake_quant(leaf, "int4:g128", scale=scale, gradient="lsq").backward(upstream)
        found.append((leaf.grad, scale.grad))
    for grad, grad_scale in found[1:]:
        assert_same_bits(grad, found[0][0])
        assert_same_bits(grad_scale, found[0][1])


@every_call
def test_call_when_captured_in_a_graph_then_replays_see_new_inputs(call):
    x = inputs()
    call(x)  # whatever is made once, before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(x)
    for seed in (2, 3):
        x.copy_(drawn((64, 6144), torch.bfloat16, seed=seed))
        graph.replay()
        assert_same_bits(y, call(x))


@every_call
def test_call_when_on_a_second_stream_then_it_waits_for_that_stream_and_no_other(call):
    source, x = inputs(), torch.zeros(64, 6144, dtype=torch.bfloat16, device="cuda")
    wanted = call(source)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        x.copy_(source)
        y = call(x)
    stream.synchronize()
    assert_same_bits(y, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device only")
@every_call
def test_call_when_the_tensor_is_on_another_device_then_it_runs_there(call):
    x = inputs()
    y = call(x.to("cuda:1"))
    assert (y.device.index, torch.cuda.current_device()) == (1, 0)
    assert_same_bits(y, call(x))


def test_op_when_torch_checks_it_then_it_is_registered_as_torch_wants():
    x = inputs()
    with use_backend("cuda"):
        torch.library.opcheck(torch.ops.qscale.hadamard.default, (x, 1024, None, False))


SANITIZED = """
import torch
from qscale.kernels import fake_quant, hadamard, rotate_fake_quant
x = torch.randn(8, 4096, device="cuda", dtype=torch.bfloat16)
for spec in ("int4:g32", "int8:channel", "int4:tensor", "int4:g7", "mxfp4", "nvfp4", "nf4:g64"):
    fake_quant(x, spec)
for n in (16, 1024, 4096, 768):
    hadamard(x[:, : 4096 // n * n], n)
rotate_fake_quant(x, "int4:g128", 128)
leaf, scale = x.clone().requires_grad_(), torch.full((8, 32), 0.1, device="cuda", requires_grad=True)
fake_quant(leaf, "int4:g128", scale=scale, gradient="lsq").sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer on the path")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_kernels_when_run_under_the_sanitizer_then_it_finds_nothing(tool):
    # Kernels of torch itself are none of ours.
    ours = ["--kernel-regex", "kns=qscale"]
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *ours]
    command += [sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
