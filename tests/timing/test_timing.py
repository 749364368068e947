"""What is timed, and against what: the calls do the same work, and every failure is told."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from bits import assert_same_bits

from qscale.errors import ConfigError, SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.timing import suite, tables
from qscale.timing.cases import SPECS, Case, Cell, cells
from qscale.timing.composites import composite
from qscale.timing.harness import measure, overhead
from qscale.timing.machine import describe
from qscale.timing.peers import PEERS, Peer, quiet
from qscale.timing.sizes import parse_size, size_text

CELLS = cells([8192])
BY_NAME = {cell.name: cell for cell in CELLS}
LIBRARIES = {peer.name: peer for peer in PEERS}


@pytest.mark.parametrize("text", ["1", "1000", "64Ki", "16Mi", "1Gi"])
def test_size_when_read_and_written_then_is_the_same(text):
    assert size_text(parse_size(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "64K", "1.5Mi", "Ki"])
def test_size_when_it_is_none_then_the_message_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match="write 65536, 64Ki or 16Mi"):
        parse_size(text)


def test_cells_when_a_pattern_is_given_then_hold_it():
    assert [cell.name for cell in cells([2**16], ["int4:g32/f"])] == ["int4:g32/float32/64Ki"]
    assert {cell.spec for cell in cells([2**16], ["mx*/bfloat16"])} == {"mxfp8_e4m3", "mxfp4", "mxint8"}


def test_cells_when_nothing_fits_then_the_message_shows_a_name():
    with pytest.raises(ConfigError, match="no case fits int5; cases are named like int4:g32/float32/64Ki"):
        cells([2**16], ["int5"])


def test_cells_when_a_spec_is_given_then_it_takes_the_place_of_all():
    assert [cell.name for cell in cells([4096], specs=["int3:g64"])] == [
        "int3:g64/float32/4Ki",
        "int3:g64/bfloat16/4Ki",
    ]
    with pytest.raises(SpecError, match="int33"):
        cells([4096], specs=["int33:g64"])


@pytest.mark.parametrize("name", BY_NAME)
def test_case_when_called_both_ways_then_gives_the_same_bits(name):
    case = BY_NAME[name].case()
    new = case.new()
    assert new.shape == case.x.shape
    case.copy()
    assert_same_bits(case.out, case.x)
    if case.into is not None:
        case.into()
        assert_same_bits(case.out, new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spec", [*SPECS, "fp4_bnb:g16", "mxfp6_e3m2", "fp_e3m4:channel", "int8:token"])
def test_composite_exact_when_values_are_normal_then_equals_fake_quant(spec, dtype):
    x = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    x = (x * torch.logspace(-3, 3, 16).unsqueeze(-1)).to(dtype)
    x[3], x[4, ::7] = 0.0, -0.0
    written = composite(QuantSpec.parse(spec), 512)
    assert_same_bits(written(x), fake_quant(x, spec))


@pytest.mark.parametrize(
    "spec", ["mxfp4:rceil", "int4:g32:away", "int4:g32@torchao", "int4:tensor", "int4:g48"]
)
def test_composite_when_it_would_be_other_arithmetic_then_there_is_none(spec):
    assert composite(QuantSpec.parse(spec), 512) is None


def served():
    """Every peer with each of the cases for which it has an operation, as names."""
    return [
        ("composite", SPECS),
        ("aten", ("int4:g32", "int4:g128", "int8:channel")),
        ("torchao", (*SPECS[:4], "mxfp8_e4m3", "mxfp4", "nvfp4")),
        ("bitsandbytes", ("nf4:g64",)),
    ]


@pytest.mark.parametrize(
    ("name", "spec"), [pytest.param(n, s, id=f"{n}-{s}") for n, specs in served() for s in specs]
)
def test_peer_when_it_serves_a_case_then_its_values_are_near_those_of_qscale(name, spec):
    peer = LIBRARIES[name]
    if peer.missing() is not None:
        pytest.skip(peer.missing())
    case = Cell(spec=spec, elements=8192).case()
    with quiet():
        y = peer.function(case)(case.x)
    assert (y.shape, y.dtype) == (case.x.shape, case.x.dtype)
    # Their errors are much alike: the same format, by another arithmetic.
    mine, theirs = ((case.new() - case.x).norm(), (y - case.x).norm())
    assert 0.8 < theirs / mine < 1.25


def test_peers_when_the_case_is_a_rotation_then_only_those_that_rotate_have_a_call():
    rotation = Cell(block=128, elements=8192).case()
    assert [peer.name for peer in PEERS if peer.function(rotation) is not None] == ["matmul"]
    torch.testing.assert_close(LIBRARIES["matmul"].function(rotation)(rotation.x), rotation.new())
    both = Cell(block=128, spec="int4:g128", elements=8192).case()
    assert [peer.name for peer in PEERS if peer.function(both) is not None] == ["unrotated"]
    assert_same_bits(LIBRARIES["unrotated"].function(both)(both.x), fake_quant(both.x, "int4:g128"))


def test_peer_when_not_installed_then_says_how_to_install_it():
    absent = Peer(name="absent", package="no_such_package", function=lambda _: None)
    assert absent.missing() == "no_such_package is not installed: pip install 'qscale[bench]'"


def broken(case: Case):
    def run(x):
        warnings.warn("not heard", stacklevel=1)
        logging.getLogger("a library").critical("not heard")
        raise ValueError("first line\nsecond line")

    return run


def test_timing_when_a_peer_raises_then_holds_its_reason(capsys):
    case = Cell(spec="int4:g32", elements=256).case()
    (found,) = suite.peer_timings(
        case, Peer(name="broken", package="torch", function=broken), 0.001, compile_peer=False
    )
    assert (found.error, found.median_s) == ("ValueError: first line", None)
    assert "raised ValueError: first line" in tables.line(found)
    assert "not heard" not in capsys.readouterr().err


def test_timing_when_peers_are_compiled_then_the_seconds_of_compiling_stand_apart(monkeypatch):
    monkeypatch.setattr(suite, "compiled", lambda function, _: (function, 1.5))
    case = Cell(spec="int4:g32", elements=256).case()
    plain, fast = suite.peer_timings(case, LIBRARIES["aten"], 0.001, compile_peer=True)
    assert (plain.call, plain.compile_s) == ("aten", None)
    assert (fast.call, fast.compile_s) == ("aten compiled", 1.5)
    assert tables.line(fast).endswith("compiled in 1.5 s")


def test_run_when_there_are_no_peers_then_times_the_calls_of_qscale_alone():
    chosen = [Cell(spec="int4:g32", elements=256), Cell(spec="int4:g128", block=128, elements=256)]
    found = list(suite.run(chosen, seconds=0.001, peers=False))
    assert [timing.call for timing in found] == ["into", "new", "new"]
    assert all(t.min_s <= t.median_s <= t.max_s and t.times_copy > 0 for t in found)


def test_measure_when_calls_are_short_then_takes_turns_and_drops_the_first_of_each():
    order = []
    found = measure({name: lambda name=name: order.append(name) for name in "ab"}, 1e-9)
    first, last = order.index("b"), len(order) - order[::-1].index("a")
    assert 0 < first < last < len(order)
    assert order.count("a") == order.count("b") == 3 + 3 * 6
    assert set(found) == {"a", "b"}


def test_overhead_when_called_then_is_the_best_mean():
    assert 0 < overhead(lambda: None, rounds=2, calls=10) < 1e-3


def test_threads_when_left_then_are_as_before():
    before = torch.get_num_threads()
    with suite.threads(before + 1):
        assert describe()["threads"] == before + 1
    assert torch.get_num_threads() == before


def timing(case, call, seconds, **more):
    times = {"min_s": seconds, "median_s": seconds, "max_s": seconds, "gigabytes_per_s": 2.0}
    return suite.Timing(case=case, call=call, **times, **more)


def test_markdown_when_a_run_has_peers_then_holds_tables_summary_and_reasons():
    run = [
        timing("a/float32/64Ki", "into", 1e-5, times_copy=1.5),
        timing("a/float32/64Ki", "new", 2e-5, times_copy=3.0),
        timing("a/float32/64Ki", "aten", 4e-4, times_qscale=20.0),
        timing("b/float32/64Ki", "new", 2e-5, times_copy=3.0),
        timing("b/float32/64Ki", "aten", 1e-4, times_qscale=5.0),
        suite.Timing(case="b/float32/64Ki", call="torchao", error="ValueError: no"),
    ]
    text = tables.markdown(describe(), run, [suite.Overhead(call="fake_quant", seconds=4e-6)])
    assert "| `a/float32/64Ki` | 10.0 | 10.0 | 10.0 | 2.0 | 1.50 | 20.0 | 3.00 |" in text
    assert "| `b/float32/64Ki` |  |  |  |  |  | 20.0 | 3.00 |" in text
    assert "| `b/float32/64Ki` | 5.00 | raised |" in text
    assert "- aten takes 5.00 to 20.0, middle 12.5 times as long as qscale; least at b/float32/64Ki" in text
    assert "- torchao raised ValueError: no (b/float32/64Ki)" in text
    assert "| fake_quant | 4.00 |" in text
