"""Which laws may be used together, what they are about, and forecasts with their bands."""

from dataclasses import replace

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError, PlanError
from qscale.formats import Recipe
from qscale.planning import Architecture, Evidence
from qscale.planning.sources import DRAWS, Source, group_length

PAPER = Architecture.from_config(
    {
        "model_type": "llama", "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 24, "num_key_value_heads": 6, "vocab_size": 128256, "head_dim": 64,
    }
)  # fmt: skip


def changed(law, **fields):
    return replace(law, name=fields.pop("name", "changed"), **fields)


@pytest.mark.parametrize(
    ("law", "recipe", "golden"),
    [
        ("chen2025/w4a4", "w4a4:g128", 0.0573),
        ("chen2025/w4a16", "w4a16:g32", 0.0186),
        ("chen2025/w16a4", "w16a4:g256", 0.0456),
        ("chen2025/w4a4-fc2a8", "w4a4:g64,down_proj.input=int8:g64", 0.0361),
    ],
)
def test_a_paper_shape_has_the_papers_delta(law, recipe, golden):
    evidence = Evidence.of([law], baseline="chen2025/baseline")
    option = evidence.option(PAPER, 100e9, recipe)
    assert evidence.delta(option).value == pytest.approx(golden, abs=6e-5)
    assert evidence.loss(option).value == pytest.approx(2.740661 + golden, abs=2e-4)  # the paper rounds N
    assert evidence.loss(option).outside == {}


def test_channels_have_the_mean_length_of_the_rows():
    weights = {1536: 24 * 64 * 1536 * 2 + 2 * 6 * 64 * 1536 + 2 * 1536 * 4096, 4096: 1536 * 4096}
    mean = sum(length * count for length, count in weights.items()) / sum(weights.values())
    for recipe in ("w4a4:channel", "w4a16:channel", "w16a4:channel"):
        assert group_length(PAPER, Recipe.parse(recipe)) == pytest.approx(mean)
    assert round(mean) == 2186


@pytest.mark.parametrize("name", laws.list_published())
def test_a_source_of_delta_is_zero_without_quantization_or_tells_why_not(name):
    source = Source(name, laws.load(name))
    if source.is_delta() and source.recipes:
        recipes = Evidence(sources=(source,)).recipes()
        assert recipes, "it is about recipes, but about none that can be read"
        for recipe in recipes[:3]:
            point = source.point(PAPER, 1e11, recipe)
            assert np.isfinite(source.predict(point))
            assert source.predict(point) > -0.01


def test_the_delta_of_a_law_of_losses_is_its_rise():
    law = laws.load("panferov2025/quest")
    evidence = Evidence.of(["panferov2025/quest"])
    found = evidence.delta(evidence.option(PAPER, 1e10, "w4a4:channel")).value
    wanted = law.predict(N=PAPER.N, D=1e10, P=4) - law.predict(N=PAPER.N, D=1e10, P=16)
    assert found == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(PlanError, match="is about w2a2:channel"):
        evidence.option(PAPER, 1e10, "w4a4:g32")


def test_draws_of_a_fit_are_those_of_the_law_and_go_together(own, llama):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    fine, coarse = (evidence.option(llama, 1e12, f"w4a16:{g}") for g in ("g32", "g128"))
    drawn = evidence.delta(fine).draws
    assert drawn.shape == (DRAWS,)
    assert set(np.round(drawn, 12)) <= set(np.round(law.draws(N=llama.N, D=1e12, G=32), 12))
    low, high = law.interval(N=llama.N, D=1e12, G=32)
    assert evidence.delta(fine).low == pytest.approx(low, rel=0.03)
    assert evidence.delta(fine).high == pytest.approx(high, rel=0.03)
    both = np.corrcoef(np.log(drawn), np.log(evidence.delta(coarse).draws))[0, 1]
    assert both > 0.9
    apart = np.corrcoef(np.log(drawn), evidence.base(fine).draws)[0, 1]
    assert abs(apart) < 0.15  # two laws are independent
    assert evidence.loss(fine).draws == pytest.approx(evidence.base(fine).draws + drawn)
    assert evidence.delta(evidence.option(llama, 1e12)).value == 0


def test_a_printed_error_is_one_factor_for_all_points(llama):
    evidence = Evidence.of(["chen2025/w4a4"])
    one, two = (evidence.delta(evidence.option(llama, 1e12, f"w4a4:{g}")) for g in ("g32", "g128"))
    assert one.basis == "printed error"
    assert one.draws / one.value == pytest.approx(two.draws / two.value)
    assert np.mean(np.abs(one.draws / one.value - 1)) == pytest.approx(0.047, rel=0.15)


def test_laws_of_other_tokens_are_refused(own):
    law, base = own
    other = changed(base, data={**base.data, "tokenizer": "bytes"})
    with pytest.raises(PlanError, match="of tokenizer 'bpe' and changed of 'bytes'"):
        Evidence.of([law], baseline=other)
    with pytest.raises(PlanError, match="chen2025/baseline does not say which"):
        Evidence.of([law], baseline="chen2025/baseline")
    assert Evidence.of([law], baseline="chen2025/baseline", comparable=True).sources
    found = Evidence.of([law], published=True)
    assert len(found.sources) == 1 and len(found.refused) > 5
    assert any("chen2025/w4a4" in reason for reason in found.refused)
    with pytest.raises(PlanError, match="of tokenizer"):
        Evidence.of([law], baseline=other, comparable=True)  # known to differ


def test_a_law_that_counts_embeddings_needs_to_know_them(llama):
    evidence = Evidence.of(["measured/ptq-gptq"])
    found = evidence.delta(evidence.option(llama, 2e12, "w4a16:g128"))
    law = laws.load("measured/ptq-gptq")
    assert found.value == law.predict(N=llama.N_total, D=2e12, G=128, P=4)
    with pytest.raises(PlanError, match=r"counts embeddings in N .* give the config\.json"):
        evidence.option(Architecture.typical(7e9), 2e12, "w4a16:g128")


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("hoffmann2022/chinchilla", "tells no delta of a recipe"),
        ("kaplan2020/size", "tells no delta of a recipe"),
        ("li2025/farseer", "bits per character"),
        ("li2025/step-law-rate", "not nats per token"),
        ("sun2025/fp", "tells no delta of a recipe"),
    ],
)
def test_laws_of_something_else_are_refused(law, message):
    with pytest.raises(PlanError, match=message):
        Evidence.of([law])


def test_a_baseline_tells_the_loss_of_n_and_d():
    for wrong in ("chen2025/w4a4", "kumar2025/qat", "kaplan2020/size"):
        with pytest.raises(PlanError, match="tells no loss from N and D alone"):
            Evidence.of([], baseline=wrong)
    with pytest.raises(LawError, match="did you mean"):
        Evidence.of(["chen2025/w4a5"])
    with pytest.raises(PlanError, match="no such law is used here"):
        Evidence.of(["chen2025/w4a4"], also={"chen2025/w4a44": ["w4a4:g32"]})


def test_unidentified_laws_are_refused(own):
    law, _ = own
    unsure = replace(law, name="unsure", status="not_identified: G has one value")
    with pytest.raises(PlanError, match="unsure: it must not be used: not_identified"):
        Evidence.of([unsure])


def test_a_law_may_be_taken_to_cover_another_recipe(llama):
    fp4 = "w=fp4_e2m1:g32,a=fp4_e2m1:g32"
    with pytest.raises(PlanError, match="about w4a4, not"):
        Evidence.of(["chen2025/w4a4"]).option(llama, 1e12, fp4)
    evidence = Evidence.of(["chen2025/w4a4"], also={"chen2025/w4a4": ["w=fp4_e2m1,a=fp4_e2m1"]})
    found = evidence.delta(evidence.option(llama, 1e12, fp4)).value
    assert found == evidence.delta(evidence.option(llama, 1e12, "w4a4:g32")).value


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("w3a16:g32", "about w4a16, not w3a16:g32"),
        ("w4a16:tensor", "about groups; w4a16:tensor has one scale"),
        ("w4a16:g32,kv=int4:g32", "not w4a16:g32,kv=int4:g32"),
    ],
)
def test_a_recipe_that_no_law_is_about_gets_every_reason(recipe, message):
    with pytest.raises(PlanError, match=message):
        Evidence.of(["chen2025/w4a16"]).option(PAPER, 1e11, recipe)


def test_how_far_outside_is_the_farther_of_both_laws(llama):
    evidence = Evidence.of(["kumar2025/ptq"], baseline="chen2025/baseline")
    outside = evidence.loss(evidence.option(llama, 2e12, "w4a16:channel")).outside
    assert outside["D"] == pytest.approx(2e12 / 26e9) and outside["N"] == pytest.approx(llama.N / 220e6)


def test_planning_loads_neither_torch_nor_scipy():
    import subprocess
    import sys

    code = (
        "import sys; from qscale import planning as p; "
        "e = p.Evidence.of([], 'chen2025/baseline', published=True); "
        "p.least_loss(e, 8e9, [(p.Architecture.typical(7e9), 2e12)]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'scipy.optimize', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
