"""The CUDA library compiled: no warning, spill or inexact operation, wide accesses, every op registered.

The environment variable QSCALE_GATE_ARCHITECTURES takes a list as CMake does, such as
``80-real;90-real;100-real;120``, or ``all`` for what a release is built for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_gate.faults import fused, inexact, outside_registers, shuffles, widest
from ptx import build
from ptx.listing import demangle

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

ALL = "80-real;90-real;100-real;120"

#: Kernels that memory should bound: name, narrowest load and store in bytes, and whether lanes exchange.
MAIN = (
    (re.compile(r"narrow_groups<.*Output0,"), 16, 16, True),
    (re.compile(r"narrow_groups<.*Output1,"), 16, 0, True),
    (re.compile(r"narrow_groups<.*Output2,"), 16, 4, False),
    (re.compile(r"wide_groups<"), 16, 16, True),
    (re.compile(r"narrow_gradients<"), 16, 16, True),
    (re.compile(r"range_parts<"), 16, 0, True),
    (re.compile(r"short_blocks<|short_rotated<"), 16, 16, True),
    (re.compile(r"(wide_blocks|wide_rotated)<float"), 16, 16, True),
    (re.compile(r"wide_blocks<|wide_rotated<"), 16, 8, True),
    (re.compile(r"dequantize_packs<"), 2, 16, False),
)


@pytest.fixture(scope="module")
def library() -> build.Library:
    asked = os.environ.get("QSCALE_GATE_ARCHITECTURES", build.DEFAULT)
    library = build.build(ALL if asked == "all" else asked)
    demangle([compiled.kernel for compiled in library.compiled])
    return library


def named(compiled: build.Compiled) -> str:
    return f"{compiled.arch} {compiled.unit}: {compiled.kernel.demangled}"


def test_library_when_listed_then_it_has_every_unit_there_is(library):
    commands = json.loads((library.folder / "compile_commands.json").read_text())
    listed = {Path(command["file"]).name for command in commands}
    assert {unit.name for unit in build.units()} <= listed


def test_compilers_when_they_have_read_every_unit_then_none_of_them_warns(library):
    assert [line for line in library.log.splitlines() if re.search(r"\bwarning\b", line, re.IGNORECASE)] == []
    assert {compiled.unit for compiled in library.compiled} == {unit.stem for unit in build.units()}


def test_kernels_when_assembled_then_all_they_hold_is_in_registers(library):
    assert [f"{named(c)}: {c.usage}" for c in library.compiled if outside_registers(c)] == []


def test_kernels_when_compiled_then_every_operation_rounds_as_it_was_written(library):
    assert [f"{named(c)}: {found}" for c in library.compiled if (found := inexact(c.kernel))] == []


def test_compiler_when_called_then_it_is_told_to_contract_nothing(library):
    commands = json.loads((library.folder / "compile_commands.json").read_text())
    cuda = [command["command"] for command in commands if command["file"].endswith(".cu")]
    assert cuda
    assert all("-fmad=false" in command and "fast_math" not in command for command in cuda)


def test_plain_integer_kernels_when_compiled_then_they_hold_no_fused_operation(library):
    # They ask for none, unlike quotients by Newton steps, so one would be the compiler's own.
    plain = [c for c in library.compiled if "Plain<IntGrid>" in c.kernel.demangled]
    assert plain
    assert [named(c) for c in plain if fused(c.kernel)] == []


def test_main_kernels_when_compiled_then_they_read_and_write_wide_and_lanes_exchange(library):
    wrong, seen = [], set()
    for compiled in library.compiled:
        for pattern, loaded, stored, exchanges in MAIN:
            if pattern.match(compiled.kernel.demangled):
                seen.add(pattern)
                read, written = widest(compiled.kernel, "ld"), widest(compiled.kernel, "st")
                exchanged = shuffles(compiled.kernel)
                if read < loaded or written < stored or (exchanges and exchanged == 0):
                    wrong.append(f"{named(compiled)}: {read} read, {written} written, {exchanged} shuffles")
                break
    assert wrong == []
    assert seen == {pattern for pattern, *_ in MAIN}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_library_when_linked_then_it_brings_its_own_cuda_runtime(library):
    done = subprocess.run(["readelf", "-d", library.path], capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if "cuda" in name] == []


REGISTERED = """
import ctypes, json, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import torch, qscale.kernels
torch.ops.load_library(sys.argv[2])
keys = "CPU", "CUDA"
print(json.dumps([sorted(n for n in torch._C._dispatch_get_registrations_for_dispatch_key(k)
                         if n.startswith("qscale::")) for k in keys]))
"""
#: What only a torch with CUDA has.
STREAM = "int aoti_torch_get_current_cuda_stream(int device, void** stream) { *stream = 0; return device; }\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_library_when_loaded_then_every_op_of_the_cpu_library_is_there(library, tmp_path):
    (tmp_path / "stream.c").write_text(STREAM)
    stream = tmp_path / "stream.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", stream, tmp_path / "stream.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED, stream, library.path],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    on_cpu, on_cuda = map(set, json.loads(done.stdout.splitlines()[-1]))
    # What Python makes comes as CPU tensors, to either library by an op of its own.
    # Rounding with error feedback comes after training: on CUDA these ops run their reference.
    missing = {op for op in on_cpu - on_cuda if not op.startswith("qscale::keep_")}
    assert {op for op in missing if not op.endswith("_feedback")} == set()
    assert on_cuda
