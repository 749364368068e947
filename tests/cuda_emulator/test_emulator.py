"""The CUDA emulator finds planted mistakes in kernels, and nothing in their correct twins."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cuda_emulator.build import CSRC, HERE, build, environment, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

PLANTED = HERE / "planted.cpp"
RIGHT, WRONG, REFUSED = 0, 1, 2

# What is said of a launch that fails: the kernel, the block, the thread, what it calls and where.
BY_SCHEDULER = {
    "wrong mask": r"lane \d+, at __shfl_xor_sync of mask 0x0000ffff .*: its mask lacks the lane itself",
    "read outside the mask": r"lane \d+, at __shfl_sync .*: reads from a lane that is not of its mask",
    "shuffle after return": r"__shfl_down_sync of mask 0xffffffff .*: its mask names lanes that have returned"
    r"|returned, and is waited for at __shfl_down_sync of mask 0xffffffff",
    "masks differ": r"returned, and is waited for at __syncwarp of mask 0xffffffff",
    "lanes apart": r"no thread can go on; 16 wait at __syncwarp of mask 0xffffffff \(.*\), the first of them "
    r"thread \(0, 0, 0\), lane 0; 16 wait at __syncwarp of mask 0xffffffff \(.*\), the first of them "
    r"thread \(16, 0, 0\), lane 16;",
    "missing lanes": r"__syncwarp of mask 0xffffffff .*: its mask names lanes that the block does not have",
    "divergent barrier": r"at __syncthreads .*: other threads of this block wait at __syncthreads",
    "barrier for some": r"thread \(\d+, 0, 0\).*returned, and is waited for at __syncthreads"
    r"|__syncthreads .*: thread \(\d+, 0, 0\) of this block has returned",
    "early return": r"thread \(\d+, 0, 0\) of this block has returned"
    r"|returned, and is waited for at __syncthreads",
    "odd width": r"__shfl_sync .*: the width is no power of two up to 32",
    "spinning": r"atomicAdd .*: too many in one block: does it wait for another block\?",
}
BY_RESULT = ["missing barrier", "missing second barrier", "missing syncwarp", "unwritten"]
BY_ADDRESS = {
    "shared overrun": r"heap-buffer-overflow .*planted\.cpp:\d+ in .*shared_overrun",
    "global overrun": r"heap-buffer-overflow .*planted\.cpp:\d+ in .*global_overrun",
    "misaligned": r"planted\.cpp:\d+.*misaligned address .*float4.* requires 16 byte alignment",
}
# Some of these leave the result as it is.
BY_RACE = [
    *("missing barrier", "missing second barrier", "missing syncwarp", "shuffle for syncwarp"),
    *("equal writes", "blocks race", "last block"),
]


@pytest.fixture(scope="module")
def plain() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build([PLANTED])))
    library.emulator_report.restype = ctypes.c_char_p
    library.emulator_float_atomics.restype = ctypes.c_ulonglong
    library.launch_of.argtypes = [ctypes.c_uint] * 3 + [ctypes.c_size_t]
    return library


def run_program(kind: str, case: str, planted: bool, seeds: int) -> subprocess.CompletedProcess[str]:
    command = [build([PLANTED], kind, program=True), case, str(int(planted)), str(seeds)]
    env = environment(kind)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)


def run_case(library: ctypes.CDLL, case: str, planted: bool, seed: int) -> int:
    return library.run_case(case.encode(), int(planted), ctypes.c_uint64(seed))


# ---- what is right


def test_correct_kernels_when_run_with_many_seeds_then_results_are_right(plain):
    for seed in range(100):
        assert run_case(plain, "correct", False, seed) == RIGHT, plain.emulator_report()


@pytest.mark.parametrize("kind", ["address", pytest.param("thread", marks=pytest.mark.long)])
def test_correct_kernels_when_checked_then_nothing_is_found(kind):
    done = run_program(kind, "correct", False, 3)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- what is wrong


@pytest.mark.parametrize("case", BY_SCHEDULER)
def test_launch_when_threads_wait_wrongly_then_it_fails_and_says_who_does_what_where(plain, case):
    for seed in range(10):
        assert run_case(plain, case, True, seed) == REFUSED
        report = plain.emulator_report().decode()
        assert re.search(BY_SCHEDULER[case], report), report
        assert re.match(
            r"void \w+<true>\(.*\), block \(0, 0, 0\)(, thread \(\d+, 0, 0\)|: no thread)", report
        )
        assert re.search(r"planted\.cpp:\d+\)", report)


@pytest.mark.parametrize("case", BY_RESULT)
def test_kernel_when_order_or_junk_matters_then_the_result_is_wrong_with_most_seeds(plain, case):
    assert sum(run_case(plain, case, True, seed) == WRONG for seed in range(20)) > 15


@pytest.mark.parametrize("case", BY_ADDRESS)
def test_access_when_out_of_bounds_or_misaligned_then_it_is_found_at_its_line(case):
    done = run_program("address", case, True, 1)
    assert done.returncode != 0
    assert re.search(BY_ADDRESS[case], done.stderr), done.stderr


@pytest.mark.parametrize("case", BY_RACE)
def test_race_when_it_may_leave_the_result_alone_then_it_is_found_with_both_threads(case):
    done = run_program("thread", case, True, 1)
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stderr
    named = re.findall(r"Thread T\d+ '(block \(\d+, 0, 0\) thread \(\d+, 0, 0\))'", done.stderr)
    assert len(set(named)) == 2
    assert re.search(r"planted\.cpp:\d+", done.stderr)


def test_launch_when_it_failed_then_the_next_one_is_as_good_as_new():
    for kind, case in (("address", "divergent barrier"), ("thread", "read outside the mask")):
        done = run_program(kind, f"{case}, then correct", True, 2)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_static_shared_memory_when_races_are_checked_then_it_does_not_compile(tmp_path):
    source = tmp_path / "static.cpp"
    source.write_text(
        '#include "cuda/device.cuh"\n__global__ void kernel() { __shared__ float tile[8]; tile[0] = 0; }\n'
    )
    with pytest.raises(AssertionError, match="use dynamic_shared<T>"):
        build([source], "thread")


# ---- order, launches, counters


def test_order_of_threads_when_the_seed_differs_then_it_differs_and_else_not(plain):
    def drawn(seed: int, blocks: int, threads: int) -> tuple[int, ...]:
        tickets = np.zeros(blocks * threads, np.uint32)
        plain.run_tickets(ctypes.c_uint64(seed), blocks, threads, tickets.ctypes.data_as(ctypes.c_void_p))
        assert sorted(tickets) == list(range(blocks * threads))
        return tuple(tickets)

    assert drawn(3, 4, 64) == drawn(3, 4, 64)
    assert len({drawn(seed, 1, 64) for seed in range(20)}) == 20
    # 24 orders of four blocks of one thread.
    assert len({drawn(seed, 4, 1) for seed in range(500)}) == 24


@pytest.mark.parametrize(
    "grid, threads, z, shared, error",
    [
        (1, 1024, 1, 0, 0),
        (1, 1025, 1, 0, 9),
        (1, 1, 65, 0, 9),
        (0, 32, 1, 0, 9),
        (1, 0, 1, 0, 9),
        (1, 32, 1, 227 * 1024, 0),
        (1, 32, 1, 227 * 1024 + 1, 1),
    ],
)
def test_launch_when_larger_than_a_device_allows_then_it_is_refused(plain, grid, threads, z, shared, error):
    assert plain.launch_of(grid, threads, z, shared) == error
    assert plain.cudaGetLastError() == error
    assert plain.cudaGetLastError() == 0


def test_float_atomics_when_run_then_they_are_counted(plain):
    before = plain.emulator_float_atomics()
    run_case(plain, "correct", False, 0)
    assert plain.emulator_float_atomics() == before
    plain.run_float_sum()
    assert plain.emulator_float_atomics() == before + 32


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_library_when_loaded_by_a_python_with_the_sanitizer_then_it_runs(kind):
    script = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).run_case(b'equal writes', 0, 1))"
    command, env = [sys.executable, "-c", script, build([PLANTED], kind)], environment(kind, library=True)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# ---- conversions


def converter(library: ctypes.CDLL, name: str) -> Callable[[np.ndarray], np.ndarray]:
    def convert(x: np.ndarray) -> np.ndarray:
        y = np.empty(x.shape, np.float32 if name.endswith("float") else np.uint16)
        pointers = (a.ctypes.data_as(ctypes.c_void_p) for a in (x, y))
        getattr(library, name)(*pointers, ctypes.c_size_t(x.size))
        return y

    return convert


@pytest.fixture(scope="module")
def conversions() -> ctypes.CDLL:
    return ctypes.CDLL(str(build([HERE / "conversions.cpp"])))


PATTERNS = np.arange(65536, dtype=np.uint16)
BFLOAT16S = (PATTERNS.astype(np.uint32) << 16).view(np.float32)


def floats_around(values: np.ndarray) -> np.ndarray:
    """Every finite value, halfway to the next, one float32 beside each, and everything of both signs."""
    finite = np.unique(values[np.isfinite(values)].astype(np.float64))
    exact = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2]).astype(np.float32)
    extremes = np.array(
        [65519.996, 65520, 3.3961775e38, 3.4028235e38, np.inf, np.nan, -np.nan, 1e-45], np.float32
    )
    patterns = np.arange(0, 1 << 32, 65521, dtype=np.uint32)  # 65521 is prime
    signalling = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7F80FFFF], np.uint32).view(np.float32)
    near = [np.nextafter(exact, side) for side in (np.float32(-np.inf), np.float32(np.inf))]
    return np.concatenate([exact, *near, extremes, patterns.view(np.float32), signalling])


def test_halves_when_converted_to_float_then_every_bit_is_exact(conversions):
    wanted = PATTERNS.view(np.float16).astype(np.float32)
    nan = np.isnan(wanted)
    wanted_bits = np.where(nan, np.uint32(0x7FFFFFFF), wanted.view(np.uint32))
    assert np.array_equal(converter(conversions, "half_to_float")(PATTERNS).view(np.uint32), wanted_bits)


def test_floats_when_converted_to_half_then_every_bit_is_exact(conversions):
    x = floats_around(PATTERNS.view(np.float16))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wanted = np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))
    assert np.array_equal(converter(conversions, "float_to_half")(x), wanted)


def test_bfloat16s_when_converted_to_float_then_the_bits_are_moved(conversions):
    assert converter(conversions, "bfloat16_to_float")(PATTERNS).tobytes() == BFLOAT16S.tobytes()


def test_floats_when_converted_to_bfloat16_then_every_bit_is_exact(conversions):
    x = floats_around(BFLOAT16S)
    magnitude = np.abs(x)
    # The two magnitudes next to it, in float64, where infinity stands for 2**128.
    below = magnitude.view(np.uint32) >> 16
    values = np.append(BFLOAT16S[:0x7F80].astype(np.float64), [2.0**128] * 2)
    low, high = values[np.minimum(below, 0x7F80)], values[np.minimum(below + 1, 0x7F81)]
    finite = np.where(np.isfinite(magnitude), magnitude, 0).astype(np.float64)
    up = (finite - low > high - finite) | ((finite - low == high - finite) & (below % 2 == 1))
    code = np.where(np.isfinite(magnitude), below + up, 0x7F80) | np.signbit(x).astype(np.uint32) << 15
    wanted = np.where(np.isnan(x), 0x7FFF, code).astype(np.uint16)
    assert np.array_equal(converter(conversions, "float_to_bfloat16")(x), wanted)


SMALL = {
    "e4m3": (3, -6, 448),
    "e5m2": (2, -14, 57344),
    "e2m3": (3, 0, 7.5),
    "e3m2": (2, -2, 28),
    "e2m1": (1, 0, 6),
}


@pytest.mark.parametrize("name", SMALL)
def test_floats_when_converted_to_a_small_float_then_the_code_is_that_of_qscale(conversions, name):
    mantissa_bits, min_exponent, largest = SMALL[name]
    x = floats_around(BFLOAT16S)  # twice as fine as needed
    nan = np.isnan(x)
    wanted = np.empty(x.shape, np.uint16)
    pointers = (a.ctypes.data_as(ctypes.c_void_p) for a in (x, wanted))
    grid = ctypes.c_int(mantissa_bits), ctypes.c_int(min_exponent), ctypes.c_float(largest)
    conversions.code_by_numerics(*pointers, ctypes.c_size_t(x.size), *grid)
    got = converter(conversions, f"float_to_{name}")(x)
    assert np.array_equal(got[~nan], wanted[~nan])
    assert set(got[nan]) == {0x7F if name in ("e4m3", "e5m2") else {"e2m1": 7}.get(name, 0x1F)}


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_fp8_when_converted_to_half_then_it_is_the_value_of_the_code(conversions, name):
    codes = np.arange(256, dtype=np.uint16)
    got = converter(conversions, f"{name}_to_half")(codes).view(np.float16)
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    wanted = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float16).numpy()
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    assert np.array_equal(got.view(np.uint16)[~np.isnan(wanted)], wanted.view(np.uint16)[~np.isnan(wanted)])


@pytest.mark.parametrize("kind", [0, 1], ids=["e4m3", "e5m2"])
def test_kernels_when_the_device_converts_then_the_bits_are_those_of_the_arithmetic_exact(kind):
    library = ctypes.CDLL(str(build([HERE / "casts.cpp"])))
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = [floats_around(values) for values in (PATTERNS.view(np.float16), BFLOAT16S)]
    x = np.concatenate([*halves, drawn, np.linspace(-500, 500, 1 << 16, dtype=np.float32)])
    for what, dtype in (("values", np.float32), ("codes", np.uint16)):
        found = [np.empty(x.shape, dtype) for _ in range(2)]
        for way, y in zip(("casts", "numerics"), found, strict=True):
            pointers = (a.ctypes.data_as(ctypes.c_void_p) for a in (x, y))
            getattr(library, f"{what}_by_{way}")(*pointers, ctypes.c_size_t(x.size), ctypes.c_int(kind))
        same = found[0].view(np.uint32 if what == "values" else np.uint16) == found[1].view(
            np.uint32 if what == "values" else np.uint16
        )
        assert np.all(same | (np.isnan(x) if what == "values" else False)), x[~same][:9]
        assert what == "codes" or np.all(np.isnan(found[0][np.isnan(x)]))


NVCC = shutil.which("nvcc") or shutil.which("nvcc", path=os.environ.get("CUDA_HOME", "") + "/bin")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH or in CUDA_HOME")


@needs_nvcc
def test_conversions_when_the_toolkit_makes_them_for_the_host_then_they_are_the_same(conversions, tmp_path):
    library = tmp_path / "conversions.so"
    host = ["-Xcompiler=-fPIC", f"-I{CSRC}", "-shared", "-cudart=none", HERE / "conversions.cpp"]
    subprocess.run([NVCC, "-std=c++17", *host, "-o", library], check=True, timeout=900)
    toolkit = ctypes.CDLL(str(library))
    x = np.concatenate([floats_around(values) for values in (PATTERNS.view(np.float16), BFLOAT16S)])
    for name, given in {
        "half_to_float": PATTERNS,
        "bfloat16_to_float": PATTERNS,
        "float_to_half": x,
        "float_to_bfloat16": x,
        "e4m3_to_half": np.setdiff1d(np.arange(256), [0x7F, 0xFF]).astype(np.uint16),
        "e5m2_to_half": np.arange(0x7D, dtype=np.uint16),
        **{f"float_to_{small}": x[~np.isnan(x)] for small in SMALL},
        "float_to_e4m3_or_nan": x[~np.isnan(x)],
        "float_to_e5m2_or_infinity": x[~np.isnan(x)],
    }.items():
        mine, theirs = converter(conversions, name)(given), converter(toolkit, name)(given)
        assert mine.tobytes() == theirs.tobytes(), name


@pytest.mark.long
@needs_nvcc
def test_kernels_when_compiled_by_nvcc_then_it_takes_them_too(tmp_path):
    command = [
        NVCC,
        "-std=c++17",
        "-arch=sm_90",
        "-x",
        "cu",
        f"-I{CSRC}",
        "-c",
        PLANTED,
        "-o",
        tmp_path / "planted.o",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
