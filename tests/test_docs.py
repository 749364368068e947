"""What the documents say is true: examples run, commands exist, links lead somewhere."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
SWEEPS = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
LAWS = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
PLANNING = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README + STUDY + LAWS + PLANNING, re.DOTALL)
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


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_of_the_documents_runs_and_prints_what_its_comments_say(block, capsys):
    exec(compile(block, "a block of the documents", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    remarks = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert len(printed) == len(remarks)
    for line, remark in zip(printed, remarks, strict=True):
        for said in re.findall(r"(?<!\w)\d+\.?\d*", remark):
            numbers = [float(n) for n in re.findall(r"\d+\.\d+|\d+", line)]
            places = len(said.partition(".")[2])
            assert float(said) in [round(n, places) for n in numbers], f"{remark!r} of {line!r}"


@pytest.mark.parametrize("text", [README, SWEEPS], ids=["readme", "sweeps"])
def test_commands_of_the_documents_exist_and_take_the_options_shown(text):
    lines = re.findall(r"^    qscale (.+?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        words = line.split()
        names = words[:2] if words[0] in ("sweep", "laws", "plan") else words[:1]
        shown = CliRunner().invoke(main, [*names, "--help"])
        assert shown.exit_code == 0, line
        for option in (word for word in words if word.startswith("-")):
            assert re.search(rf"(^|[\s,]){re.escape(option)}\b", shown.output), f"{option} of {line}"


def test_every_command_has_help_with_an_example():
    for name in main.list_commands(None):
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0
        assert f"Example: qscale {name}" in " ".join(shown.output.split())


@pytest.mark.parametrize("path", [Path("README.md"), Path("docs/sweeps.md"), Path("docs/study.md")], ids=str)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / path).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / path).parent.joinpath(link).exists()] == []


def test_every_option_of_a_session_and_every_basis_is_documented():
    from typing import get_args, get_type_hints

    from qscale.cli.sweep import plan, run
    from qscale.sweep.forecast import Basis

    names = [name for each in (run, plan) for option in each.params for name in option.opts if "--" in name]
    kinds = get_args(get_type_hints(Basis)["kind"])
    assert len(names) > 12 and len(kinds) == 3
    assert [name for name in (*names, *kinds) if name not in SWEEPS] == []


def test_batch_scripts_of_the_documents_are_there():
    names = re.findall(r"^    sbatch (?:--\S+ )*(\S+)", SWEEPS, re.MULTILINE)
    assert len(names) == 3 and all((ROOT / name).is_file() for name in names)


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

    assert [
        name for name in (*KEYS, *TRAINING, *COLUMNS) if f"`{name}`" not in STUDY and f"{name}:" not in STUDY
    ] == []


CONSOLE = re.findall(r"^\$ qscale (.+)\n((?:(?!\$ |```).*\n)*)", LAWS, re.MULTILINE)


def test_commands_of_the_documents_print_what_is_said(tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "runs.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(CONSOLE) >= 6
    for line, said in CONSOLE:
        shown = CliRunner().invoke(main, shlex.split(line))
        assert shown.exit_code == 0, shown.output
        printed = shown.stdout.replace("law written to law.json\n", "")  # stderr, in older versions of click
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
