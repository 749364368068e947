"""Why finished runs do not belong to a study any more."""

import pytest
from sweep.studies import TEXT

from qscale.sweep.grid import Study
from qscale.sweep.strangers import explain

SHA = "ab" * 32


def runs(text, sha=SHA):
    return Study.parse(text).runs(sha)


def reasons(old, new):
    wanted = runs(new)
    ids = {run.run_id for run in wanted}
    return explain((run.to_json() for run in runs(old) if run.run_id not in ids), wanted).reasons


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0.003", "0.002"), ("6 runs: learning_rate 0.003, the study now says 0.002",)),
        (("8192, ", ""), ("3 runs: tokens 8.19k, the study now says 16.4k",)),
        (("8192", "4096"), ("3 runs: tokens 8.19k, not in the study",)),
        (("[16, 32]", "[32, 64]"), ("2 runs: recipe w4a4:g16, not in the study",)),
        (("tiny-20k", "tiny-46k"), ("6 runs: size tiny-20k, the study now says tiny-46k",)),
        (("eval_windows: 8", "eval_windows: 16"), ("6 runs: eval_windows 8, the study now says 16",)),
        (
            ("0.003}", "0.003, context: 64}"),
            ("6 runs: context 32, the study now says 64",),
        ),
    ],
)
def test_what_differs_is_named_with_what_the_study_says_now(change, said):
    new = TEXT.replace(*change)
    if "context" in change[1]:
        new = new.replace("context: 32, ", "")
    assert reasons(TEXT, new) == said


def test_several_fields_are_named_together():
    new = TEXT.replace("0.003", "0.002").replace("eval_windows: 8", "eval_windows: 16")
    assert reasons(TEXT, new) == (
        "6 runs: learning_rate 0.003, the study now says 0.002; eval_windows 8, the study now says 16",
    )


def test_seeds_are_named_once_though_two_fields_hold_them():
    assert reasons(TEXT + "seeds: [0, 3]", TEXT) == ("6 runs: seed 3, the study now says 0",)


def test_a_corpus_of_other_bytes_is_told_from_another_corpus():
    found = explain((run.to_json() for run in runs(TEXT, "cd" * 32)), runs(TEXT))
    assert found.reasons == ("6 runs: corpus python of other bytes (sha256 cdcdcdcdc...)",)


def test_values_that_occur_but_not_together():
    both = TEXT.replace("[w4a4]", "['w4a4:g32']").replace("group_sizes: [16, 32]\n", "")
    wanted = [run for run in runs(both + "seeds: [0, 1]") if run.tokens == 8192 or run.init_seed == 0]
    strange = [run for run in runs(both + "seeds: [0, 1]") if run not in wanted]
    (said,) = {
        reason.partition(": ")[2] for reason in explain((r.to_json() for r in strange), wanted).reasons
    }
    assert said in (
        "tokens 16.4k: values of the study, but not in one run of it",
        "seed 1: values of the study, but not in one run of it",
    )


def test_at_most_five_reasons_and_the_rest_counted():
    old = TEXT + f"seeds: {list(range(1, 10))}"
    found = explain((run.to_json() for run in runs(old)), runs(TEXT))
    assert (found.count, len(found.reasons)) == (54, 6)
    assert found.reasons[-1] == "and 24 more runs"
    assert found.lines[0] == "54 records do not belong to study.yaml as it is now: left out, kept on disk"


def test_none_say_nothing_and_no_study_says_so():
    assert explain([], runs(TEXT)).lines == []
    assert "its corpus or tokenizer is another one" in explain([runs(TEXT)[0].to_json()], []).reasons[0]


@pytest.mark.parametrize(
    "config",
    [{}, {"model": 7}, {"model": {"hidden_size": "x"}}, {"model": {}, "tokens": []}, {"x\n": "\x1b"}],
    ids=str,
)
def test_configurations_of_strangers_may_be_anything(config):
    (reason,) = explain([config], runs(TEXT)).reasons
    assert reason.isprintable() and len(reason) < 300


def test_odd_values_in_a_known_size_are_one_plain_line():
    good = runs(TEXT)[0].to_json()
    for field in good:
        for value in ([1], {"a": "\n"}, "\x1b[31m", 10**400, None):
            (reason,) = explain([{**good, field: value}], runs(TEXT)).reasons
            assert reason.isprintable() and len(reason) < 400
