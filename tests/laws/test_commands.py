"""The commands fit, predict and laws: output, files, exit codes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from qscale import laws
from qscale.cli.fit import command as fit
from qscale.cli.laws import command as laws_command
from qscale.cli.predict import command as predict
from qscale.errors import FitError, LawError
from qscale.laws.lawfile import CHECKLIST


@pytest.fixture
def table(tmp_path, make_rows):
    rows = make_rows(0.02, 0.02, mode="scratch", recipe="w4a4:g32")
    path = tmp_path / "observations.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def losses(tmp_path):
    """Rows of a Chinchilla law, two of its columns under other names."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, 40), 10 ** rng.uniform(9, 12, 40)
    loss = (400 / n**0.34 + 1000 / d**0.33 + 1.7) * np.exp(0.003 * rng.standard_normal(40))
    path = tmp_path / "losses.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["params", "tokens", "loss", "ladder"])
        writer.writerows(zip(n, d, loss, np.arange(40) % 10, strict=True))
    return path


NAMES = ("--column", "N=params", "--column", "D=tokens")


def run(command, *args):
    try:
        runner = CliRunner(mix_stderr=False)  # click before 8.2 mixes the streams unless told not to
    except TypeError:
        runner = CliRunner()
    return runner.invoke(command, [str(arg) for arg in args])


def test_fit_prints_the_summary_and_writes_the_law(table, tmp_path):
    out = tmp_path / "law.json"
    result = run(fit, table, "--form", "qat-unified", "--out", out, "--mode", "scratch", "--recipe", "w4a4")
    assert result.exit_code == 0, result.output
    law = laws.load(out)
    assert result.stdout == law.summary() + "\n"
    assert result.stderr == f"law written to {out}\n"


def test_fit_json_is_the_law_file(table):
    result = run(fit, table, "--json", "--bootstrap", 100, "--fix", "gG=0.78")
    law = laws.Law.loads(result.stdout)
    assert law.fixed == {"gG": 0.78}
    assert len(law.draws_table.values) == 100


def test_fit_of_one_group_size_prints_no_constants_and_fails(table, tmp_path):
    lines = table.read_text().splitlines()
    kept = [lines[0], *(line for line in lines[1:] if line.split(",")[2] == "32")]
    table.write_text("\n".join(kept))
    result = run(fit, table, "--out", tmp_path / "law.json")
    assert isinstance(result.exception, FitError) and result.exception.exit_code == 1
    assert "not_identified: G has one value (32)" in str(result.exception)
    assert "was not written" in str(result.exception)
    assert "delta0" not in result.stdout
    assert not (tmp_path / "law.json").exists()


def test_fit_of_one_group_size_says_what_to_do(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.split(",")[2] == "32")]))
    assert "--fix gG=VALUE" in str(run(fit, table).exception)


def test_fit_of_mixed_modes_names_the_option_and_passes_over_baselines(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:40], *(line.replace("scratch", "cooldown") for line in lines[40:])]))
    error = run(fit, table).exception
    assert isinstance(error, LawError)
    assert f"{table}: column 'mode' mixes cooldown (25 rows), scratch (39 rows)" in str(error)
    assert "--mode cooldown" in str(error)
    table.write_text("\n".join([*lines, "74e6,10e9,,,0,baseline,"]))
    result = run(fit, table)
    assert result.exit_code == 0, result.output
    assert "note      1 baseline rows left out: row 65" in result.stdout


def test_fit_takes_the_options_of_the_library(losses):
    result = run(
        fit, losses, "--form", "chinchilla", *NAMES, "--objective", "l2", "--tie", "beta=alpha",
        "--bound", "E=1:2", "--prior", "alpha=0.34:0.05", "--resample", "case", "--bootstrap", 50, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    law = laws.Law.loads(result.stdout)
    assert law == laws.fit(
        losses, "chinchilla", columns={"N": "params", "D": "tokens"}, objective="l2", tie={"beta": "alpha"},
        bounds={"E": (1, 2)}, prior={"alpha": (0.34, 0.05)}, resample="case", bootstrap=50,
    )  # fmt: skip
    assert law.parameters["alpha"] == law.parameters["beta"]
    assert law.draws_table.method == "case bootstrap"


def test_fit_borrows_the_exponents_of_a_law_file(losses, tmp_path):
    lender = tmp_path / "lender.json"
    common = (losses, "--form", "chinchilla", *NAMES, "--bootstrap", 50)
    assert run(fit, *common, "--out", lender).exit_code == 0
    law = laws.Law.loads(run(fit, *common, "--borrow", lender, "--json").stdout)
    assert set(law.fit["prior"]) == {"alpha", "beta"}
    error = run(fit, *common, "--borrow", "hoffmann2022/chinchilla").exception
    assert isinstance(error, LawError) and "has no draws" in str(error)


def test_fit_with_restrictions_of_one_term_asks_for_an_objective(table):
    error = run(fit, table, "--prior", "gN=0.2:0.05").exception
    assert isinstance(error, LawError) and "--objective l2" in str(error)
    result = run(fit, table, "--prior", "gN=0.2:0.05", "--objective", "l2", "--bootstrap", 50)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--fix", "gG=x"), "such as gG=0.78"),
        (("--fix", "gG=inf"), "'inf' is not finite"),
        (("--fix", "gG=1", "--fix", "gG=2"), "'gG' is given twice"),
        (("--tie", "beta"), "'beta' is not NAME=VALUE, such as beta=alpha"),
        (("--bound", "alpha=0.1"), "two numbers are needed"),
        (("--bound", "alpha=0.1:x"), "such as alpha=0.1:0.6"),
        (("--prior", "gN=0.2:nan"), "'nan' is not finite"),
        (("--column", "params"), "such as N=params"),
        (("--resample", "rows"), "'cluster', 'case', 'wild'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_fit_option_that_cannot_be_read_is_bad_usage(table, args, message):
    result = run(fit, table, *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--objective", "l3", "--bootstrap", "50"), "objective 'l3': wanted l2, huber, lad or student"),
        (("--objective", "l2", "--bound", "gN=0.6:0.1"), "gN from 0.6 to 0.1 is empty"),
        (("--objective", "l2", "--tie", "gX=gN"), "'gX' is not an exponent"),
        (("--column", "N=size"), "no column 'size' for N"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_fit_option_that_does_not_fit_the_form_is_a_law_error(table, args, message):
    error = run(fit, table, *args).exception
    assert isinstance(error, LawError) and error.exit_code == 2
    assert message in str(error)


def test_fit_with_a_negative_seed_is_a_law_error(table):
    error = run(fit, table, "--seed", -1).exception
    assert isinstance(error, LawError) and "seed=-1" in str(error)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_level_outside_zero_to_one_is_bad_usage_also_without_draws(table, level):
    point = ("-N", "7B", "-D", "2T", "-G", 128)
    for result in (
        run(predict, "chen2025/w4a4", *point, "--level", level),
        run(fit, table, "--level", level),
    ):
        assert result.exit_code == 2 and "Invalid value for '--level'" in result.stderr


def test_fit_of_a_folder_reads_the_study(tmp_path, make_rows, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qscale.sweep.table.observations", lambda path, **_: asked.append(path) or make_rows(0.02, 0.02)
    )
    result = run(fit, tmp_path)
    assert result.exit_code == 0, result.output
    assert asked == [tmp_path]


@pytest.mark.parametrize(
    "args", [["no-such-file.csv"], [], [".", "--fix", "gG"], [".", "--bootstrap", "x"]], ids=str
)
def test_fit_bad_usage_is_exit_code_2(args):
    result = run(fit, *args)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_predict_prints_value_and_flags_extrapolation():
    result = run(predict, "chen2025/w4a4", "-N", "7B", "-D", "2T", "-G", 128)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "delta = 0.04177 nats per token\nextrapolation: outside the fitted box in N 11.8 times, D 20 times\n"
    )
    assert result.stderr.startswith("no interval")


def test_predict_gives_the_band_of_a_fitted_law(table, tmp_path):
    run(fit, table, "--out", tmp_path / "law.json")
    args = (tmp_path / "law.json", "-N", "145M", "-D", "2e10", "-G", "128")
    text = run(predict, *args)
    assert "90% interval: 0.0" in text.stdout
    assert "extrapolation" not in text.stdout
    found = json.loads(run(predict, *args, "--json", "--level", "0.5").stdout)
    assert found["interval"]["level"] == 0.5
    assert found["interval"]["low"] < found["value"] < found["interval"]["high"]
    assert found["times_outside"] == {"N": 1.0, "D": 1.0, "G": 1.0}


def test_predict_of_a_run_has_a_wider_band_and_says_so(table, tmp_path):
    run(fit, table, "--out", tmp_path / "law.json")
    args = (tmp_path / "law.json", "-N", "145M", "-D", "2e10", "-G", "128")
    assert "90% interval of a new run: 0.0" in run(predict, *args, "--band", "run").stdout
    mean, one = (json.loads(run(predict, *args, "--json", "--band", band).stdout) for band in ("mean", "run"))
    assert json.loads(run(predict, *args, "--json").stdout) == mean
    assert (
        one["interval"]["low"] < mean["interval"]["low"] < mean["interval"]["high"] < one["interval"]["high"]
    )


@pytest.mark.parametrize("text", ["7 billion", "B", "-3", "1..2", " ", "nan", "7X"])
def test_bad_count_is_exit_code_2(text):
    result = run(predict, "chen2025/w4a4", f"-N{text}", "-D", "2T", "-G", 128)
    assert result.exit_code == 2
    assert "Invalid value for '-N'" in result.stderr


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        (("panferov2025/quest", "-N", "100M", "-D", "10B", "--at", "P=4"), "loss = 2.957 nats per token"),
        (("panferov2025/quest", "-N", "100M", "-D", "10B", "--at", "P=fp4"), "loss = 2.972 nats per token"),
        (
            ("sun2025/fp", "-N", "1B", "-D", "100B", "--at", "E=2", "--at", "M=1", "--at", "B=128"),
            "loss = 2.598",
        ),
        (("muennighoff2023/repetition", "-N", "6.34B", "-D", "242B", "--at", "U=25B"), "loss = 2.226"),
        (("li2025/farseer", "-N", "1B", "-D", "20B"), "loss = 0.5394 bits per character"),
        (("dremov2025/qat-fraction", "--at", "S=100"), "fraction = 0.2319\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_predict_takes_any_variable_and_prints_the_unit_of_the_law(args, printed):
    assert run(predict, *args).stdout.startswith(printed)


@pytest.mark.parametrize("text", ["P", "P=", "=4"])
def test_variable_without_a_value_is_bad_usage(text):
    result = run(predict, "panferov2025/quest", "-N", "100M", "-D", "10B", "--at", text)
    assert result.exit_code == 2 and "is not NAME=VALUE" in result.stderr


def test_predict_without_a_variable_is_a_law_error():
    result = run(predict, "chen2025/w4a4", "-N", "7B")
    assert isinstance(result.exception, LawError) and "needs D" in str(result.exception)


def test_laws_list_names_every_published_law():
    text = run(laws_command, "list").stdout
    assert [line.split()[0] for line in text.splitlines()] == laws.list_published()
    rows = json.loads(run(laws_command, "list", "--json").stdout)
    assert [row["id"] for row in rows] == laws.list_published()


def test_laws_show_prints_the_summary_or_the_file():
    law = laws.load("chen2025/w4a4")
    assert run(laws_command, "show", law.name).stdout == law.summary() + "\n"
    assert laws.Law.loads(run(laws_command, "show", law.name, "--json").stdout) == law


def test_laws_show_names_the_levels_and_the_unit_of_a_law():
    assert "P of 1 2 3 4 8 16 fp4 sparse-int4" in run(laws_command, "show", "panferov2025/quest").stdout
    assert "gives     loss, bits per character" in run(laws_command, "show", "li2025/farseer").stdout
    assert "gives" not in run(laws_command, "show", "chen2025/w4a4").stdout


def test_laws_compare_prints_scores_and_the_paired_difference(losses):
    result = run(laws_command, "compare", losses, "chinchilla", "chinchilla-tied", *NAMES)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["form", "parameters", "rms", "aicc", "bic", "error", "left", "out", "status"]
    assert {line.split()[0]: line.split()[1] for line in lines[1:3]} == {
        "chinchilla": "5",
        "chinchilla-tied": "4",
    }
    assert " less " in lines[3] and "90% interval" in lines[3]


def test_laws_compare_json_is_the_comparison_of_the_library(losses):
    args = ("compare", losses, "chinchilla", "chinchilla-tied", *NAMES, "--objective", "lad", "--json")
    found = json.loads(run(laws_command, *args).stdout)
    columns = {"N": "params", "D": "tokens"}
    wanted = laws.compare(losses, ["chinchilla", "chinchilla-tied"], objective="lad", columns=columns)
    assert [(s["form"], s["left_out"]) for s in found["scores"]] == [
        (s.form, s.left_out) for s in wanted.scores
    ]
    pair = found["paired"]
    assert (pair["difference"], pair["low"], pair["high"], pair["share_of_draws_below_0"]) == (
        wanted.difference(pair["first"], pair["second"])
    )


def test_laws_compare_says_whether_the_two_are_told_apart(table, losses):
    assert "apart" not in run(laws_command, "compare", table, "qat-unified", "qat-power").stdout
    args = ("compare", losses, "chinchilla", "chinchilla-tied", *NAMES, "--level", "0.999")
    assert "these runs do not tell the two apart" in run(laws_command, *args).stdout


@pytest.mark.parametrize("forms", [("chinchilla",), ("chinchilla", "chinchilla")], ids=len)
def test_laws_compare_of_one_form_is_bad_usage(losses, forms):
    result = run(laws_command, "compare", losses, *forms)
    assert result.exit_code == 2 and "two forms or more" in result.stderr


def test_forms_that_the_rows_do_not_determine_are_not_compared(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.split(",")[2] == "32")]))
    for args in (
        ("compare", table, "qat-unified", "qat-power"),
        ("sensitivity", table, "qat-unified"),
        ("profile", table, "qat-unified", "gN"),
    ):
        error = run(laws_command, *args).exception
        assert isinstance(error, FitError) and "G has one value (32)" in str(error)
    assert run(laws_command, "profile", table, "qat-unified", "gN", "--fix", "gG=0.78").exit_code == 0


def test_laws_check_names_what_is_filled_and_missing(table, tmp_path):
    path = tmp_path / "law.json"
    run(fit, table, "--out", path)
    result = run(laws_command, "check", path)
    assert result.exit_code == 0, result.output
    assert "\n  ok objective\n" in result.stdout and "\n  -- principles\n" in result.stdout
    assert "\nwarning: few_ladders: 4 ladders" in result.stdout
    found = json.loads(run(laws_command, "check", path, "--json").stdout)
    assert sorted(found["filled"] + found["missing"]) == sorted(CHECKLIST)
    assert found["warnings"] == list(laws.load(path).warnings)
    assert f"checklist: {len(found['filled'])} of 24 items" in result.stdout


def test_laws_check_of_a_law_that_must_not_be_used_fails(table, tmp_path):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.split(",")[2] == "32")]))
    path = tmp_path / "law.json"
    laws.fit(table).to_json(path)
    result = run(laws_command, "check", path, "--json")
    assert isinstance(result.exception, FitError) and result.exception.exit_code == 1
    assert "do not use this law: not_identified" in str(result.exception)
    assert json.loads(result.stdout)["usable"] is False


def test_laws_sensitivity_is_the_table_of_the_library(losses):
    wanted = laws.sensitivity(losses, "chinchilla", columns={"N": "params", "D": "tokens"})
    result = run(laws_command, "sensitivity", losses, "chinchilla", *NAMES)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + len(wanted)
    assert result.stdout.split()[:4] == ["objective", "outliers", "rows", "A"]
    args = ("sensitivity", losses, "chinchilla", *NAMES, "--json")
    assert json.loads(run(laws_command, *args).stdout) == wanted


def test_laws_profile_prints_the_interval_of_the_library(losses):
    args = ("profile", losses, "chinchilla", "alpha", *NAMES, "--level", "0.95")
    found = json.loads(run(laws_command, *args, "--json").stdout)
    wanted = laws.profile(losses, "chinchilla", "alpha", columns={"N": "params", "D": "tokens"})
    assert (found["low"], found["high"]) == wanted.interval(0.95)
    assert found["at"] == wanted.at.tolist()
    text = run(laws_command, *args).stdout
    assert text == (
        f"alpha = {found['best']:.4g}, 95% profile interval: {found['low']:.4g} to {found['high']:.4g}\n"
    )


def test_laws_profile_says_which_end_is_open(tmp_path):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 2e7, 4), np.geomspace(1e9, 2e9, 4)))
    loss = (400 / n**0.34 + 1000 / d**0.33 + 1.7) * (1 + 0.003 * np.sin(np.arange(16) ** 2))
    path = tmp_path / "narrow.csv"
    np.savetxt(path, np.column_stack([n, d, loss]), delimiter=",", header="N,D,loss", comments="")
    text = run(laws_command, "profile", path, "chinchilla", "E").stdout
    assert "profile interval: open to" in text
    assert "profile_open_interval: the runs do not bound E below" in text
    assert json.loads(run(laws_command, "profile", path, "chinchilla", "E", "--json").stdout)["low"] is None


def test_laws_suggest_lists_the_runs_of_the_library_within_the_budget(table, tmp_path):
    path = tmp_path / "law.json"
    laws.fit(table, bootstrap=200).to_json(path)
    args = ["--at", "N=7B", "--at", "D=2T", "--at", "G=128", "--budget", "1e21", "--noise", "0.02"]
    args += ["--try", "N=600M,1.2B", "--try", "D=100B", "--try", "G=32,128"]
    result = run(laws_command, "suggest", path, *args, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    runs = [{"N": n, "D": 1e11, "G": g} for n in (6e8, 1.2e9) for g in (32.0, 128.0)]
    wanted = laws.suggest_runs(laws.load(path), 1e21, runs, noise=0.02, N=7e9, D=2e12, G=128)
    assert [each["run"] for each in found["runs"]] == [each.run for each in wanted]
    assert sum(each["flops"] for each in found["runs"]) <= 1e21
    sds = [found["sd"], *(each["sd"] for each in found["runs"])]
    assert sds == sorted(sds, reverse=True)
    assert len(sds) > 2
    text = run(laws_command, "suggest", path, *args).stdout.splitlines()
    assert text[0].startswith("relative s.d. of the prediction: ")
    assert text[1].split() == ["N", "D", "G", "FLOPs", "s.d.", "then"]
    assert len(text) == 2 + len(wanted)
    none = run(laws_command, "suggest", path, *args, "--budget", "1")
    assert "the budget holds none of the runs" in none.stdout


def test_laws_suggest_with_a_value_that_is_no_number_is_bad_usage():
    result = run(laws_command, "suggest", "x", "--at", "N=many", "--try", "N=1B", "--budget", "1")
    assert result.exit_code == 2
    assert "wanted a text such as N=7B" in result.stderr


def test_fit_with_cell_effects_says_how_much_cells_differ(tmp_path, make_joint_rows):
    path = tmp_path / "runs.csv"
    rows = make_joint_rows(cell_sd=0.01, row_sd=0.0005)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = run(fit, path, "--form", "joint-table", "--cell-effects", "--bootstrap", "50")
    assert result.exit_code == 0, result.output
    assert "from cell to cell" in result.output


def test_laws_compare_reads_a_study_as_fit_does(tmp_path, make_rows, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qscale.sweep.table.observations", lambda path, **_: asked.append(path) or make_rows(0.02, 0.02)
    )
    result = run(laws_command, "compare", tmp_path, "qat-unified", "qat-power")
    assert result.exit_code == 0, result.output
    assert asked == [tmp_path]


@pytest.mark.parametrize("command", [fit, predict, laws_command, *laws_command.commands.values()])
def test_help_ends_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example: qscale" in result.stdout.strip().splitlines()[-1]
