"""What quantization-aware training costs in size, data and group size."""

from __future__ import annotations

from qscale.laws.forms.form import D, Form, G, LogAxis, N, Parameter, Term

FORMS = (
    Form(
        id="qat-unified",
        formula="delta = k * D^gD * (log2 G)^gG / N^gN",
        target="delta",
        parameters=(
            Parameter(
                name="k",
                meaning="scale; means nothing without its exponents",
                unit="nats/token * N^gN / D^gD",
            ),
            Parameter(name="gN", meaning="how fast delta falls with model size"),
            Parameter(name="gD", meaning="how fast delta grows with training tokens"),
            Parameter(name="gG", meaning="how fast delta grows with log2 of the group size"),
        ),
        variables=(N, D, G),
        citation="Chen et al. 2025, arXiv:2505.14302",
        terms=(
            Term(
                scale="k",
                axes=(
                    LogAxis(parameter="gN", variable="N", sign=-1),
                    LogAxis(parameter="gD", variable="D", sign=1),
                    LogAxis(parameter="gG", variable="G", sign=1, transform="log2"),
                ),
            ),
        ),
    ),
)
