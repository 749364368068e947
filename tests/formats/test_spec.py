"""QuantSpec: one grammar, text and JSON both ways, errors that name the cure."""

import dataclasses
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
    "dint4:g32",
    "int4:b128",
    "mxfp4:b32",
    "nvfp4:b16:onelevel",
    "int4:g32:full",
    "int4:channel:asym:floatzero:stochastic",
    "int8:tensor:scale_input",
    "nf4:g64:scale_e8m0",
    "fp8_e4m3:b128:scale_bf16",
    "int4:g32:asym:scale_e4m3:onelevel:away",
    "fp_e0m4:token:scale_fp16",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_text_round_trips(text):
    assert str(QuantSpec.parse(text)) == text


# What each option sets, and nothing else.
FIELDS = {
    "asym": {"symmetric": False},
    "asym:floatzero": {"symmetric": False, "zero_point": "float"},
    "full": {"full_range": True},
    "scale_input": {"scale_dtype": "input"},
    "scale_fp16": {"scale_dtype": "float16"},
    "scale_bf16": {"scale_dtype": "bfloat16"},
    "scale_e4m3": {"scale_dtype": "e4m3"},
    "scale_e4m3:onelevel": {"scale_dtype": "e4m3", "tensor_scale": False},
    "scale_e8m0": {"scale_dtype": "e8m0"},
    "away": {"rounding": "away"},
    "stochastic": {"rounding": "stochastic"},
}


@pytest.mark.parametrize("option", FIELDS)
def test_options_are_fields(option):
    plain = QuantSpec.parse("int4:g32")
    assert QuantSpec.parse(f"int4:g32:{option}") == dataclasses.replace(plain, **FIELDS[option])


def test_squares_are_groups_with_rows():
    spec = QuantSpec.parse("int4:b64")
    assert (spec.strategy, spec.group_size, spec.group_length(1000)) == ("block", 64, 64)
    spec = QuantSpec.parse("mxfp4:b32")
    assert (spec.strategy, spec.group_size) == ("block", 32)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("nvfp4", True),
        ("nvfp4:onelevel", False),
        ("int4:g16:scale_e4m3", True),
        ("int4:g16:scale_e4m3:onelevel", False),
        ("int4:g16", False),
        ("mxfp4", False),
        ("nf4:g16:scale_e8m0", False),
    ],
)
def test_e4m3_scales_have_a_second_one_of_the_tensor(text, second):
    assert QuantSpec.parse(text).has_tensor_scale == second


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


def test_json_from_before_a_field_was_there_means_what_it_did():
    fields = {
        "format": "int4",
        "num_bits": 4,
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": 32,
        "scale_rule": None,
        "tensor_scale": True,
        "rounding": "stochastic",
        "dialect": "qscale",
    }
    assert QuantSpec.from_json(fields) == QuantSpec.parse("int4:g32:asym:stochastic")


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
        ("mxfp4:onelevel", "only E4M3 scales"),
        ("int4:g32:scale_fp16:onelevel", "only E4M3 scales"),
        ("int4:g32:floatzero", "only an integer format with asym"),
        ("int4:g32:asym:full", "only symmetric plain integers"),
        ("fp8_e4m3:g32:full", "only symmetric plain integers"),
        ("mxint8:asym", "only plain integer formats"),
        ("mxfp4:scale_e4m3", "has a type of its own for scales"),
        ("nvfp4:scale_fp16", "has a type of its own for scales"),
        ("int4:g32:scale_fp16:scale_bf16", "one of a kind"),
        ("int4:g32:scale_e4m3:scale_e8m0", "one of a kind"),
        ("int4:g32:away:stochastic", "one of a kind"),
        ("int4:g32:full:asym", "in the order asym, floatzero, full"),
        ("dint4:g32:stochastic", "codebooks have no ties"),
        ("nf4:g64:away", "codebooks have no ties"),
        ("dint_4:g32", "did you mean 'dint4'"),
        ("int4:g32:float_zero", "did you mean 'floatzero'"),
        ("int4:g32:scale_e4m", "did you mean 'scale_e4m3'"),
        ("int4:g32:scale_bfloat16", "did you mean 'scale_bf16'"),
        ("int4:g32:stochastik", "did you mean 'stochastic'"),
        ("int4:b0", "needs a granularity, .*, not 'b0'"),
        ("mxfp4:b16", "fixes its own block of 32: give no granularity, or b32"),
        ("int4:b32@chen2025", "square blocks \\(b32\\); these do: qscale"),
        ("int4:g32:full@chen2025", "with full; these do: qscale"),
        ("int4:g32:stochastic@torchao", "with stochastic; these do: qscale"),
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
        ({"format": "int4", "strategy": "block"}, "does not go with"),
        ({"format": "int4", "strategy": "channel", "group_size": 8}, "does not go with"),
        (
            {"format": "int4", "strategy": "channel", "zero_point": "float"},
            "only an integer format with asym",
        ),
        ({"format": "int4", "strategy": "channel", "tensor_scale": False}, "only E4M3 scales"),
        ({"format": "int4", "strategy": "channel", "scale_type": "e4m3"}, "did you mean 'scale_dtype'"),
        ({"format": "int4", "strategy": "channel", "type": "float"}, "has type='int', not 'float'"),
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


@pytest.mark.parametrize("bits", range(2, 9))
def test_int_arithmetic_by_option(bits):
    half = 2 ** (bits - 1)
    full, asym = (QuantSpec.parse(f"int{bits}:g32:{option}").int_arithmetic() for option in ("full", "asym"))
    assert (full.qmin, full.qmax, full.denominator) == (-half, half - 1, half - 0.5)
    assert (asym.qmin, asym.qmax, asym.denominator) == (0, 2 * half - 1, half - 0.5)


@pytest.mark.parametrize(
    "text", ["int4:g32@torchao", "int4:channel@aten", "mxint8", "fp_e0m4:g32", "nf4:g64"]
)
def test_int_arithmetic_of_what_is_not_an_integer_here_is_none(text):
    assert QuantSpec.parse(text).int_arithmetic() is None
