"""Tables in: every accepted kind, every bad row with its message."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from qscale.errors import LawError
from qscale.formats.recipe import without_span
from qscale.laws.forms import FORMS
from qscale.laws.table import read_table

FORM = FORMS["qat-unified"]
ROWS = [
    {"N": 2e4, "D": 1e6, "G": 32, "delta": 0.05, "delta_se": 0.001, "seed": 0},
    {"N": 2e4, "D": 4e6, "G": 16, "delta": 0.04, "delta_se": 0.001, "seed": 1},
    {"N": 2e5, "D": 4e6, "G": 32, "delta": 0.03, "delta_se": 0.002, "seed": 0},
]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def changed(row, **change):
    return [{**r, **change} if i == row else r for i, r in enumerate(ROWS)]


def test_every_kind_of_source_gives_the_same_hash(tmp_path):
    pandas = pytest.importorskip("pandas")
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    frame = pandas.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "t.parquet")
    arrays = {name: np.array(values) for name, values in columns(ROWS).items()}
    sources = [ROWS, arrays, frame, tmp_path / "t.csv", str(tmp_path / "t.parquet"), ROWS[::-1]]
    assert len({read_table(source, FORM).hash for source in sources}) == 1


def test_hash_changes_with_one_number():
    assert read_table(ROWS, FORM).hash != read_table(changed(1, delta=0.0400001), FORM).hash


def test_ladders_are_size_and_seed_or_the_column():
    assert len(set(read_table(ROWS, FORM).ladder)) == 3
    named = [{**row, "ladder": name} for row, name in zip(ROWS, "aab", strict=True)]
    assert len(set(read_table(named, FORM).ladder)) == 2
    bare = [{k: row[k] for k in ("N", "D", "G", "delta")} for row in ROWS]
    table = read_table(bare, FORM)
    assert len(set(table.ladder)) == 2
    assert "no column 'ladder' or 'seed'" in table.notes[0]


def test_diverged_rows_are_left_out_and_named():
    table = read_table(changed(1, diverged=True, delta=float("nan")), FORM)
    assert len(table) == 2
    assert table.notes[0] == "1 diverged rows left out: row 2"


def test_mode_and_recipe_select_rows():
    labels = (("ptq", "w4a4:g32"), ("cooldown", "w4a4:g16"), ("cooldown", "w4a16:g32"))
    rows = [{**row, "mode": m, "recipe": r} for row, (m, r) in zip(ROWS, labels, strict=True)]
    table = read_table(rows, FORM, mode="cooldown", recipe="w4a4")
    assert (len(table), table.mode, table.recipe) == (1, "cooldown", "w4a4")
    assert len(read_table(rows, FORM, mode="ptq", recipe="w4a4:g32")) == 1
    with pytest.raises(LawError, match=r"'mode' mixes cooldown \(2 rows\), ptq \(1 rows\).*mode='cooldown'"):
        read_table(rows, FORM)
    with pytest.raises(LawError, match=r"'recipe' mixes w4a16 \(1 rows\), w4a4 \(1 rows\).*recipe='w4a16'"):
        read_table(rows, FORM, mode="cooldown")
    with pytest.raises(LawError, match=r"no rows with mode='scratch'; the table has"):
        read_table(rows, FORM, mode="scratch")


@pytest.mark.parametrize(
    ("recipe", "bare"),
    [
        ("w4a4:g32", "w4a4"),
        ("w4a16:channel", "w4a16"),
        ("w=int4:g128:asym@torchao,a=fp8_e4m3:token", "w=int4:asym@torchao,a=fp8_e4m3"),
        ("w4a4:g64,rot=hadamard:128,down_proj.input=int8:g64", "w4a4,rot=hadamard:128,down_proj.input=int8"),
    ],
)
def test_recipe_without_granularity(recipe, bare):
    assert without_span(recipe) == bare


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"N": 1, "D": 1, "delta": 1}], "no column 'G' in the observations; columns: N, D, delta"),
        (changed(1, delta=None), "row 2: delta is missing"),
        (changed(1, delta="abc"), "row 2: delta='abc' is not a number"),
        (changed(0, delta=float("inf")), "row 1: delta=inf is not a finite number"),
        (changed(2, N=True), "row 3: N=True is not a finite number"),
        (changed(2, N=0), "row 3: N=0; .* above 0"),
        (changed(2, D=1e60), r"row 3: D=1e\+60; a fit takes magnitudes from 1e-50 to 1e\+50"),
        (changed(2, D=-4), "row 3: D=-4"),
        (changed(1, G=1), "row 2: G=1; .* above 1"),
        (changed(1, delta_se=-1), "row 2: delta_se=-1 is negative"),
        (changed(1, diverged="perhaps"), "row 2: diverged='perhaps' is neither"),
        (changed(1, ladder="a"), "row 1: ladder is missing"),
        ([], "no observations: the table is empty"),
        ({"N": [1, 2], "D": [1], "G": [2], "delta": [1]}, "columns differ in length: N 2, D 1"),
        ({"N": 1, "D": [1], "G": [2], "delta": [1]}, "column 'N' is 1; .* one array a column"),
        (7, "observations of type int: give a DataFrame"),
        ("no.csv", "no.csv: no such file"),
    ],
)
def test_bad_table_is_an_error_that_names_the_place(rows, message):
    with pytest.raises(LawError, match=message):
        read_table(rows, FORM)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("N,D,G,delta\n1,2,3\n", "row 1: 3 values for 4 columns"),
        ("N,D,G,N\n", "two columns named 'N'"),
        ('N,D\n"1,2', "cannot be read as CSV"),
    ],
)
def test_bad_csv_is_an_error(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(LawError, match=message):
        read_table(path, FORM)


def test_bad_parquet_and_unknown_suffix_are_errors(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_text("no")
    (tmp_path / "t.xlsx").write_text("no")
    with pytest.raises(LawError, match="cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet", FORM)
    with pytest.raises(LawError, match=r"a table is a \.csv or \.parquet file"):
        read_table(tmp_path / "t.xlsx", FORM)


def test_missing_and_zero_standard_errors_become_the_median_of_the_others():
    rows = [*ROWS, {**ROWS[0], "seed": 2, "delta_se": 0.0}, {**ROWS[0], "seed": 3, "delta_se": None}]
    table = read_table(rows, FORM)
    assert sorted(table.target_se) == [0.001, 0.001, 0.001, 0.001, 0.002]
    assert sorted(table.target_se_given) == [0, 0, 0.001, 0.001, 0.002]
    wanted = "delta_se is missing or 0 in rows 4, 5: 0.001 is used, the median of the others"
    assert table.notes == (wanted,)


@pytest.mark.parametrize("se", [0.0, None])
def test_standard_errors_stay_0_where_no_row_has_one(se):
    table = read_table([{**row, "delta_se": se} for row in ROWS], FORM)
    assert not table.target_se.any() and not table.notes


def test_exact_repeats_are_left_out_and_named():
    table = read_table([*ROWS, ROWS[0], ROWS[0]], FORM)
    assert table.hash == read_table(ROWS, FORM).hash and len(table) == 3
    assert table.notes == ("2 rows repeat another row exactly: left out: rows 4, 5",)


def test_equal_rows_of_another_seed_or_run_are_no_repeats():
    named = [{**row, "ladder": "a"} for row in (*ROWS, {**ROWS[0], "seed": 5})]
    assert len(read_table(named, FORM)) == 4
    runs = [{**row, "run_id": str(i)} for i, row in enumerate([*ROWS, ROWS[0]])]
    assert len(read_table(runs, FORM)) == 4


def test_mixed_corpora_are_refused_and_mixed_families_noted():
    rows = [{**row, "corpus": name, "family": name} for row, name in zip(ROWS, "aab", strict=True)]
    with pytest.raises(
        LawError, match=r"'corpus' mixes a \(2 rows\), b \(1 rows\); .* keep the rows of one corpus"
    ):
        read_table(rows, FORM)
    one = [{**row, "corpus": "a"} for row in rows]
    assert "2 values of 'family'" in " | ".join(read_table(one, FORM).notes)


@pytest.mark.parametrize("mode", ["baseline", None])
def test_baselines_are_left_out_with_a_note(mode):
    rows = [{**row, "mode": "cooldown", "recipe": "w4a4:g32"} for row in ROWS]
    rows.append({"N": 2e4, "D": 1e6, "G": None, "delta": None, "seed": 0, "mode": mode, "recipe": None})
    table = read_table(rows, FORM)
    assert (len(table), table.mode) == (3, "cooldown")
    assert "1 baseline rows left out: row 4" in table.notes


@pytest.mark.parametrize("name", ["mode", "recipe"])
def test_choosing_by_a_column_that_is_not_there_is_an_error(name):
    with pytest.raises(LawError, match=f"{name}='banana' cannot choose rows: .* no column '{name}'"):
        read_table(ROWS, FORM, **{name: "banana"})


def test_error_of_a_row_names_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("N,D,G,delta\n1,2,x,0.1\n")
    with pytest.raises(LawError, match=r"t\.csv: row 1: G='x' is not a number"):
        read_table(tmp_path / "t.csv", FORM)


def test_recipes_are_mixed_where_bits_are_a_variable_and_it_is_said():
    rows = [
        {"N": n, "D": 1e6, "G": g, "P": bits, "recipe": f"w{bits}a16:g{g}", "delta": 0.1 * 4.0**-bits}
        for n in (2e4, 2e5)
        for g in (16, 32)
        for bits in (3, 4)
    ]
    found = read_table(rows, FORMS["ptq-loglinear"])
    assert len(found) == 8
    assert "rows of 2 values of 'recipe' are fitted as one: w3a16, w4a16" in found.notes
    with pytest.raises(LawError, match="'recipe' mixes"):
        read_table(rows, FORM)
