"""Every question of a plan on the command line: its answer, its JSON, its refusals."""

import json
import re

import pytest
from click.testing import CliRunner

from qscale.cli import main
from qscale.cli.plan import command as plan
from qscale.planning import Architecture, Evidence, least_loss

QUESTIONS = {
    "memory": "memory 8GB -D 2T -m 3B -m 7B --context 4096",
    "tolerance": "tolerance 0.02 -m 7B -D 2T",
    "group": "group w4a16:g32 w4a16:g128 -m 7B -D 2T",
    "compare": "compare 7B=w4a16:g128 13B=w4a4:g32 -D 2T",
    "effective": "effective w4a4:g128 -m 7B -D 2T",
    "critical": "critical w4a16:channel -m 1B --law kumar2025/ptq --baseline kumar2025/baseline",
    "repay": "repay w4a16:g128 -m 1B --overhead 1.3",
    "compute": "compute 1e21 --cost bits --recipe w4a4:g32",
    "share": "share -m 1B -D 50B --bits 4",
    "bytes": "bytes 7B w4a16:g128 w=mxfp4 --context 8192",
}


def run(text, *more):
    return CliRunner().invoke(plan, [*text.split(), *more])


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_an_answer_and_strict_json(name):
    shown = run(QUESTIONS[name])
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) >= 2
    found = run(QUESTIONS[name], "--json")
    assert found.exit_code == 0
    json.loads(found.stdout, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


@pytest.mark.parametrize("name", [*QUESTIONS, "settle"])
def test_every_question_has_help_with_an_example_that_parses(name):
    shown = CliRunner().invoke(main, ["plan", name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: qscale plan {name}" in " ".join(shown.output.split())


def test_memory_prints_the_plan_of_the_library():
    found = json.loads(
        run("memory 8GB -D 2T -m 3B -m 7B --law chen2025/w4a16 --baseline chen2025/baseline --json").stdout
    )
    evidence = Evidence.of(["chen2025/w4a16"], baseline="chen2025/baseline")
    wanted = least_loss(evidence, 8e9, [(Architecture.typical(s), 2e12) for s in (3e9, 7e9)])
    assert found == json.loads(json.dumps(wanted.to_json()))


def test_llama_2_7b_from_its_configuration(tmp_path):
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = run(f"bytes {tmp_path} w=int4:g128:asym")
    assert "3.62 GiB" in shown.stdout and "6.48B" in shown.stdout


def test_nothing_fits_is_a_failure_that_names_the_smallest():
    shown = run("memory 1MB -D 2T -m 1B")
    assert shown.exit_code == 1
    assert re.search(r"nothing fits 1 MB: the smallest is 1B", shown.stdout)


def test_the_notes_say_which_laws_have_no_band():
    shown = run("memory 8GB -D 2T -m 1B")
    assert "no band is known for" in shown.stderr and "kumar2025/ptq" in shown.stderr
    assert "extrapolation: outside the fitted box in" in shown.stdout


def test_own_laws_beside_the_published_ones(own_files, tmp_path):
    law, base = own_files
    shown = run(f"compare 7B=w4a16:g32 7B=w4a16:g128 -D 2T --law {law} --baseline {base}")
    assert shown.exit_code == 0 and "probability that the first is better: 1" in shown.stdout
    refused = run(f"memory 8GB -m 7B -D 2T --law {law} --baseline {base} --published")
    assert "left out: law" in refused.stderr and "tokenizer" in refused.stderr
    beside = run(
        f"memory 8GB -m 7B -D 2T --law {law} --baseline {base} --published --comparable --rows 30 --json"
    )
    row = next(r for r in json.loads(beside.stdout)["rows"] if r["recipe"] == "w4a16:g32")
    assert row["law"] == str(law) and "chen2025/w4a16" in row["others"]


def test_runs_that_settle_a_choice(own_files):
    law, base = own_files
    text = f"settle 7B=w4a16:g32 8B=w4a16:g128 -D 2T --law {law} --baseline {base} --try N=1B,2B --try D=50B"
    shown = run(f"{text} --try G=32,128 --budget 1e22")
    assert shown.exit_code == 0 and "expected probability" in shown.stdout
    found = json.loads(run(f"{text} --try G=32 --budget 1e22 --json").stdout)
    assert found["runs"][0]["sd"] < found["sd"]
    assert "the budget holds none" in run(f"{text} --try G=32 --budget 1").stdout


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    import numpy as np

    from qscale import laws

    rng = np.random.default_rng(0)
    cells = [(n, n * d, g) for n in (2e7, 1e8, 5e8) for d in (20, 60, 200) for g in (16, 64, 256)]
    rows = [
        {"N": n, "D": d, "G": g, "ladder": n, "recipe": f"w4a16:g{g}", "tokenizer": "bpe",
         "delta": 0.3 * d**0.1 * np.log2(g) ** 0.6 / n**0.25 * np.exp(0.03 * rng.standard_normal())}
        for n, d, g in cells
    ]  # fmt: skip
    bases = [
        {
            "N": n,
            "D": d,
            "tokenizer": "bpe",
            "loss": (400 / n**0.33 + 900 / d**0.32 + 1.8) * np.exp(0.001 * rng.standard_normal()),
        }
        for n, d in sorted({(n, d) for n, d, _ in cells})
    ]
    folder = tmp_path_factory.mktemp("laws")
    laws.fit(rows, "qat-unified", bootstrap=100).to_json(folder / "law.json")
    laws.fit(bases, "chinchilla", bootstrap=100, resample="case").to_json(folder / "base.json")
    return folder / "law.json", folder / "base.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory 8XB -D 2T", "not a number of bytes"),
        ("memory 8GB", "Give -D, the training tokens, or --ratio"),
        ("memory 8GB -D 2T --ratio 20", "Give -D, the training tokens, or --ratio"),
        ("memory 8GB -D 2T -m nowhere.json", "cannot read the model configuration"),
        ("memory 8GB -D 2T --law none", "no law 'none'"),
        ("memory 8GB -D 2T --law chen2025/w4a16", "needs a baseline"),
        ("memory 8GB -D 2T --recipe w4a5:g32", "no law predicts what it costs"),
        ("compare 7B=w4a16:g32 7B=w3a3:g32 -D 2T", "no law predicts what it costs"),
        ("compare 7B=w4a16:g32 7B 7B -D 2T", "unexpected extra argument"),
        ("effective w4a4:g32 -m 7B -D 2T --by nobody", "no law 'nobody'"),
        ("memory 8GB -D 2T --also chen2025/w4a4", "is not LAW:RECIPE"),
        ("bytes 7B w4a16", "cannot be read"),
    ],
)
def test_what_cannot_be_answered_says_why(text, message):
    shown = CliRunner().invoke(main, ["plan", *text.split()])
    assert shown.exit_code in (1, 2)
    assert message in shown.output
    assert "Traceback" not in shown.output


def test_the_figure_shows_every_option_and_the_budget(tmp_path):
    pytest.importorskip("matplotlib")
    shown = run("memory 8GB -D 2T -m 1B -m 3B -m 7B --reach 30", "--figure", str(tmp_path / "front.svg"))
    assert shown.exit_code == 0
    text = (tmp_path / "front.svg").read_text()
    assert "<svg" in text and len(text) > 20_000
