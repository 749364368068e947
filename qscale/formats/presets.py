"""Recipes with a name of their own: one table. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from qscale.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A name and the recipe that it stands for."""

    name: str
    recipe: str  #: ``{span}`` is the granularity after the name, ``{tokens}`` the same for inputs
    meaning: str
    coarse: str | None = None  #: in place of ``recipe`` for groups of 256 and more, and per channel

    @property
    def takes_span(self) -> bool:
        """Whether a granularity is given after the name, as in ``lsq-w4a4:g128``."""
        return "{span}" in self.recipe


def _chen(bits: str, extra: str = "") -> Preset:
    recipe = f"{bits}:{{span}}@chen2025{extra}"
    return Preset(
        name=f"chen2025-{bits}{'-fc2a8' if extra else ''}",
        recipe=recipe,
        coarse=None if bits.endswith("a16") else f"{recipe},q=absmax/lac",
        meaning="the paper's choice of quantizers: absmax, and LAC for inputs where G >= 256",
    )


#: Sources: chen2025, arXiv:2505.14302; quest, arXiv:2502.05003; lsq, arXiv:1902.08153; paretoq,
#: arXiv:2502.02631; ofq, Liu et al. 2023 (ICML).
_ROWS = (
    Preset(
        name="w4a4-fc2a8",
        recipe="w4a4:{span},fc2.input=int8:{tokens}",
        meaning="INT4, the input of the second feed-forward layer INT8",
    ),
    Preset(
        name="w16a4-fc2a8", recipe="w16a4:{span},fc2.input=int8:{tokens}", meaning="likewise, inputs only"
    ),
    _chen("w4a4"),
    _chen("w4a16"),
    _chen("w16a4"),
    _chen("w4a4", ",fc2.input=int8:{tokens}@chen2025"),
    Preset(name="fp8", recipe="w=fp8_e4m3:channel,a=fp8_e4m3:token", meaning="FP8, E4M3"),
    Preset(name="mxfp8", recipe="w=mxfp8_e4m3,a=mxfp8_e4m3", meaning="MXFP8, E4M3"),
    Preset(name="mxfp4", recipe="w=mxfp4,a=mxfp4", meaning="MXFP4"),
    Preset(name="nvfp4", recipe="w=nvfp4,a=nvfp4", meaning="NVFP4"),
    *(
        Preset(
            name=f"quest-w{bits}a{bits}",
            recipe=f"w{bits}a{bits}:channel,rot=hadamard:128,q=quest",
            meaning="QuEST: rotation, Gaussian-optimal clip, trust gradient",
        )
        for bits in (2, 3, 4, 8)
    ),
    *(
        Preset(name=f"lsq-w{w}a{a}", recipe=f"w{w}a{a}:{{span}}:full,q=lsq", meaning="LSQ, learned steps")
        for w, a in ((4, 4), (3, 3), (2, 2), (8, 8), (4, 16))
    ),
    Preset(
        name="lwc-lac-w4a4",
        recipe="w4a4:{span}@chen2025,q=lwc/lac",
        meaning="learned clips for both operands",
    ),
    Preset(name="ofq-w4a4", recipe="w4a4:{span},q=statsq/lsq", meaning="OFQ: StatsQ weights, LSQ inputs"),
    Preset(
        name="ofq-cga-w4a4",
        recipe="w4a4:{span},q=statsq/lsq,anneal=0.02",
        meaning="OFQ, annealed by confidence over the last 2 % of the steps (our choice of part)",
    ),
    Preset(
        name="ofq-qkr-w4a4",
        recipe="w4a4:{span},q=statsq/lsq,qkr=int4:{span}",
        meaning="OFQ with query-key reparameterisation, for families without rotary positions",
    ),
    Preset(name="paretoq-w2a16", recipe="w2a16:channel:full,q=seq", meaning="ParetoQ at 2 bits"),
    Preset(name="paretoq-w1.58a16", recipe="w2a16:channel,q=seq", meaning="ParetoQ, ternary"),
)
#: Every ready-made recipe by name.
PRESETS: dict[str, Preset] = {row.name: row for row in _ROWS}

_COARSE = 256
_SPAN = re.compile(r"g([1-9]\d*)|channel|token")


def known() -> str:
    """Every name, for messages: ``:G`` where a granularity follows it."""
    return ", ".join(f"{row.name}:G" if row.takes_span else row.name for row in PRESETS.values())


def hint(text: str) -> str:
    """The name nearest to the head of a text that is none, for messages; empty where none is near."""
    name, _, span = text.partition(",")[0].partition(":")
    nearest = get_close_matches(name, PRESETS, n=1, cutoff=0.7)
    if not nearest:
        return ""
    span = f":{span or 'g32'}" if PRESETS[nearest[0]].takes_span else ""
    return f"did you mean {nearest[0] + span!r}? "


def expand(text: str) -> str:
    """A recipe text with a ready-made name at its head written out; other text as it is.

    >>> expand("w4a4-fc2a8:g128")
    'w4a4:g128,fc2.input=int8:g128'
    >>> expand("chen2025-w4a4:channel,keep=last")
    'w4a4:channel@chen2025,q=absmax/lac,keep=last'

    Raises:
        SpecError: A granularity is missing, superfluous or not one.
    """
    head, comma, rest = text.partition(",")
    name, colon, span = head.partition(":")
    if name not in PRESETS:
        return text
    preset = PRESETS[name]
    if preset.takes_span != bool(colon):
        wanted = f"needs a granularity, such as {name}:g128" if preset.takes_span else "takes no granularity"
        raise SpecError(f"recipe {text!r}: {name} {wanted}")
    recipe = preset.recipe
    if colon:
        match = _SPAN.fullmatch(span)
        if match is None:
            raise SpecError(f"recipe {text!r}: {name} takes g<elements> or channel, not {span!r}")
        if preset.coarse is not None and (match[1] is None or int(match[1]) >= _COARSE):
            recipe = preset.coarse
    filled = recipe.format(span=span_of(span, "channel"), tokens=span_of(span, "token"))
    return f"{filled}{comma}{rest}"


def span_of(span: str, per_row: str) -> str:
    """A granularity with ``channel`` or ``token`` at its head written as ``per_row``."""
    return re.sub(r"^(channel|token)\b", per_row, span)
