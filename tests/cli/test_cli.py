"""The command line: help, exit codes, and one line for every bad input."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sweep.studies import TEXT, board_at, finish, write_text

from qscale.cli import COMMANDS, main


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="qscale")


def commands():
    """Every command and subcommand, by the words that call it."""
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        yield (name,), command
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                yield (name, child), command.get_command(context, child)


ALL = dict(commands())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(words):
    result = call(*words, "--help")
    assert result.exit_code == 0
    assert "Example: qscale " + " ".join(words) in " ".join(result.output.split())


@pytest.mark.parametrize("words", [w for w, c in ALL.items() if not isinstance(c, click.Group)], ids=" ".join)
def test_every_command_speaks_json(words):
    if words == ("sweep", "schema"):  # which is JSON
        return
    assert "--json" in {option for parameter in ALL[words].params for option in parameter.opts}


def test_help_lists_every_command_with_its_line():
    result = call("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"{name}" in result.output and line in " ".join(result.output.split())


def test_version():
    import qscale

    assert call("--version").output == f"qscale {qscale.__version__}\n"


def test_a_wrong_command_gets_the_nearest_and_exit_code_2():
    result = call("swep")
    assert result.exit_code == 2
    assert "Did you mean 'sweep'?" in result.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a corpus and a place for its cache; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path / "text.txt", kilobytes=150)
    (tmp_path / "study.yaml").write_text(TEXT.replace("python", "file:text.txt"))
    return tmp_path


def edit(old, new):
    return ("sweep", "run", "study.yaml", "--out", "out"), old, new


#: Arguments, a change to study.yaml, the exit code, and what the line must say.
BAD = {
    "unknown-format": (
        *edit("[w4a4]", "[w4a4, 'w=int44:g32']"),
        2,
        "unknown format 'int44'; did you mean 'int4'",
    ),
    "unknown-size": (*edit("tiny-20k", "tiny-30k"), 2, "unknown model size 'tiny-30k'"),
    "unknown-key": (
        *edit("recipes", "recipe"),
        2,
        "study.yaml: unknown key 'recipe'; did you mean 'recipes'",
    ),
    "non-positive": (*edit("8192", "-8192"), 2, "-8192 is not a positive count"),
    "missing-corpus": (*edit("text.txt", "missing.txt"), 2, "does not exist"),
    "small-corpus": (*edit("16384", "1e9"), 2, "--allow-repeat"),
    "missing-study": (
        ("sweep", "run", "missing.yaml", "--out", "out"),
        "",
        "",
        2,
        "cannot read the study missing",
    ),
    "no-out": (("sweep", "run", "study.yaml"), "", "", 2, "--out FOLDER"),
    "not-a-study": (("sweep", "status", "cache"), "", "", 2, "is not a folder"),
    "not-a-study-run": (("sweep", "run", "empty"), "", "", 2, "holds no study.yaml"),
    "not-a-study-export": (("sweep", "export", "empty", "--out", "x.csv"), "", "", 2, "holds no study.yaml"),
    "not-a-study-fit": (("fit", "empty"), "", "", 2, "holds no study.yaml"),
    "out-is-a-file": (("sweep", "run", "study.yaml", "--out", "text.txt"), "", "", 2, "text.txt is a file"),
    "few-windows": (
        *edit("eval_windows: 8", "eval_windows: 100000"),
        2,
        "eval_windows=100000: ask for fewer",
    ),
    "no-device": (
        ("sweep", "run", "study.yaml", "--out", "out", "--device", "quantum"),
        "",
        "",
        2,
        "device 'quantum' cannot be used",
    ),
    "no-such-card": (
        ("train", "--tokens", "1M", "--corpus", "file:text.txt", "--out", "out", "--device", "cuda:77"),
        "",
        "",
        2,
        "device 'cuda:77'",
    ),
    "wrong-ending": (("sweep", "export", "done", "--out", "x.xls"), "", "", 2, ".csv or .parquet"),
    "train-family": (
        ("train", "--tokens", "1M", "--family", "gpt-neo", "--out", "out"),
        "",
        "",
        2,
        "unknown family 'gpt-neo'; did you mean 'gpt_neox'",
    ),
    "train-config": (
        ("train", "--tokens", "1M", "--size", "none.json", "--out", "out"),
        "",
        "",
        2,
        "cannot read the model configuration none.json",
    ),
    "no-tokens": (("train", "--out", "out"), "", "", 2, "--tokens 1M"),
    "train-twice": (("train", "study.yaml", "--seed", "1", "--out", "out"), "", "", 2, "one or the other"),
    "train-recipe": (
        ("train", "--tokens", "1M", "--recipe", "w4b4", "--out", "out"),
        "",
        "",
        2,
        "'w4b4' cannot be",
    ),
}


@pytest.mark.parametrize(("arguments", "old", "new", "code", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_with_the_remedy(folder, arguments, old, new, code, message):
    board_at(folder / "done")
    (folder / "empty").mkdir()
    path = folder / "study.yaml"
    path.write_text(path.read_text().replace(old, new))
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_bad_usage_has_exit_code_2(folder):
    for arguments in (("sweep", "run"), ("sweep", "run", "study.yaml", "--workers", "0"), ("train", "--x")):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_an_unknown_failure_in_a_process_has_no_traceback(folder):
    command = [sys.executable, "-m", "qscale", "sweep", "status", "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: nowhere is not a folder; name a study folder, made by 'qscale sweep run'\n"
    )


def test_a_full_disk_while_the_folder_is_made_is_one_line(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = call("sweep", "run", "study.yaml", "--out", "out")
    assert result.exit_code == 1
    assert "the disk is full: free some space and run the same command again" in result.stderr
    assert result.stderr.count("\n") == 1


def test_plan_prints_counts_on_stdout_and_remarks_on_stderr(folder):
    result = call("sweep", "plan", "study.yaml")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["all"].split()[:4] == ["all", "1", "2", "4"]
    assert {"memory", "disk", "time", "smaller"} <= lines.keys()
    assert "delta is still switching on" in result.stderr
    totals = json.loads(call("sweep", "plan", "study.yaml", "--json").stdout)
    assert (totals["runs"], totals["trunks"], len(totals["jobs"])) == (6, 1, 7)


def test_status_and_export_of_a_half_done_study(folder):
    board = board_at(folder / "half")
    first, second, *_ = board.runs.values()
    finish(board.store, first.config)
    finish(board.store, second.config)
    board.store.write_failure(board.jobs[0], "went wrong")
    result = call("sweep", "status", "half")
    assert result.exit_code == 0
    assert "failed   tiny-20k trunk seed 0" in result.stdout and "went wrong" in result.stdout
    assert "6 runs: 4 blocked, 2 done" in result.stdout
    assert json.loads(call("sweep", "status", "half", "--json").stdout)["states"] == {"done": 2, "blocked": 4}
    result = call("sweep", "export", "half", "--out", "half.csv", "--baselines", "--json")
    assert json.loads(result.stdout) == {"rows": 2, "out": "half.csv"}
    assert len(Path("half.csv").read_text().splitlines()) == 3


def test_status_of_a_study_that_never_ran(folder):
    (folder / "new").mkdir()
    (folder / "new" / "study.yaml").write_text(TEXT)
    result = call("sweep", "status", "new")
    assert result.exit_code == 0
    assert result.stdout == "nothing has run yet; begin with: qscale sweep run new\n"


def test_train_trains_a_ladder_here_and_a_second_time_trains_nothing(folder):
    import torch

    threads = torch.get_num_threads()
    arguments = ["train", "--tokens", "4096", "--recipe", "w4a4:g32", "--corpus", f"file:{folder}/text.txt"]
    arguments += ["--batch-sequences", "2", "--context", "32", "--warmup-steps", "2", "--eval-windows", "8"]
    try:
        first = call(*arguments, "--out", "trained")
        again = call(*arguments, "--out", "trained", "--json")
        arguments[arguments.index("w4a4:g32")] = "w8a8:g32"
        second = call(*arguments, "--out", "trained")
        threaded = call(*arguments, "--out", "trained", "--threads", "2")
    finally:
        torch.set_num_threads(threads)
    assert first.exit_code == 0, first.output
    assert "tiny-20k 4.1k w4a4:g32 cooldown seed 0: delta " in first.stdout and " +- " in first.stdout
    assert "started   tiny-20k trunk seed 0" in first.stderr
    assert "delta +- evaluation s.e." in first.stderr
    assert again.exit_code == 0
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert [event["event"] for event in events] == ["note", "end"]
    assert second.exit_code == 0, second.output
    assert "2 of 3 runs already done" in second.stderr
    assert second.stdout.endswith("3 of 3 runs done in trained\n")
    assert threaded.exit_code == 2
    assert "this study began with 1 thread on cpu; pairs must share both" in threaded.stderr


def test_train_takes_a_family_and_a_config_json_and_says_what_it_costs(folder):
    import torch

    keys = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 256}
    text = json.dumps({**keys, "model_type": "gpt_neox", "intermediate_size": 64})
    Path("config.json").write_text(text)
    rest = ["--tokens", "2048", "--recipe", "w4a4:g32", "--corpus", "file:text.txt", "--batch-sequences", "2"]
    rest += ["--context", "32", "--warmup-steps", "2", "--eval-windows", "8"]
    threads = torch.get_num_threads()
    try:
        qwen = call("train", "--family", "qwen3", *rest, "--out", "qwen")
        own = call("train", "--size", "config.json", *rest, "--out", "own")
        Path("config.json").unlink()
        again = call("sweep", "run", "own")
    finally:
        torch.set_num_threads(threads)
    assert qwen.exit_code == 0, qwen.output
    assert "tiny-20k-qwen3 2.05k w4a4:g32 cooldown seed 0: delta " in qwen.stdout
    # 20,480 linear weights, a head of 256 x 32, and attention over 32 tokens in 2 blocks of width 32
    cost = f"{6 * (20_480 + 256 * 32 + 2 * 32 * 32):,} FLOPs a token; 2 runs, "
    said = qwen.stderr.replace("\n", " ")
    assert f"tiny-20k-qwen3: N 20,768, with embeddings and head 37,152; {cost}" in said
    assert said.index(cost) < said.index("started   tiny-20k-qwen3 trunk")
    assert own.exit_code == 0, own.output
    assert "gpt_neox-3.31k 2.05k w4a4:g32 cooldown seed 0: delta " in own.stdout
    assert again.exit_code == 0 and "2 of 2 runs already done" in again.stderr


def test_plan_counts_parameters_and_costs_of_each_size(folder):
    Path("study.yaml").write_text(TEXT + "family: [llama, opt]")
    table = call("sweep", "plan", "study.yaml").stdout.splitlines()
    assert table[0].split()[1:4] == ["N", "N_total", "FLOPs/token"]
    rows = {line.split()[0]: line.split()[1:4] for line in table[1:]}
    assert rows["tiny-20k"] == ["20.6k", "37k", "184k"]
    assert rows["tiny-20k-opt"] == ["21.3k", "103k", "184k"]
    plan = json.loads(call("sweep", "plan", "study.yaml", "--json").stdout)
    assert plan["sizes"]["tiny-20k"]["N_total"] == 37_024
    assert plan["sizes"]["tiny-20k-opt"]["flops_per_token"] == 6 * (20_480 + 256 * 32 + 2 * 32 * 32)


def test_doctor_says_what_works(folder):
    result = call("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["torch"]["available"] and found["cores"] >= 1
    assert "reference" in {row["name"] for row in found["kernels"] if row["available"]}
    assert {row["name"] for row in found["corpora"]} == {"python", "file:PATH", "hf:NAME"}
    assert call("doctor").stdout.startswith("qscale ")


BENCH = ("bench", "--only", "int4:g32/float32", "--only", "hadamard:1024/float32", "--sizes", "4Ki")


def test_bench_when_asked_for_json_then_each_line_is_an_event():
    result = call(*BENCH, "--seconds", "0.001", "--json")
    assert result.exit_code == 0, result.output
    machine, *timings, end = (json.loads(line) for line in result.stdout.splitlines())
    assert machine["event"] == "machine" and machine["threads"] == 1
    assert {"processor", "torch", "kernels", "peers"} <= machine.keys()
    assert {timing["event"] for timing in timings} == {"timing"}
    assert {timing["case"] for timing in timings} == {"int4:g32/float32/4Ki", "hadamard:1024/float32/4Ki"}
    assert {"into", "new", "composite", "aten", "matmul"} <= {timing["call"] for timing in timings}
    assert [timing for timing in timings if timing["error"]] == []
    assert end["event"] == "end" and len(end["summary"]) >= 3


def test_bench_when_read_by_people_then_prints_a_line_for_each_call():
    result = call(*BENCH, "--seconds", "0.001", "--no-peers")
    assert result.exit_code == 0, result.output
    assert "1 thread of" in result.stdout and "x copy" in result.stdout
    lines = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(("int4", "hadamard"))]
    calls = ["into", "new"]
    assert [line[1] for line in lines] == calls * 2


def test_bench_when_asked_for_markdown_then_stdout_is_tables_alone():
    result = call(*BENCH, "--seconds", "0.001", "--no-peers", "--markdown")
    assert result.exit_code == 0, result.output
    assert "## Time and bandwidth\n\n| case | min us |" in result.stdout
    assert "x qscale" not in result.stdout and "x qscale" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "int5"), "no case fits int5"),
        (("--sizes", "64K"), "'64K' is not a number of elements; write 65536, 64Ki or 16Mi"),
        (("--spec", "int44:g32"), "unknown format 'int44'; did you mean 'int4'"),
    ],
)
def test_bench_when_nothing_can_be_timed_then_says_so_with_exit_code_2(arguments, message):
    result = call("bench", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stdout == ""


def test_the_remedy_repeats_the_options_given_and_quotes_the_folder(tmp_path, monkeypatch):
    from qscale.sweep.local import LocalExecutor
    from qscale.sweep.outcome import outcome
    from qscale.sweep.store import Store

    Store.create(tmp_path / "my study", TEXT)
    monkeypatch.setattr("qscale.sweep.begin.begin", lambda store, *_, **__: (board_at(store.path), None))

    def fail(executor, _stop):
        executor.board.store.write_failure(executor.board.jobs[0], "went wrong")
        return outcome(executor.board, stopped=False)

    monkeypatch.setattr(LocalExecutor, "run", fail)
    result = call("sweep", "run", tmp_path / "my study", "--threads", "2", "--workers", "1")
    assert result.exit_code == 1
    folder = f"'{tmp_path}/my study'"
    assert result.stderr.splitlines()[-1] == (
        "error: 1 failed job, 6 runs that cannot go on without; "
        f"see: qscale sweep status {folder}; try again with: "
        f"qscale sweep run {folder} --workers 1 --threads 2"
    )


def test_replace_is_asked_for_and_given(folder):
    board = board_at(folder / "out", (folder / "study.yaml").read_text())
    for job in board.runs.values():
        finish(board.store, job.config)
    path = folder / "study.yaml"
    path.write_text(path.read_text().replace("8192, ", ""))
    refused = call("sweep", "run", "study.yaml", "--out", "out")
    assert refused.exit_code == 2 and "3 finished runs of it would no longer belong" in refused.stderr
    refused = call("train", "--tokens", "1M", "--corpus", "file:text.txt", "--out", "out")
    assert refused.exit_code == 2 and "6 finished runs of it would no longer belong" in refused.stderr


def test_status_of_a_damaged_corpus_note_says_so(folder):
    board_at(folder / "done")
    (folder / "done" / "corpus.json").write_text("{")
    result = call("sweep", "status", "done")
    assert result.exit_code == 1 and "corpus.json is damaged" in result.stderr


def test_layers_of_a_study_are_ranked(folder):
    text = TEXT.replace("tokens: [8192, 16384]", "tokens: [8192]").replace("[16, 32]", "[16]")
    board = board_at(folder / "done", text + "decompose: [layers]\n")
    for job in board.runs.values():
        recipe = job.config.recipe or ""
        left = recipe.removesuffix(".input=none").partition(",")[2]
        delta = {"": 0.08, "layers.1.mlp.down_proj": 0.05, "layers.0.self_attn.q_proj": 0.07}.get(left, 0.079)
        finish(board.store, job.config, **({"delta": delta} if recipe else {}))
    shown = call("sweep", "decompose", "done")
    assert shown.exit_code == 0, shown.output
    assert "    1 layers.1.mlp.down_proj    0.0300 +- 0.0014     37.5 %\n" in shown.stdout
    assert "    2 layers.0.self_attn.q_proj 0.0100 +- 0.0014     12.5 %\n" in shown.stdout
    assert "   14 layers.1.self_attn.v_proj 0.0010 +- 0.0014      1.3 %\n" in shown.stdout
    assert list(json.loads(call("sweep", "decompose", "done", "--json").stdout)[0]["layers"])[:2] == [
        "layers.1.mlp.down_proj",
        "layers.0.self_attn.q_proj",
    ]


def test_train_takes_all_of_ofq_and_its_inputs_are_taken_apart(folder):
    import torch

    Path("ofq.yaml").write_text("""
corpus: file:text.txt
sizes: [tiny-20k-opt]
tokens: [4096]
recipes: ['ofq-qkr-w4a4:g32,keep=first,anneal=0.1']
decompose: [operands, inputs, layers]
training: {batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8}
""")
    threads = torch.get_num_threads()
    try:
        refused = call("train", "--tokens", "1M", "--recipe", "w4a4:g32,qkr=int4:g32", "--out", "llama")
        done = call("train", "ofq.yaml", "--out", "ofq")
        parts = call("sweep", "decompose", "ofq")
    finally:
        torch.set_num_threads(threads)
    assert refused.exit_code == 2
    assert "qkr cannot be; leave it out, or use a family without them: opt" in refused.stderr
    assert done.exit_code == 0, done.output
    assert "14 of 14 runs done in ofq" in done.stdout  # 1 + 2 + 4 + 6, and the baseline
    assert parts.exit_code == 0, parts.output
    for word in ("additivity", "qkv input", "layers.1.self_attn.q_proj", "layers.1.fc2", "    6 "):
        assert word in parts.stdout, word


def test_train_takes_phases_schedules_and_looks_and_takes_deltas_apart(folder):
    import torch

    rest = ["--tokens", "4096", "--corpus", "file:text.txt", "--batch-sequences", "2", "--context", "32"]
    rest += ["--warmup-steps", "2", "--eval-windows", "8", "--recipe", "w4a4:g32"]
    threads = torch.get_num_threads()
    try:
        tuned = call(
            "train", *rest, "--mode", "finetune", "--finetune-fraction", "0.25", "--finetune-rate", "0.5",
            "--compile", "off", "--diagnose-every", "4", "--out", "tuned",
        )  # fmt: skip
        cosine = call(
            "train", *rest, "--recipe", "w4a16:g32", "--recipe", "w16a4:g32", "--mode", "scratch",
            "--schedule", "cosine", "--final-rate", "0.1", "--precision", "bfloat16", "--accumulation", "2",
            "--out", "cosine",
        )  # fmt: skip
        parts = call("sweep", "decompose", "cosine")
        machine = call("sweep", "decompose", "cosine", "--json")
    finally:
        torch.set_num_threads(threads)
    assert tuned.exit_code == 0, tuned.output
    assert "tiny-20k 4.1k w4a4:g32 finetune 0.25 seed 0: delta " in tuned.stdout
    assert tuned.stdout.endswith("3 of 3 runs done in tuned\n"), (
        "and two baselines: of all tokens, and before"
    )
    found = list(Path("tuned/runs").glob("*/diagnostics.jsonl"))
    (looks,) = [path for path in found if '"input_relmse": 0' in path.read_text()]
    steps = {json.loads(line)["step"] for line in looks.read_text().splitlines()}
    assert steps == {52, 56, 60, 64}
    assert cosine.exit_code == 0, cosine.output
    assert parts.exit_code == 0, parts.output
    assert "20.6k 4.1k w4a4:g32 scratch, 1 seed" in parts.stdout
    assert "(inputs / weights)" in parts.stdout
    (found,) = json.loads(machine.stdout)
    both, weight, inputs = (found[name]["value"] for name in ("both", "weight", "input"))
    assert found["additivity"]["value"] == pytest.approx(both / (weight + inputs))


def test_train_with_a_fraction_that_is_none_names_the_field(folder):
    result = call("train", "--tokens", "4096", "--mode", "finetune", "--recipe", "w4a4:g32", "--out", "out")
    assert result.exit_code == 2
    assert "the mode finetune needs finetune_fractions" in result.stderr
