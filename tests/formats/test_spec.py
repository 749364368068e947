"""QuantSpec: one grammar, text and JSON both ways, errors that name the cure."""

import json

import pytest
from hypothesis import given
from strategies import specs

from qscale.errors import SpecError
from qscale.formats import QuantSpec

CANONICAL = [
    "int4:g128",
    "int8:channel",
    "int4:g32:asym",
    "int2:g64:stochastic",
    "fp8_e4m3:g128",
    "fp8_e5m2:tensor",
    "fp4_e2m1:g32",
    "fp6_e2m3:g32",
    "mxfp4",
    "mxfp8_e4m3@ocp",
    "nvfp4@torchao",
    "nf4:g64",
    "int4:g128@torchao",
    "int8:token:asym@torchao",
    "int3:g7:asym:stochastic",
    "mxfp8_e4m3:rceil@torchao",
    "nvfp4:onelevel",
    "int4:g32:noclip@torchao",
    "mxfp4:away@microxcaling",
    "fp_e3m4:g64:away",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_text_round_trips(text):
    assert str(QuantSpec.parse(text)) == text


@given(specs())
def test_every_spec_round_trips_through_text_and_json(spec):
    assert QuantSpec.parse(str(spec)) == spec
    assert QuantSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_default_dialect_is_left_out_of_the_text():
    assert str(QuantSpec.parse("int4:g32@qscale")) == "int4:g32"


def test_json_uses_the_field_names_of_compressed_tensors():
    fields = QuantSpec.parse("int4:g128:asym").to_json()
    assert (fields["num_bits"], fields["type"], fields["symmetric"]) == (4, "int", False)
    assert (fields["strategy"], fields["group_size"]) == ("group", 128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9:g32", "unknown format 'int9'; did you mean 'int"),
        ("fp_e9m1:g32", "unknown format 'fp_e9m1'; .*fp_e<0-8>m<0-10>"),
        ("int4", "needs a granularity, such as int4:g128"),
        ("int4:g0", "needs a granularity, .*, not 'g0'"),
        ("int4:asym", "needs a granularity, .*int4:tensor$"),
        ("int4:g99999999999999999999", "1 to 2\\*\\*63"),
        (None, "not None"),
        ("int4:g32:asim", "did you mean 'asym'"),
        ("int4:g32:stochastic:asym", "in the order asym, .*stochastic"),
        ("mxfp4:floor:ceil", "one of a kind"),
        ("int4:g32:floor", "only MX formats"),
        ("mxfp4:onelevel", "only NVFP4"),
        ("int4:g32:asym:asym", "once"),
        ("int4:g32@torcao", "did you mean 'torchao'"),
        ("int4:g32@", "cannot be read"),
        ("", "cannot be read"),
        ("int4::g32", "cannot be read"),
        ("mxfp4:g32", "fixes its own block of 32"),
        ("nvfp4:channel", "fixes its own block of 16"),
        ("nf4:g64:asym", "only plain integer formats"),
        ("mxfp4@chen2025", "these do: qscale, torchao"),
        ("int4:g32:asym@chen2025", "with asym; these do: qscale, torchao"),
    ],
)
def test_text_that_cannot_be_read_says_why(text, message):
    with pytest.raises(SpecError, match=message):
        QuantSpec.parse(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "int4"}, "needs the field 'strategy'"),
        ({"format": "int4", "strategy": "group"}, "does not go with"),
        ({"format": "int4", "strategy": "channel", "num_bits": 8}, "has num_bits=4, not 8"),
        ({"format": "int4", "strategy": "channel", "groupsize": 8}, "did you mean 'group_size'"),
        ({"format": "int4", "strategy": "row"}, "granularity 'row'"),
        ({"format": "int4", "strategy": "group", "group_size": -1}, "a group has 1 to"),
    ],
)
def test_json_that_does_not_fit_says_why(fields, message):
    with pytest.raises(SpecError, match=message):
        QuantSpec.from_json(fields)


@pytest.mark.parametrize(("text", "length"), [("int4:g32", 32), ("int4:g512", 100), ("int4:channel", 100)])
def test_group_length_never_exceeds_the_axis(text, length):
    assert QuantSpec.parse(text).group_length(100) == length


def test_group_length_of_a_tensor_scale_is_an_error():
    with pytest.raises(SpecError, match="no group length"):
        QuantSpec.parse("int8:tensor").group_length(8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_int_arithmetic_by_dialect(bits):
    half = 2 ** (bits - 1)
    narrow = QuantSpec.parse(f"int{bits}:g32").int_arithmetic()
    full = QuantSpec.parse(f"int{bits}:g32@chen2025").int_arithmetic()
    assert (narrow.qmin, narrow.qmax, narrow.denominator) == (1 - half, half - 1, half - 1)
    assert (full.qmin, full.qmax, full.denominator) == (-half, half - 1, half)


@pytest.mark.parametrize("text", ["int4:g32:asym", "int4:g32:stochastic", "int4:g32@torchao", "nf4:g64"])
def test_int_arithmetic_of_what_has_no_kernel_yet_is_none(text):
    assert QuantSpec.parse(text).int_arithmetic() is None
