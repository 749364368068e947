"""Optima and crossings against closed forms and against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qscale import laws
from qscale.errors import PlanError
from qscale.laws import derived
from qscale.planning import (
    Architecture,
    Evidence,
    critical_data,
    difference,
    effective_size,
    precision_for_compute,
    qat_repays,
    qat_share,
    runs_to_settle,
)

CHEN = laws.load("chen2025/baseline").parameters
A, B, ALPHA = CHEN["A"], CHEN["B"], CHEN["alpha"]


@pytest.mark.parametrize(("name", "eff"), [("w4a4", 0.712117), ("w4a16", 0.879386), ("w16a4", 0.786265)])
def test_the_multiplier_is_that_of_the_closed_form(name, eff):
    evidence = Evidence.of([f"chen2025/{name}"], baseline="chen2025/baseline")
    shape = Architecture.typical(595e6)
    option = replace(evidence.option(shape, 100e9, f"{name}:g128"), scale=595e6 / shape.N)
    found = effective_size(evidence, option)
    assert found.multiplier.value == pytest.approx(eff, abs=1e-6)
    assert pytest.approx(eff * 595e6, rel=1e-5) == found.N
    if found.multiplier.draws is not None:
        wanted = [derived.eff_of_delta(d, 595e6, A=A, alpha=ALPHA) for d in evidence.delta(option).draws]
        assert found.multiplier.draws == pytest.approx(wanted, rel=1e-9)
    assert found.effective_bits == pytest.approx(found.bits_per_weight / found.multiplier.value)


def test_no_quantization_has_no_multiplier(llama):
    evidence = Evidence.of(["chen2025/w4a4"], baseline="chen2025/baseline")
    with pytest.raises(PlanError, match="its multiplier is 1"):
        effective_size(evidence, evidence.option(llama, 1e11))
    with pytest.raises(PlanError, match="need a baseline"):
        effective_size(Evidence.of(["chen2025/w4a4"]), evidence.option(llama, 1e11, "w4a4:g32"))


@pytest.mark.parametrize(
    ("size", "bits", "golden"),
    [
        (1e9, 4, 2.946e11),
        (220e6, 3, 3.244e10),
        (220e6, 4, 1.753e11),
        (220e6, 5, 9.476e11),
        (220e6, 6, 5.122e12),
    ],
)
def test_critical_data_are_those_of_the_paper(size, bits, golden):
    evidence = Evidence.of(["kumar2025/ptq"], baseline="kumar2025/baseline")
    shape = Architecture.typical(size)
    option = replace(evidence.option(shape, 1.0, f"w{bits}a16:channel"), scale=size / shape.N)
    found = critical_data(evidence, option)
    assert found.tokens.value == pytest.approx(golden, rel=2e-3)
    assert found.ratio == pytest.approx(golden / size, rel=2e-3)
    for factor in (0.5, 2.0):
        assert evidence.loss(replace(option, D=found.tokens.value * factor)).value > found.least - 1e-12


def test_more_data_never_harm_where_delta_does_not_grow(own, llama):
    law, base = own
    falling = replace(
        law,
        name="falling",
        parameters={**law.parameters, "gD": -0.1},
        reference=None,
        draws_table=None,
    )
    evidence = Evidence.of([falling], baseline=base)
    found = critical_data(evidence, evidence.option(llama, 1.0, "w4a16:g32"))
    assert math.isinf(found.tokens.value)


def test_critical_data_of_a_fit_have_a_band_around_the_closed_form(own, llama):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    found = critical_data(evidence, evidence.option(llama, 1.0, "w4a16:g32"))
    p = base.parameters
    at_one = law.predict(N=llama.N, D=1.0, G=32)
    wanted = derived.critical_tokens(B=p["B"], beta=p["beta"], delta=at_one, gD=law.parameters["gD"])
    assert found.tokens.value == pytest.approx(wanted, rel=1e-3)
    assert found.tokens.low < wanted < found.tokens.high


def test_qat_repays_where_the_curves_cross(llama):
    evidence = Evidence.of(["chen2025/w4a16", "ouyang2024/qid"], baseline="chen2025/baseline")
    found = qat_repays(evidence, llama, "w4a16:g128", worth=0.02, overhead=1.5, share=0.2)
    qat, ptq = (laws.load(name) for name in ("chen2025/w4a16", "ouyang2024/qid"))
    base = laws.load("chen2025/baseline")

    def gain(ratio):
        D = ratio * llama.N
        price = base.predict(N=llama.N, D=D / 1.1) - base.predict(N=llama.N, D=D)
        return ptq.predict(N=llama.N, D=D, P=4) - qat.predict(N=llama.N, D=D, G=128) - price

    assert gain(found.ratio.value) == pytest.approx(0.02, abs=2e-4)
    assert gain(found.ratio.value * 1.2) > 0.02 > gain(found.ratio.value / 1.2)
    assert found.ratio.low is None and found.chance_never is None  # ouyang2024/qid has no band
    assert found.outside[-1] == pytest.approx(1e5 * llama.N / 1e11)  # of chen2025/w4a16
    assert found.gain == pytest.approx([gain(r) for r in found.at_ratio])


def test_qat_that_never_or_always_repays_says_so(llama):
    evidence = Evidence.of(["chen2025/w4a16", "ouyang2024/qid"], baseline="chen2025/baseline")
    assert math.isinf(qat_repays(evidence, llama, "w4a16:g128", worth=50).ratio.value)
    always = qat_repays(evidence, llama, "w4a16:g128", worth=-1)
    assert always.ratio.value == 0
    with pytest.raises(PlanError, match="no law after training is about it"):
        qat_repays(Evidence.of(["chen2025/w4a16"]), llama, "w4a16:g128")
    with pytest.raises(PlanError, match="called 'nobody'"):
        qat_repays(evidence, llama, "w4a16:g128", qat="nobody")
    with pytest.raises(PlanError, match="share=2"):
        qat_repays(evidence, llama, "w4a16:g128", share=2)
    with pytest.raises(PlanError, match="priced by a baseline"):
        qat_repays(Evidence.of(["chen2025/w4a16", "ouyang2024/qid"]), llama, "w4a16:g128", overhead=2)


def test_without_quantization_the_optimum_of_compute_is_chinchillas():
    evidence = Evidence.of([], baseline="besiroglu2024/huber")
    found = precision_for_compute(evidence, 5.76e23)[0]
    p = laws.load("besiroglu2024/huber").parameters
    best = derived.compute_optimal(5.76e23, **{k: p[k] for k in ("A", "B", "alpha", "beta")})
    assert pytest.approx(best.N, rel=1e-4) == found.N and pytest.approx(best.D, rel=1e-4) == found.D


@pytest.mark.parametrize(("cost", "factor"), [("flops", 1.3), ("bits", 1.3 * 4 / 16)])
def test_a_recipe_at_its_cost_has_the_least_loss_of_a_fine_scan(cost, factor):
    evidence = Evidence.of(["chen2025/w4a4"], baseline="chen2025/baseline")
    compute = 1e21
    found = precision_for_compute(evidence, compute, recipes=["w4a4:g64"], cost=cost, overhead=1.3)
    quantized = next(one for one in found if one.recipe is not None)
    assert pytest.approx(compute / factor) == 6 * quantized.N * quantized.D
    sizes = np.geomspace(1e8, 1e11, 20001)
    D = compute / factor / 6 / sizes
    law, base = laws.load("chen2025/w4a4"), laws.load("chen2025/baseline")
    losses = base.predict(N=sizes, D=D) + law.predict(N=sizes, D=D, G=64)
    assert quantized.loss.value == pytest.approx(losses.min(), rel=1e-7)
    assert [one.loss.value for one in found] == sorted(one.loss.value for one in found)
    assert all(one.chance is None and one.loss.low is None for one in found)  # the baseline has no band


def test_quantization_after_training_costs_16_bit_training():
    evidence = Evidence.of(["kumar2025/ptq"], baseline="kumar2025/baseline")
    found = precision_for_compute(evidence, 1e20, recipes=["w8a16:channel"], cost="bits", overhead=2)
    assert all(pytest.approx(1e20) == 6 * one.N * one.D for one in found)
    with pytest.raises(PlanError, match="needs a baseline"):
        precision_for_compute(Evidence.of(["kumar2025/ptq"]), 1e20)
    with pytest.raises(PlanError, match="no law predicts"):
        precision_for_compute(evidence, 1e20, recipes=["w2a2:g32"])


@pytest.mark.parametrize(("s", "share"), [(10, 0.053790), (50, 0.179019), (100, 0.231926), (1000, 0.377485)])
def test_the_share_of_qat_is_the_papers(s, share):
    found = qat_share(N=1e9, D=s * 1e9 / 2, bits=4)
    assert found.share == pytest.approx(share, abs=1e-6)
    assert found.tokens_per_byte == pytest.approx(s)
    assert found.tokens == pytest.approx(found.share * s * 1e9 / 2)
    assert found.error == 0.091


def test_few_tokens_leave_nothing_for_qat():
    found = qat_share(N=1e9, D=1e8, bits=8)
    assert found.share == 0
    with pytest.raises(PlanError, match="positive numbers"):
        qat_share(N=1e9, D=0, bits=4)


def test_runs_that_settle_a_choice_lower_its_deviation_as_bayes_says(own, llama):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    one, two = (evidence.option(llama, 1e11, f"w4a16:{g}") for g in ("g32", "g64"))
    runs = [{"N": n, "D": 20 * n, "G": g} for n in (1e9, 4e9) for g in (16.0, 256.0)]
    found = runs_to_settle(evidence, one, two, runs, 2e21, noise=0.01)
    assert found.steps and sum(step.flops for step in found.steps) <= 2e21
    deviations = [found.sd, *(step.sd for step in found.steps)]
    assert deviations == sorted(deviations, reverse=True)
    gap = difference(evidence, one, two).draws
    first = found.steps[0]
    logs = np.log(evidence.sources[0].draws(first.run))
    cov = np.cov(gap, logs)
    assert first.sd == pytest.approx(math.sqrt(cov[0, 0] - cov[0, 1] ** 2 / (cov[1, 1] + 0.01**2)))
    falls = []
    bare = [{"N": n, "D": 20 * n} for n in (1e9, 4e9)]
    for source, run in [(evidence.sources[0], r) for r in runs] + [(evidence.baseline, r) for r in bare]:
        c = np.cov(gap, np.log(source.draws(run)))
        falls.append(c[0, 1] ** 2 / (c[1, 1] + 0.01**2) / (6 * run["N"] * run["D"]))
    assert first.run == [*runs, *bare][int(np.argmax(falls))]
    assert found.confidence <= first.confidence <= 1


def test_sizes_are_settled_by_runs_without_quantization(own, llama):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    one = evidence.option(llama, 1e11, "w4a16:g32")
    two = replace(evidence.option(llama, 1e11, "w4a16:g256"), scale=1.3)
    runs = [{"N": 2e9, "D": 1e11, "G": 32.0}]
    found = runs_to_settle(evidence, one, two, runs, 1e23)
    assert set(found.steps[0].run) == {"N", "D"} and found.steps[0].law == evidence.baseline.label
    with pytest.raises(PlanError, match="lacks G"):
        runs_to_settle(evidence, one, two, [{"N": 2e9, "D": 1e11}], 1e23)


def test_the_expected_confidence_is_that_of_simulated_outcomes():
    from qscale.planning.settle import _confidence

    rng = np.random.default_rng(0)
    mean, sd, then = 0.3, 1.0, 0.6
    moved = mean + math.sqrt(sd**2 - then**2) * rng.standard_normal(200_000)
    simulated = np.mean([0.5 * math.erfc(-abs(m) / then / math.sqrt(2)) for m in moved])
    assert _confidence(mean, sd, then) == pytest.approx(simulated, abs=3e-3)
    assert _confidence(mean, sd, 0.0) == 1


def test_published_laws_cannot_say_which_runs_help(llama):
    evidence = Evidence.of(["chen2025/w4a16"])
    one, two = (evidence.option(llama, 1e11, f"w4a16:{g}") for g in ("g32", "g64"))
    with pytest.raises(PlanError, match="chen2025/w4a16 has none"):
        runs_to_settle(evidence, one, two, [{"N": 1e9, "D": 1e10, "G": 32}], 1e21)
    with pytest.raises(PlanError, match="no candidates"):
        runs_to_settle(evidence, one, two, [], 1e21)
