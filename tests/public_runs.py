"""Readers of public scaling runs and fits, in ``shared/data`` beside the repository, as problems to fit."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np

from qscale.laws import forms
from qscale.laws.design import Design
from qscale.laws.forms.form import D, Form, LogAxis, N, Parameter, Term


def epoch(shared, rows=240):
    """The points of Hoffmann et al. 2022, read off its figure; 240 leave out the five highest losses."""
    with (shared / "data" / "epoch_chinchilla" / "svg_extracted_data.csv").open() as file:
        table = list(csv.DictReader(file))
    n = np.array([float(row["Model Size"]) for row in table])
    d = np.array([float(row["Training FLOP"]) for row in table]) / (6 * n)
    loss = np.array([float(row["loss"]) for row in table])
    keep = loss <= np.sort(loss)[rows - 1]
    return Design.make(forms.get("chinchilla"), {"N": n[keep], "D": d[keep]}, loss[keep])


def _csv(shared, *path):
    with shared.joinpath("data", *path).open() as file:
        return list(csv.DictReader(file))


def _scheme(row):
    """Bits with a rotation on both sides; other schemes by name; 16 where nothing is quantized."""
    weight, inputs, bits = row["w_quant"], row["a_quant"], row["w_bits"]
    if weight == inputs == "NoQuantizer":
        return "16"
    if "FP4" in weight:
        return "fp4"
    if "FourEight" in weight:
        return "sparse"
    if inputs == "NoQuantizer":
        return f"weights{bits}"
    return bits if "Hadamard" in weight else f"plain{bits}"


def quest(shared):
    """The 104 runs of Panferov et al. 2025."""
    rows = _csv(shared, "quest_qat", "quest_runs.csv")
    numbers = {ours: [float(row[theirs]) for row in rows] for ours, theirs in
               (("N", "N_nonemb"), ("D", "D_tokens"), ("loss", "loss"))}  # fmt: skip
    return numbers | {"P": [_scheme(row) for row in rows]}


def quartet(shared):
    """Runs of Castro et al. 2025 with MXFP4 in the forward pass, and their BF16 twins, as rows of losses."""
    rows = _csv(shared, "quartet1_runs.csv")
    kinds = {("BF16", "BF16"): "none", ("QuEST", "BF16"): "mxfp4"}
    kept = [row for row in rows if (row["fwd_quant"], row["bwd_quant"]) in kinds]
    return [
        {
            "N": float(row["N_nonemb"]),
            "D": float(row["D_tokens"]),
            "loss": float(row["loss"]),
            "P": kinds[row["fwd_quant"], row["bwd_quant"]],
            "ladder": f"{row['N_nonemb']} {row['D_tokens']}",
        }
        for row in kept
    ]


def quartet_pairs(shared):
    """The 21 differences of matched runs."""
    rows = quartet(shared)
    baseline = {(row["N"], row["D"]): row["loss"] for row in rows if row["P"] == "none"}
    return [
        {
            "N": row["N"],
            "D": row["D"],
            "delta": row["loss"] - baseline[row["N"], row["D"]],
            "ladder": row["ladder"],
        }
        for row in rows
        if row["P"] != "none"
    ]


def gemstones_form(names):
    """A sum of powers of these variables and of the tokens, beside a constant."""
    variables = (*(replace(N, name=name) for name in names), replace(D, name="tokens"))
    terms = [
        Term(scale=f"c_{v.name}", axes=(LogAxis(parameter=f"a_{v.name}", variable=v.name, sign=-1),))
        for v in variables
    ]
    parameters = [name for v in variables for name in (f"c_{v.name}", f"a_{v.name}")]
    return Form(
        id="-".join(names),
        formula="sum of powers",
        target="loss",
        parameters=tuple(Parameter(name=name, meaning=name) for name in (*parameters, "E")),
        variables=variables,
        citation="-",
        terms=(*terms, Term(scale="E")),
    )


def gemstones_fits(shared):
    """The rows, form, width and published objective of each public fit of the folder."""
    folder = shared / "data" / "gemstones"
    for path in sorted(folder.glob("pub_*.json")):
        name = path.stem.removeprefix("pub_parameters_delta-")
        width, rest = 10.0 ** -int(name[0]), name[1:].removeprefix("__approach_3_")
        kind, chosen = rest.split("_grid_search_0_")
        with_embeddings = not chosen.endswith("_no_embeds")
        chosen = chosen.removesuffix("_no_embeds")
        lines = (folder / f"wandb_df_for_fitting_{chosen}.jsonl").read_text().splitlines()
        table = [json.loads(line) for line in lines]
        numbers = [key for key, value in table[0].items() if isinstance(value, (int, float))]
        column = {key: np.array([row[key] for row in table], dtype=np.float64) for key in numbers}
        n = column["params_active_precise"]
        column["N"] = n if with_embeddings else n - 50304 * column["width"]
        names = {"parameters": ["N"], "width_depth": ["width", "depth"],
                 "width_depth_parameters": ["width", "depth", "N"]}[kind]  # fmt: skip
        form = gemstones_form(names)
        design = Design.make(form, {v.name: column[v.name] for v in form.variables}, column["final_loss"])
        published = json.loads(path.read_text())
        yield path.stem, design, width, published
