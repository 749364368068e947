"""Published laws: values of the literature to the printed digits, and what was measured on public runs."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from qscale.laws import forms, list_published, load

# Values without another source are derived once more, by others, from the printed constants; those of Farseer
# by arithmetic of 40 digits.


def digits(found, printed: str):
    """Equal to a printed number in all its digits, up to the last bits of a double."""
    mantissa = printed.partition("e")[0]
    places = len(mantissa.partition(".")[2])
    unit = float(f"1e{-places}") * float("1e" + (printed.partition("e")[2] or "0"))
    allowed = max(0.50001 * unit, 1e-14 * abs(float(printed)))
    assert abs(float(found) - float(printed)) <= allowed, f"{found!r} is not {printed}"


def test_digits_check_can_fail_in_the_last_digit():
    digits(2.530668, "2.530668")
    digits(4.0362e10, "4.036e10")
    for found, printed in ((2.530669, "2.530668"), (4.037e10, "4.036e10")):
        with pytest.raises(AssertionError):
            digits(found, printed)


@pytest.mark.parametrize(
    ("name", "at", "printed"),
    [
        ("hoffmann2022/chinchilla", {"N": 1e9, "D": 20e9}, "2.530668"),
        ("hoffmann2022/chinchilla", {"N": 70e9, "D": 1.4e12}, "1.920846"),
        ("hoffmann2022/as-printed", {"N": 1e9, "D": 20e9}, "2.580048"),
        ("hoffmann2022/as-printed", {"N": 70e9, "D": 1.4e12}, "1.936645"),
        ("besiroglu2024/huber", {"N": 1e9, "D": 20e9}, "2.528759"),
        ("besiroglu2024/huber", {"N": 70e9, "D": 1.4e12}, "1.973367"),
        ("besiroglu2024/as-printed", {"N": 1e9, "D": 20e9}, "2.530050"),
        ("besiroglu2024/as-printed", {"N": 70e9, "D": 1.4e12}, "1.973882"),
        ("chen2025/baseline", {"N": 145e6, "D": 20e9}, "3.199797"),
        ("chen2025/baseline", {"N": 595e6, "D": 100e9}, "2.740661"),
        ("chen2025/baseline", {"N": 973e6, "D": 200e9}, "2.614030"),
        ("kumar2025/baseline", {"N": 220e6, "D": 26e9}, "3.196605"),
        ("kumar2025/qat", {"N": 220e6, "D": 26e9, "Pw": 4, "Pa": 8, "Pkv": 8}, "3.243042"),
        ("kumar2025/qat", {"N": 220e6, "D": 26e9, "Pw": 8, "Pa": 8, "Pkv": 8}, "3.208994"),
        ("quartet2025/bf16", {"N": 102777856, "D": 9999745024}, "2.888598"),
        ("quartet2025/mxfp4-forward", {"N": 102777856, "D": 9999745024}, "2.959330"),
        ("quartet2025/mxfp4", {"N": 102777856, "D": 9999745024}, "2.968591"),
        ("ouyang2024/qid", {"N": 160e6, "D": 206e9, "P": 4}, "0.101640"),
        ("ouyang2024/qid", {"N": 160e6, "D": 206e9, "P": 3}, "0.494102"),
        ("ouyang2024/qid", {"N": 160e6, "D": 206e9, "P": 2}, "4.589205"),
        ("ouyang2024/qid", {"N": 12e9, "D": 206e9, "P": 2}, "1.728965"),
        ("dremov2025/qat-fraction", {"S": 10}, "0.053790"),
        ("dremov2025/qat-fraction", {"S": 50}, "0.179019"),
        ("dremov2025/qat-fraction", {"S": 100}, "0.231926"),
        ("dremov2025/qat-fraction", {"S": 1000}, "0.377485"),
        ("li2025/farseer", {"N": 1e9, "D": 2e10}, "0.539408643928975"),
        ("li2025/farseer", {"N": 3e9, "D": 1e11}, "0.47570312553665"),
        ("li2025/farseer", {"N": 2.512077e10, "D": 1.255997e11}, "0.440216887601951"),
        ("li2025/farseer-as-printed", {"N": 1e9, "D": 2e10}, "0.527224134173555"),
        ("li2025/farseer-as-printed", {"N": 3e9, "D": 1e11}, "0.464694980874016"),
        ("li2025/farseer-as-printed", {"N": 2.512077e10, "D": 1.255997e11}, "0.4162890068897"),
        ("kaplan2020/size", {"N": 1e9}, "2.3756403"),
        ("kaplan2020/data", {"D": 2.2e10}, "2.0991683"),
        ("kaplan2020/size-data", {"N": 1e9, "D": 2.2e10}, "2.3693163"),
        ("kaplan2020/size-data", {"N": 1e6, "D": 1e9}, "3.9323105"),
        ("kaplan2020/size-steps", {"N": 1e9, "S": 1e5}, "2.4005137"),
        ("kaplan2020/compute-optimal", {"C": 1}, "2.6580802"),
        ("muennighoff2023/repetition", {"N": 6.34e9, "D": 242e9, "U": 25e9}, "2.2256440889984"),
        ("muennighoff2023/repetition", {"N": 8.67e9, "D": 178e9, "U": 25e9}, "2.2269634075088"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v:g}" for k, v in value.items()),
)
def test_published_law_gives_the_golden_value_to_the_printed_digits(name, at, printed):
    digits(load(name).predict(**at), printed)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("chen2025/w4a4", ("0.069177", "0.044089", "0.057279", "0.041773")),
        ("chen2025/w4a16", ("0.026895", "0.018643", "0.020996", "0.014040")),
        ("chen2025/w16a4", ("0.048956", "0.028722", "0.039957", "0.028199")),
        ("chen2025/w4a4-fc2a8", ("0.047338", "0.033972", "0.038098", "0.026547")),
        ("chen2025/w16a4-fc2a8", ("0.026350", "0.018580", "0.021611", "0.015524")),
    ],
)
def test_qat_law_gives_the_golden_values_to_six_digits(name, printed):
    points = ((145e6, 20e9, 128), (595e6, 100e9, 32), (595e6, 100e9, 128), (7e9, 2e12, 128))
    for (n, d, g), value in zip(points, printed, strict=True):
        digits(load(name).predict(N=n, D=d, G=g), value)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("chen2025/w4a4", "0.0441 0.0508 0.0573 0.0635 0.0790"),
        ("chen2025/w4a16", "0.0186 0.0199 0.0210 0.0220 0.0243"),
        ("chen2025/w16a4", "0.0287 0.0343 0.0400 0.0456 0.0600"),
        ("chen2025/w4a4-fc2a8", "0.0340 0.0361 0.0381 0.0399 0.0439"),
        ("chen2025/w16a4-fc2a8", "0.0186 0.0202 0.0216 0.0229 0.0260"),
    ],
)
def test_qat_law_gives_the_golden_values_over_group_sizes(name, printed):
    for g, value in zip((32, 64, 128, 256, 1536), printed.split(), strict=True):
        digits(load(name).predict(N=595e6, D=100e9, G=g), value)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("chen2025/w4a4", "2.797940"),
        ("chen2025/w4a16", "2.761657"),
        ("chen2025/w16a4", "2.780617"),
        ("chen2025/w4a4-fc2a8", "2.778759"),
        ("chen2025/w16a4-fc2a8", "2.762272"),
    ],
)
def test_baseline_and_delta_add_up_to_the_golden_loss(name, total):
    base = load("chen2025/baseline").predict(N=595e6, D=100e9)
    digits(base + load(name).predict(N=595e6, D=100e9, G=128), total)


@pytest.mark.parametrize(
    ("name", "gaps"),
    [
        ("chen2025/w4a4", "0.0349 0.0373 0.0379"),
        ("chen2025/w16a4", "0.0312 0.0335 0.0341"),
        ("chen2025/w4a16", "0.0057 0.0060 0.0061"),
    ],
)
def test_gap_between_coarsest_and_finest_scales(name, gaps):
    law = load(name)
    for g, gap in zip((1536, 2048, 2186), gaps.split(), strict=True):
        digits(law.predict(N=595e6, D=100e9, G=g) - law.predict(N=595e6, D=100e9, G=32), gap)


@pytest.mark.parametrize(
    ("name", "size", "data"),
    [
        ("chen2025/w4a4", 0.634, "1.187"),
        ("chen2025/w4a16", 0.474, "1.449"),
        ("chen2025/w16a4", 0.685, "1.079"),
    ],
)
def test_effect_of_size_and_data_over_the_box(name, size, data):
    law = load(name)
    smaller = law.predict(N=594_542_592, D=1e11, G=128) / law.predict(N=74_317_824, D=1e11, G=128)
    assert smaller == pytest.approx(size, abs=1e-3)  # from rounded sizes
    digits(law.predict(N=1e8, D=1e11, G=128) / law.predict(N=1e8, D=1e10, G=128), data)


def test_ratio_of_input_to_weight_errors_and_of_eight_bit_fc2_inputs():
    def delta(name, g, ratio=None):
        return load(f"chen2025/{name}").predict(N=595e6, D=ratio * 595e6 if ratio else 100e9, G=g)

    for g, ratio, printed in ((32, 100, "1.646"), (32, 1000, "1.226"), (256, 1000, "1.647")):
        digits(delta("w16a4", g, ratio) / delta("w4a16", g, ratio), printed)
    digits(1 - delta("w4a4-fc2a8", 32) / delta("w4a4", 32), "0.229")
    digits(1 - delta("w4a4-fc2a8", 256) / delta("w4a4", 256), "0.373")


@pytest.mark.parametrize(
    ("n", "d", "e", "m", "b", "printed"),
    [
        (679e6, 104.9e9, 2, 1, 32, "0.028276"),
        (679e6, 104.9e9, 2, 1, 128, "0.039586"),
        (679e6, 104.9e9, 2, 1, 2**13.1567, "0.074403"),
        (679e6, 104.9e9, 4, 3, 128, "0.00049596"),
        (1.2e9, 1e11, 2, 1, 32, "0.024106"),
        (1.2e9, 1e11, 2, 1, 128, "0.033749"),
        (1.2e9, 1e11, 2, 1, 2**13.1567, "0.063431"),
        (1.2e9, 1e11, 4, 3, 128, "0.00042282"),
        (1e9, 1e11, 2, 1, 128, "0.03524"),
        (1e9, 1e11, 4, 3, 128, "0.00044"),
        (1e9, 1e11, 1, 1, 128, "0.18"),
        (1e9, 1e11, 5, 2, 128, "0.00063"),
    ],
)
def test_floating_point_law_gives_the_golden_terms(n, d, e, m, b, printed):
    law = load("sun2025/fp")
    whole = law.predict(N=n, D=d, E=e, M=m, B=1)  # log2 of 1 value a scale: no error
    digits(law.predict(N=n, D=d, E=e, M=m, B=b) - whole, printed)


def test_floating_point_law_without_quantization():
    for at, printed in (
        ((679e6, 104.9e9), "2.608238"),
        ((1.2e9, 1e11), "2.541001"),
        ((1e9, 1e11), "2.5626"),
    ):
        digits(load("sun2025/fp").predict(N=at[0], D=at[1], E=2, M=1, B=1), printed)


def test_precision_law_gives_the_golden_deltas():
    law = load("kumar2025/ptq")
    for (n, d), printed in (
        ((220e6, 26e9), "0.095585 0.017586 0.003236 0.000595"),
        ((30e6, 1.5e9), "0.044679 0.008220 0.001512 0.000278"),
    ):
        for bits, value in zip((3, 4, 5, 6), printed.split(), strict=True):
            digits(law.predict(N=n, D=d, P=bits), value)


def test_quest_law_gives_the_golden_losses():
    law = load("panferov2025/quest")
    found = law.predict(N=102777856, D=9999745024, P=[16, 4, 2, "1"])
    for value, printed in zip(found, ("2.892293", "2.952080", "3.213156", "3.598402"), strict=True):
        digits(value, printed)


# --- laws that were measured on public runs


@pytest.mark.parametrize(
    ("method", "printed"),
    [
        ("gptq", "-0.653 0.066 -0.048 1.614 -1.597 .970 .180"),
        ("omniquant", "-3.089 0.095 0.329 0.896 -1.472 .952 .196"),
        ("rtn", "0.684 -0.130 0.039 2.573 -2.069 .897 .478"),
    ],
)
def test_ptq_law_has_the_constants_of_its_regression(method, printed):
    law = load(f"measured/ptq-{method}")
    p = law.parameters
    constant = math.log(p["k"]) - p["gN"] * math.log(1e6) + p["gD"] * math.log(1e9)
    found = (
        constant,
        -p["gN"],
        p["gD"],
        p["gG"],
        -p["c"],
        law.diagnostics["r2"],
        law.diagnostics["rmse_of_log"],
    )
    for value, text in zip(found, printed.split(), strict=True):
        digits(value, text)


def test_ptq_law_has_the_stated_error_on_the_table(shared):
    law = load("measured/ptq-gptq")
    with (shared / "data/ptq_llama_omniquant/ptq_llama_wikitext2.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["method"] == "GPTQ" and r["w_bits"] in ("3", "4")]
    column = {
        key: np.array([float(r[key]) for r in rows]) for key in ("n_params", "tokens", "w_bits", "delta_loss")
    }
    groups = np.array([float(r["group_size_effective"]) for r in rows])
    found = law.predict(N=column["n_params"], D=column["tokens"], G=groups, P=column["w_bits"])
    rmse = math.sqrt(np.sum(np.log(found / column["delta_loss"]) ** 2) / (len(rows) - 5))
    digits(rmse, ".180")


def test_additive_law_has_the_stated_error_on_the_quest_runs(shared):
    law = load("measured/quest-additive")
    with (shared / "data/quest_qat/quest_runs.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["w_quant"] == r["a_quant"]]
    kept = [r for r in rows if r["w_quant"] == "NoQuantizer" or _plain_hadamard(r["w_quant"])]
    bits = [r["w_bits"] if r["w_quant"] != "NoQuantizer" else "none" for r in kept]
    found = law.predict(
        N=[float(r["N_nonemb"]) for r in kept], D=[float(r["D_tokens"]) for r in kept], P=bits
    )
    residual = np.log(found) - np.log([float(r["loss"]) for r in kept])
    assert len(kept) == 54
    assert np.sum(residual**2) == pytest.approx(2.7908e-4, rel=1e-4)


def _plain_hadamard(name):
    return "Hadamard" in name and "FP4" not in name and "FourEight" not in name


def test_quest_law_has_the_published_error_on_its_runs(shared):
    laws = {"quest": "panferov2025/quest", "plain": "panferov2025/quest-no-hadamard"}
    laws |= {"weight": "panferov2025/quest-weight-only"}
    laws = {kind: load(name) for kind, name in laws.items()}
    total = 0.0
    with (shared / "data/quest_qat/quest_runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        kind, level = _scheme(row)
        found = laws[kind].predict(N=float(row["N_nonemb"]), D=float(row["D_tokens"]), P=level)
        total += math.log(found / float(row["loss"])) ** 2
    assert len(rows) == 104
    # the constants are printed to four or five digits
    assert total == pytest.approx(1.476863e-3, rel=2e-3)


def _scheme(row):
    name = row["w_quant"]
    if name == "NoQuantizer":
        return "quest", 16
    if "FP4" in name:
        return "quest", "fp4"
    if "FourEight" in name:
        return "quest", "sparse-int4"
    if row["a_quant"] == "NoQuantizer":
        return "weight", row["w_bits"]
    return ("quest" if "Hadamard" in name else "plain"), row["w_bits"]


def test_quartet_law_has_the_stated_constants_and_error(shared):
    law = load("measured/quartet-paired")
    digits(law.predict(N=1e8, D=1e10), ".0745")
    for name, printed in (("k", "0.184"), ("gD", ".101"), ("gN", ".175")):
        digits(law.parameters[name], printed)
    with (shared / "data/quartet1_runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    base, cells = (
        {_cell(row): float(row["loss"]) for row in rows if _forward(row) == name}
        for name in ("BF16", "QuEST")
    )
    errors = [
        abs(law.predict(N=float(n), D=float(d)) / (loss - base[n, d]) - 1) for (n, d), loss in cells.items()
    ]
    assert len(errors) == 21
    digits(np.mean(errors), ".029")


def _cell(row):
    return row["N_nonemb"], row["D_tokens"]


def _forward(row):
    return row["fwd_quant"] if row["bwd_quant"] == "BF16" else None


def test_farseer_of_our_own_fit_agrees_with_the_authors_over_the_box():
    ours, theirs = load("measured/farseer"), load("li2025/farseer")
    n, d = np.meshgrid(np.geomspace(*theirs.box["N"], 9), np.geomspace(*theirs.box["D"], 9))
    ratio = ours.predict(N=n, D=d) / theirs.predict(N=n, D=d)
    assert np.mean(np.abs(ratio - 1)) < 0.005
    printed = load("li2025/farseer-as-printed")
    assert np.mean(printed.predict(N=n, D=d) / theirs.predict(N=n, D=d)) < 0.985, "three digits are too few"


@pytest.mark.parametrize(
    ("name", "table", "fit"),
    [
        ("mcleish2025/size", "cool_end", "parameters_grid_search_0_cool_end_no_embeds"),
        ("mcleish2025/size-with-embeddings", "cool_end", "parameters_grid_search_0_cool_end"),
        ("mcleish2025/width-depth", "hot_100b+", "width_depth_grid_search_0_hot_100b+"),
        ("mcleish2025/width-depth-size", "cool_end", "width_depth_parameters_grid_search_0_cool_end"),
    ],
)
def test_gemstones_law_has_the_published_objective_on_its_runs(shared, name, table, fit):
    folder = shared / "data" / "gemstones"
    published = json.loads((folder / f"pub_parameters_delta-3__approach_3_{fit}.json").read_text())
    lines = (folder / f"wandb_df_for_fitting_{table}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    columns = {
        key: np.array([float(row[name]) for row in rows])
        for key, name in (
            ("N", "params_active_precise"),
            ("D", "tokens"),
            ("width", "width"),
            ("depth", "depth"),
        )
    }
    if fit.endswith("no_embeds"):
        columns["N"] = columns["N"] - 50304 * columns["width"]
    law = load(name)
    found = law.predict(**{v.name: columns[v.name] for v in law.form.variables})
    residual = np.abs(np.log(found) - np.log([row["final_loss"] for row in rows]))
    huber = np.where(residual < 1e-3, residual**2 / 2, 1e-3 * (residual - 5e-4))
    assert huber.sum() == pytest.approx(published["loss"]["0"], abs=1e-10)


# --- what every published law has


@pytest.mark.parametrize("name", list_published())
def test_published_law_says_where_it_comes_from_and_what_it_counts(name):
    law = load(name)
    assert law.citation["url"].startswith("https://arxiv.org/abs/")
    counted = {v.name for v in law.form.variables} & {"N", "D"}
    assert counted <= set(law.conventions)
    assert all(low <= high for low, high in law.box.values())
    if law.form.target == "delta":
        assert law.quantization["mode"], "a delta belongs to a way of quantizing"
    centre = {v: math.sqrt(low * high) for v, (low, high) in law.box.items()}
    centre |= {v.name: v.levels[0] for v in law.form.variables if v.levels}
    centre |= {"eta": np.full(50, 3e-4)} if "eta" in centre else {}
    value = np.asarray(law.predict(**centre))
    assert np.all(np.isfinite(value)) and np.all(value > 0)


def test_forms_without_published_constants_are_known():
    used = {load(name).form.id.partition("[")[0] for name in list_published()}
    assert set(forms.FORMS) - used == {
        "additive-bits",
        "bnsl",
        "bnsl-2",
        "farseer-centred",
        "joint-table",
        "m1",
        "m2",
        "m3",
        "m4",
        "ma-dynamics",
        "mixed-ptq",
        "mixed-ptq-block",
        "noise",
        "over-training",
        "precision-cubed",
        "precision-unified",
        "qat-saturating",
        "qat-split-loss",
        "qat-table",
        "task-ptq",
    }


def test_massive_activations_and_breaks_give_the_golden_values():
    ratio = forms.get("ma-dynamics").value({"A": 2, "lam": 0.5, "gam": 1, "t0": 1, "K": 0}, {"t": 3})
    digits(ratio, "0.375229")
    p = {"a": 0.1, "b": 5, "c0": 0.2, "c1": 0.5, "d1": 1000, "f1": 0.3}
    found = forms.get("bnsl").value(p, {"x": [100, 1000, 1e4]})
    for value, printed in zip(found, ("2.0903973", "1.2319194", "0.3505762"), strict=True):
        digits(value, printed)


def test_effective_parameters_of_the_precision_law():
    p = load("kumar2025/qat").parameters
    for bits, printed in (((4, 8, 8), "1.660825e8"), ((8, 8, 8), "2.033036e8")):
        loss = load("kumar2025/qat").predict(
            N=220e6, D=26e9, **dict(zip(("Pw", "Pa", "Pkv"), bits, strict=True))
        )
        size = (loss - p["E"] - p["B"] / 26e9 ** p["beta"]) / p["A"]
        digits(size ** (-1 / p["alpha"]), printed)


def test_fraction_of_published_law_and_of_step_law_are_plausible():
    assert load("li2025/step-law-rate").predict(N=1e9, D=1e11) == pytest.approx(
        1.79 * 1e9**-0.713 * 1e11**0.307
    )
    # training notes of the rule far below its range
    digits(load("li2025/step-law-rate").predict(N=3e5, D=6e6), "0.027")
    digits(load("li2025/step-law-batch").predict(D=2e8), "3.2e4")
