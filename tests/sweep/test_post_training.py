"""Runs of a study that a method quantizes after training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sweep.studies import write_text

from qscale.data.batches import evaluation_sequences
from qscale.data.corpus import load
from qscale.errors import ConfigError
from qscale.models.families import build
from qscale.ptq.run import calibration_windows, quantize_trained
from qscale.sweep.begin import begin
from qscale.sweep.grid import Study
from qscale.sweep.post_training import run_pass
from qscale.sweep.store import Store, quiet
from qscale.sweep.table import observations
from qscale.sweep.worker import work
from qscale.training import checkpoint, paths
from qscale.training.config import RunConfig
from qscale.training.evaluate import sequence_losses
from qscale.training.how import How
from qscale.training.losses import read_losses

STUDY = """\
corpus: file:{path}
sizes: [tiny-20k]
tokens: [16k]
recipes: [w3a16:g32]
modes: [ptq]
methods: [rtn, gptq, "awq(clip=false)"]
training:
  {{batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8, calibration_windows: 4,
   calibration_length: 16}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished study, its corpus and the cache of both."""
    folder = tmp_path_factory.mktemp("post-training")
    write_text(folder / "text.txt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSCALE_CACHE", str(folder / "cache"))
        store = Store.create(folder / "study", STUDY.format(path=folder / "text.txt"))
        board, corpora = begin(store, quiet)
        work(board, corpora, How(emit=quiet))
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def store(place):
    return Store(place / "study")


def config_of(store, method):
    return next(run for run in store.runs() if run.mode == "ptq" and run.method == method)


@pytest.mark.parametrize("method", ["gptq", "awq(clip=false)"])
def test_record_when_a_method_was_used_then_it_is_of_that_pass(store, place, method):
    config = config_of(store, method)
    corpus = load(f"file:{place / 'text.txt'}")
    model = build(config.model, context=32, seed=5)
    checkpoint.load_weights(paths.final_weights(store.run_folder(config.source().run_id)), model)
    report = quantize_trained(model, "w3a16:g32", method, calibration_windows(corpus, 4, 16))
    losses = sequence_losses(model, evaluation_sequences(corpus.validation, 32, 8), "cpu")
    record = store.record(config.run_id)
    assert read_losses(paths.eval_losses(store.run_folder(config.run_id))).tobytes() == losses.tobytes()
    baseline = read_losses(paths.eval_losses(store.run_folder(record.baseline_run_id)))
    assert record.delta == pytest.approx(float(np.mean(losses - baseline)), rel=1e-12)
    assert (record.relmse_output, record.bits_per_weight) == (report.relmse, report.bits_per_weight)
    assert record.relmse_output < record.relmse_output_nearest
    layers = json.loads(paths.pass_report(store.run_folder(config.run_id)).read_text())
    assert layers == json.loads(json.dumps(report.to_json()))
    assert layers["calibration"] == {"windows": 4, "length": 16}


def test_rows_when_exported_then_each_names_its_method(store):
    rows = observations(store.path)
    assert {row["method"] for row in rows} == {"rtn", "gptq", "awq(clip=false)"}
    assert all(row["delta"] is not None and row["mode"] == "ptq" for row in rows)
    assert {row["P"] for row in rows} == {3}


def test_pass_when_stopped_then_there_is_no_record_and_it_can_begin_again(store, place, tmp_path):
    config = config_of(store, "gptq")
    start = store.run_folder(config.source().run_id)
    corpus = load(f"file:{place / 'text.txt'}")
    folder = tmp_path / config.run_id
    folder.mkdir()
    assert run_pass(config, folder, start, corpus, How(should_stop=lambda: True)) is None
    assert not list(folder.iterdir())
    again = run_pass(config, folder, start, corpus)
    assert again.loss == store.record(config.run_id).loss


def test_configuration_when_read_back_then_it_is_the_same_run(store):
    config = config_of(store, "gptq")
    assert RunConfig.from_json(config.to_json()).run_id == config.run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rtn"}, "rounding to nearest alone is method=None"),
        ({"method": "gptq; import os"}, "steps joined by +"),
        ({"mode": "scratch"}, "methods are of the mode ptq"),
        ({"calibration_windows": 0}, "calibration_windows=0: must be positive"),
        ({"method": None}, "only a run with a method is calibrated"),
    ],
)
def test_configuration_when_a_method_makes_no_sense_then_it_is_refused(store, changes, message):
    with pytest.raises(ConfigError) as caught:
        replace(config_of(store, "gptq"), **changes)
    assert message in str(caught.value)


KEYS_AND_VALUES = """\
corpus: file:{path}
sizes: [tiny-20k]
tokens: [16k]
recipes: [w16a16, "w4a16:g32"]
modes: [ptq]
methods: [rtn, kv, "kv(spec=int2:token)"]
exclude: [{{recipe: w16a16, method: rtn}}]
training:
  {{batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8, calibration_windows: 4}}
"""


def test_study_when_a_recipe_leaves_all_layers_alone_then_keys_and_values_are_quantized_alone(place):
    store = Store.create(place / "cache-study", KEYS_AND_VALUES.format(path=place / "text.txt"))
    board, corpora = begin(store, quiet)
    work(board, corpora, How(emit=quiet))
    runs = {(run.recipe, run.method): run for run in store.runs()}
    alone = [runs["w16a16", "kv"], runs["w16a16", "kv(spec=int2:token)"]]
    assert len(runs) == len({run.run_id for run in runs.values()}) == 6

    config = alone[0]
    model = build(config.model, context=32, seed=5)
    checkpoint.load_weights(paths.final_weights(store.run_folder(config.source().run_id)), model)
    corpus = load(f"file:{place / 'text.txt'}")
    report = quantize_trained(model, None, "kv", calibration_windows(corpus, 4, 32))
    losses = sequence_losses(model, evaluation_sequences(corpus.validation, 32, 8), "cpu")
    assert read_losses(paths.eval_losses(store.run_folder(config.run_id))).tobytes() == losses.tobytes()

    rows = {(row["recipe"], row["method"]): row for row in observations(store.path)}
    assert len(rows) == 5
    for run in alone:
        row = rows["w16a16", run.method]
        assert (row["G"], row["G_weight"], row["G_input"], row["P"], row["r"]) == (None,) * 5
        assert row["bits_per_weight"] == 16.0 and row["relmse_output"] is None
    assert rows["w16a16", "kv"]["bits_per_kv"] == report.bits_per_kv == 4.5
    assert rows["w16a16", "kv(spec=int2:token)"]["bits_per_kv"] == 2.5
    assert 0 < rows["w16a16", "kv"]["delta"] < rows["w16a16", "kv(spec=int2:token)"]["delta"]
    assert rows["w4a16:g32", "kv"]["bits_per_weight"] == 4.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": "[rtn]"}, "method rtn would be the baseline again.*exclude"),
        ({"methods": "[gptq]"}, "method gptq no keys and values: add kv.*exclude: .*method: 'gptq'"),
        ({"methods": "[gptq+kv]"}, "gptq would have nothing to do"),
        ({"methods": "[kv]", "modes": "[ptq, scratch]"}, "mode 'scratch' would be the baseline again"),
        ({"recipes": '["w16a16:g32"]'}, "w16a16 has no granularity"),
    ],
)
def test_study_when_nothing_would_be_quantized_then_it_is_refused(changed, message):
    keys = {"sizes": "[tiny-20k]", "tokens": "[1M]", "recipes": "[w16a16]", "modes": "[ptq]"} | changed
    with pytest.raises(ConfigError, match=message):
        Study.parse("\n".join(f"{key}: {value}" for key, value in keys.items()))
