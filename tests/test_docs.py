"""What the documents say is true, against the code. Their examples and links are in tests/documents."""

import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import qscale
from qscale.cli import main

ROOT = Path(__file__).parents[1]
STUDY, TRAINING_PAGE, SWEEPS, LAWS, FORMATS_PAGE, PTQ, PLANNING = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("study", "training", "sweeps", "laws", "formats", "ptq", "planning")
)
NUMBER = r"(?<![\w.])-?\d+\.?\d*(?:e[+-]?\d+)?"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(qscale.__path__, "qscale.")
    if module.name.rpartition(".")[2] not in ("__main__", "_C_cpu")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_say(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_some_docstring_examples_are_found():
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(bool(test.examples) for module in modules for test in finder.find(module)) > 15


def test_every_command_has_help_with_an_example():
    for name in main.list_commands(None):
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0
        assert f"Example: qscale {name}" in " ".join(shown.output.split())


def test_every_option_of_a_session_and_every_basis_is_documented():
    from typing import get_args, get_type_hints

    from qscale.cli.sweep import plan, run
    from qscale.sweep.forecast import Basis

    names = [name for each in (run, plan) for option in each.params for name in option.opts if "--" in name]
    kinds = get_args(get_type_hints(Basis)["kind"])
    assert len(names) > 12 and len(kinds) == 3
    assert [name for name in (*names, *kinds) if name not in SWEEPS] == []


def test_readme_study_file_is_valid():
    from qscale.sweep.grid import Study

    study = Study.read(ROOT / "examples" / "demo.yaml")
    assert study.warnings() == []
    assert len(study.runs("0" * 64)) == 28


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", STUDY, re.DOTALL))
def test_study_files_of_the_documents_are_valid(block):
    from qscale.sweep.grid import Study

    assert Study.parse(block).runs("0" * 64)


def test_reference_of_laws_names_every_form_law_and_derived_quantity():
    from qscale import laws

    functions = [name for name in laws.derived.__all__ if name[0].islower()]
    names = [*laws.forms.FORMS, *laws.list_published(), *functions]
    assert [name for name in names if f"`{name}`" not in LAWS] == []


def test_study_reference_names_every_key_and_column():
    from qscale.sweep.studyfile import KEYS
    from qscale.sweep.studyvalues import TRAINING
    from qscale.sweep.table import COLUMNS

    text = STUDY + TRAINING_PAGE
    names = (*KEYS, *TRAINING, *COLUMNS)
    assert [name for name in names if f"`{name}`" not in text and f"{name}:" not in text] == []


def test_table_of_formats_is_that_of_the_code():
    from qscale.formats import relmse, values
    from qscale.formats.grids import NAMED
    from qscale.planning import bits_per_weight

    rows = [row.split(" | ") for row in re.findall(r"^\| (`\w+` \| \d .*) \|$", FORMATS_PAGE, re.MULTILINE)]
    assert [row[0].strip("`") for row in rows] == list(NAMED)
    for name, *numbers in rows:
        row = NAMED[name.strip("`")]
        above = [value for value in values(row.name) if value > 0]
        spec = row.name if row.block else f"{row.name}:g32"
        sizes = [row.num_bits, len(values(row.name)), f"{above[0]:.3g}", f"{above[-1]:.3g}"]
        costs = [row.block or "any", f"{bits_per_weight(spec):g}", f"{relmse(spec):.2g}"]
        assert numbers == [str(number) for number in (*sizes, *costs)], name


def test_every_option_of_a_spec_quantizer_and_ready_made_recipe_is_documented():
    from qscale.formats.methods import METHODS
    from qscale.formats.presets import PRESETS
    from qscale.formats.spec import _OPTIONS

    assert [option for option in _OPTIONS if f"`{option}`" not in FORMATS_PAGE] == []
    assert [name for name in PRESETS if not re.search(rf"`{re.escape(name)}(:G)?`", FORMATS_PAGE)] == []
    assert [name for name in METHODS if not re.search(rf"^\| `{name}\b", TRAINING_PAGE, re.MULTILINE)] == []


def test_every_step_after_training_is_documented_with_its_parameters():
    from dataclasses import fields

    from qscale.ptq.methods import METHODS

    table = PTQ.partition("| step | kind |")[2].partition("\n\n")[0]
    rows = {
        name: row
        for names, row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*)$", table, re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    for name, step in METHODS.items():
        assert step.kind in rows[name], name
        for field in fields(step):
            assert f"`{field.name}={str(field.default).lower()}`" in rows[name], f"{name}: {field.name}"


def test_licence_and_citation_are_those_of_the_package():
    import yaml

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in project and f'license = "{citation["license"]}"' in project
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert citation["license"] == "Apache-2.0" and "Apache License" in licence and "Version 2.0" in licence


CONSOLE = {
    page: re.findall(r"^\$ qscale (.+)\n((?:(?!\$ |```).*\n)*)", text, re.MULTILINE)
    for page, text in (("laws", LAWS), ("planning", PLANNING))
}


@pytest.mark.parametrize("page", CONSOLE)
def test_commands_of_the_documents_print_what_is_said(page, tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "runs.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(CONSOLE[page]) >= 6
    for line, said in CONSOLE[page]:
        shown = CliRunner().invoke(main, shlex.split(line))
        assert shown.exit_code == 0, shown.output
        printed = re.sub(r"law written to \S+\n", "", shown.stdout)  # stderr, in older versions of click
        assert re.sub(NUMBER, "#", printed).split() == re.sub(NUMBER, "#", said).split(), line
        for one, other in zip(re.findall(NUMBER, printed), re.findall(NUMBER, said), strict=True):
            assert float(one) == pytest.approx(float(other), rel=0.03), f"{one} of {line}"


def test_every_status_and_warning_of_a_fit_is_documented():
    sources = [ROOT / "qscale" / "laws" / f"{name}.py" for name in ("diagnose", "fit_product", "fit_sum")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    codes = {
        code.replace("{name}", "E") for code in re.findall(r'"((?:\{name\}|[a-z]+)(?:_[a-z]+)+): ', text)
    }
    assert len(codes) >= 12
    assert [code for code in sorted(codes) if f"`{code}`" not in LAWS] == []
