"""Every line of shell of every page: run, small, or named here with the reason why it is not.

The files that the pages name are small ones here. `study.yaml` and `examples/demo.yaml` are a study of
seconds, `my-model` a model with its first weights, `text` some of the package's own source. `qscale sweep
run study.yaml --out study` is run once, before all pages: each begins with what it has made, and where a
page says it, it finds nothing left to do. Laws are fitted to another `study`, of the runs of
`examples/demo.yaml` with deltas made up from a law: those of seconds of training follow none.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from documents.pages import PAGES, ROOT, indented, text_of
from sweep.studies import finish, identities

from qscale.cli import main
from qscale.formats import Recipe
from qscale.laws import load
from qscale.sweep.store import Store

STUDY = """\
corpus: file:text
sizes: [tiny-20k]
tokens: [16k]
recipes: [w4a4]
group_sizes: [32]
decompose: [operands]
workers: 1
training: {batch_sequences: 4, context: 32, warmup_steps: 5, eval_windows: 16}
"""
#: What makes a line one of seconds: what it says, and what is run.
SMALLER = (
    (r"^train ", "train --corpus file:text --batch-sequences 4 --context 32 --eval-windows 16 "),
    (r"--tokens \S+", "--tokens 16k"),
    (r"^ptq (?!.*--corpus)", "ptq --corpus file:text "),
    (r"^ptq ", "ptq --windows 4 --eval-windows 16 "),
    (r"^bench", "bench --no-peers --seconds 0.001"),
    (r"^(bench.*)--sizes \S+", r"\1--sizes 4Ki"),
    (r"^(bench(?!.*--sizes).*)", r"\1 --sizes 4Ki --only int4"),
    (r" > \S+$", ""),
)
#: What is not run, and why. Its commands and options are checked all the same.
NOT_RUN = {
    r"make ": "the whole of it: minutes; this is a part of `make test`",
    r"pip install ": "another environment; test_packaging.py installs the wheel",
    r"qscale sweep run (\S+ )*--executor ray": "a Ray cluster; sweep/test_ray.py has one",
    r"ray start ": "the same",
    r"sbatch ": "Slurm; sweep/test_slurm.py has stand-ins",
    r"accelerate launch |torchrun ": "two processes, large models; training/test_sharding.py has small ones",
    r"qscale sweep run (examples/formats|benchmarks/ptq)\.yaml": "60 and 1,035 runs",
    r"qscale fit formats ": "a law of those 60 runs",
    r"qscale ptq --model small/runs/0123456789abcdef ": "an id that stands for another",
    r"for study in ": "272 runs",
    r"python (benchmarks|examples)/\S+\.py|\.venv/bin/python benchmarks/": "minutes: faults, timing, tables",
    r"(\w+=\S+ )?(\.venv/bin/python -m )?pytest ": "tests of their own",
}
#: First words of a line that is a command; another one is a form, or what a command prints.
PROGRAMS = (
    r"(?:\w+=\S+ )*(qscale|make|pip|python|\.venv/bin/python|pytest|ray|sbatch|accelerate|torchrun|for)\b"
)
#: Indented blocks that are no commands begin so.
PRINTED = ("qat-unified: ", "noise: ", "format[:granularity]")
NEEDS_A_LAW = ("fit", "laws", "predict", "report")


def shell_of(page):
    """The commands of a page, each with what is behind it taken off."""
    return [line for block in indented(page) for line in block if re.match(PROGRAMS, line)]


COMMANDS = {page: lines for page in PAGES if (lines := shell_of(page))}


def run(words, line):
    """In this process, but for what starts workers."""
    if words[:2] == ["sweep", "run"]:
        command = [sys.executable, "-m", "qscale", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, f"{line}\n{done.output}"


def reason_not_to_run(line):
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, line)), None)


def smaller(line):
    """The words of a line that is run, after `qscale`."""
    text = line.removeprefix("qscale ").strip()
    for pattern, instead in SMALLER:
        text = re.sub(pattern, instead, text)
    return shlex.split(text)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Files that the pages name, and the study, run."""
    from qscale.models.families import build
    from qscale.models.ladder import shape_of

    folder = tmp_path_factory.mktemp("shell")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSCALE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        sources = sorted((ROOT / "qscale" / "laws").glob("*.py"))
        (folder / "text").mkdir()
        for source in sources:  # one document each: some are held out
            shutil.copy(source, folder / "text" / f"{source.stem}.txt")
        shutil.copytree(ROOT / "examples", folder / "examples")
        for name in ("study.yaml", "examples/demo.yaml"):
            (folder / name).write_text(STUDY)
        build(shape_of("tiny-20k"), context=32, seed=0).save_pretrained(folder / "my-model")
        run(["sweep", "run", "study.yaml", "--out", "study"], "the study of the pages")
        yield folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A study folder as of the demo, its deltas made up: a law, and 5 % of noise."""
    text = (ROOT / "examples" / "demo.yaml").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("fitted")
    shutil.copytree(ROOT / "examples", folder / "examples")
    store = Store.create(folder / "study", text)
    store.begin(identities(text))
    law, noise = load("chen2025/w4a4"), np.random.RandomState(0)
    for config in store.runs():
        G = None if config.recipe is None else float(Recipe.parse(config.recipe).weight.group_size)
        delta = None if G is None else float(law.predict(N=config.model.N, D=config.tokens, G=G))
        finish(store, config, G=G, delta=delta and delta * (1 + 0.05 * noise.standard_normal()))
    return folder


@pytest.mark.parametrize("page", COMMANDS)
def test_commands_of_a_page_run_in_their_order(page, first, fitted, tmp_path, monkeypatch):
    trained, of_laws = tmp_path / "trained", tmp_path / "of-laws"
    for folder, origin in ((trained, first), (of_laws, fitted)):
        shutil.copytree(origin, folder)
    monkeypatch.setenv("QSCALE_CACHE", str(first / "cache"))
    for line in COMMANDS[page]:
        if not line.startswith("qscale ") or reason_not_to_run(line):
            continue
        words = smaller(line)
        law = words[0] in NEEDS_A_LAW and "layers" not in words
        monkeypatch.chdir(of_laws if law else trained)
        if law and "runs.csv" in words and not (of_laws / "runs.csv").exists():  # the page has exported it
            run(["sweep", "export", "study", "--out", "runs.csv"], line)
        run(words, line)


def options_of(words):
    """What a command of qscale takes, by its help."""
    names = words[:2] if words[0] in ("sweep", "laws", "plan") else words[:1]
    shown = CliRunner().invoke(main, [*names, "--help"])
    assert shown.exit_code == 0, " ".join(words)
    return shown.output


def check_qscale(words, line):
    text = options_of(words)
    for option in (word for word in words if re.match(r"-{1,2}[a-zA-Z]", word)):
        assert re.search(rf"(^|[\s,/]){re.escape(option.partition('=')[0])}\b", text), f"{option} of {line}"


def check_script(words, line):
    """The script is there, and names the options shown."""
    script, *rest = words
    text = (ROOT / script).read_text(encoding="utf-8")
    ast.parse(text)
    assert [word for word in rest if word.startswith("--") and f'"{word}"' not in text] == [], line


@pytest.mark.parametrize("page", COMMANDS)
def test_what_is_not_run_is_there(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in COMMANDS[page]:
        if not line.startswith("qscale "):
            assert reason_not_to_run(line), f"{page}: {line!r} is neither run nor named in NOT_RUN"
        words = shlex.split(re.sub(r" > \S+$", "", line))
        words = words[next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        elif words[0] == "sbatch":
            assert (ROOT / next(word for word in words if word.endswith(".sh"))).is_file()
        elif words[0] == "pytest" or words[1:3] == ["-m", "pytest"]:
            places = [word for word in words if "/" in word and "python" not in word] + words[1:2]
            assert all((ROOT / place).exists() for place in places if "-" not in place), line
        elif words[0].endswith("python"):
            check_script(words[1:], line)
        elif "qscale" in words:
            check_qscale(words[words.index("qscale") + 1 :], line) if "for" not in words[0] else None


def test_every_reason_and_every_rule_is_of_use():
    lines = [line for page in COMMANDS for line in COMMANDS[page]]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, line) for line in lines)] == []
    texts = [line.removeprefix("qscale ") for line in lines if not reason_not_to_run(line)]
    assert [pattern for pattern, _ in SMALLER if not any(re.search(pattern, text) for text in texts)] == []
    run = [line for line in lines if line.startswith("qscale ") and not reason_not_to_run(line)]
    assert len(run) >= 35


@pytest.mark.parametrize("page", PAGES)
def test_indented_blocks_are_commands_or_known_output(page):
    for block in indented(page):
        head = block[0].strip()
        listed = re.search(rf"^(?:[-*]|\d+\.) .*\n(?:.*\n)*? *{re.escape(head)}", text_of(page), re.MULTILINE)
        assert re.match(PROGRAMS, head) or head.startswith(PRINTED) or listed, f"{page}: {head!r}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist_and_take_the_options_shown(page):
    for line in re.findall(r"`qscale ([a-z][^`]*)`", text_of(page).replace("\n", " ")):
        words = line.split()
        if words[0] in main.list_commands(None):
            check_qscale(words, line)
