"""The choice of backend: said aloud, kept to, and explained when it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from qscale.errors import BackendError
from qscale.kernels import backends, fake_quant, use_backend, use_isa

#: The function of the same name hides the module from an ordinary import.
MODULE = import_module("qscale.kernels.backends")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # torch 2.13's own tracing of autograd functions triggers this one.
    quiet = "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", quiet, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_backends_when_the_package_is_built_then_the_compiled_kernels_are_available():
    cpu, cuda, reference = backends()
    assert (cpu.name, cpu.available) == ("cpu", True), cpu.detail
    assert cpu.detail.startswith("instruction set ")
    assert (reference.name, reference.available) == ("reference", True)
    assert cuda.name == "cuda"


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_backends_when_torch_has_no_cuda_then_the_reason_is_given():
    with pytest.raises(BackendError, match=r"cuda: torch .* is built without CUDA"), use_backend("cuda"):
        pass


def test_use_backend_when_the_name_is_unknown_then_the_error_lists_the_names():
    with (
        pytest.raises(BackendError, match="no backend 'metal'; known: auto, cpu, cuda, reference"),
        use_backend("metal"),
    ):
        pass


def test_use_backend_when_the_block_raises_then_the_choice_is_undone():
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    with use_backend("cpu"):
        fake_quant(torch.ones(2), "int4:g2")
    assert not MODULE.on_reference("fake_quant", torch.ones(2))


def test_use_backend_when_cpu_is_named_and_the_tensor_is_elsewhere_then_it_raises():
    with use_backend("cpu"), pytest.raises(BackendError) as caught:
        fake_quant(torch.empty(2, device="meta"), "int4:g2")
    assert "cpu: needs a CPU tensor, not meta" in str(caught.value)
    assert "Backend 'reference' runs on any device" in str(caught.value)


def test_use_isa_when_the_machine_cannot_run_it_then_the_error_lists_what_it_can():
    message = "'neon9', which this machine cannot run; it can run: auto, .*plain"
    with pytest.raises(BackendError, match=message), use_isa("neon9"):
        pass


def test_qscale_isa_when_it_names_one_then_that_one_is_used():
    done = run_python("from qscale.kernels import backends; print(backends()[0].detail)", QSCALE_ISA="plain")
    assert done.stdout.strip() == "instruction set plain", done.stderr


def test_qscale_isa_when_it_names_none_then_calls_raise_and_name_the_choices():
    done = run_python(
        "import torch, qscale.kernels as k; print(k.backends()[0]); k.fake_quant(torch.ones(2), 'int4:g2')",
        QSCALE_ISA="mmx",
    )
    assert "available=False" in done.stdout
    assert "QSCALE_ISA names instruction set 'mmx', which this machine cannot run" in done.stderr
    assert done.returncode != 0


WITHOUT_THE_LIBRARY = """
import warnings, torch
from qscale.errors import BackendError
from qscale.kernels import backends, dequantize, fake_quant, quantize, use_backend
print(backends()[0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.tensor([0.14, -0.7, 0.3, -0.0, 1.0], requires_grad=True)
    y = fake_quant(x, "int4:g3")
    fake_quant(x, "int4:g3")
y.sum().backward()
assert x.grad.tolist() == [1.0] * 5
mine = [str(w.message) for w in caught if "qscale" in str(w.message)]
assert len(mine) == 1 and "QSCALE_KERNELS=OFF" in mine[0], mine
scale = torch.ones(2, requires_grad=True)
z = fake_quant(x, "int4:g3", scale=scale, gradient="clipped")
z.sum().backward()
assert scale.grad.tolist() == [torch.tensor([-0.14, -0.3, -0.3]).sum().item(), 0.0]
assert torch.equal(dequantize(quantize(x.detach(), "int4:g3")), y)
with use_backend("reference"):
    assert torch.equal(fake_quant(x, "int4:g3"), y)
    f = torch.compile(lambda t: fake_quant(t, "int4:g3"), fullgraph=True, backend="aot_eager")
    assert torch.equal(f(x), y)
f = torch.compile(lambda t: fake_quant(t, "int4:g3"), fullgraph=True, backend="aot_eager")
assert torch.equal(f(x), y)
for op in (torch.ops.qscale.fake_quant_int.default, torch.ops.qscale.fake_quant_int_forward.default):
    for grad in (False, True):
        numbers = (-7, 7, 7.0, 0, 0, 0, 4, 1, 0, 0)
        result = torch.library.opcheck(op, (torch.randn(3, 10, requires_grad=grad), *numbers))
        assert set(result.values()) == {"SUCCESS"} and len(result) == 4
try:
    with use_backend("cpu"):
        pass
except BackendError as error:
    print(error)
"""


def test_auto_when_the_compiled_library_is_off_then_the_reference_serves_and_says_so_once():
    done = run_python(WITHOUT_THE_LIBRARY, QSCALE_KERNELS="OFF")
    assert done.returncode == 0, done.stderr
    assert "available=False, detail='switched off by QSCALE_KERNELS=OFF'" in done.stdout
    assert "backend 'cpu' is not available.\n  cpu: switched off" in done.stdout


def test_load_when_the_library_is_missing_then_the_reason_names_the_remedy(monkeypatch):
    monkeypatch.setattr(MODULE, "find_spec", lambda _: None)
    reason = MODULE._load_compiled("cpu", MODULE._REMEDY)
    assert "not installed; reinstall with torch present: pip install --no-build-isolation" in reason


def test_load_when_the_library_does_not_load_then_the_reason_is_kept(monkeypatch, tmp_path):
    broken = tmp_path / "_C_cpu.abi3.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(MODULE, "find_spec", lambda _: SimpleNamespace(origin=str(broken)))
    reason = MODULE._load_compiled("cpu", MODULE._REMEDY)
    assert "_C_cpu.abi3.so does not load into torch" in reason
    assert "file too short" in reason or "invalid ELF header" in reason


def test_load_when_the_switch_is_misspelt_then_it_raises(monkeypatch):
    monkeypatch.setenv("QSCALE_KERNELS", "NEVER")
    with pytest.raises(BackendError, match="QSCALE_KERNELS is 'NEVER'; wanted AUTO or OFF"):
        MODULE._load_compiled("cpu", MODULE._REMEDY)
