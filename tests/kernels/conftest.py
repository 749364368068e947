"""Every implementation that this machine can run, each as a function like ``fake_quant`` or ``hadamard``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from definitions import definition
from torch import Tensor

from qscale.errors import BackendError
from qscale.kernels import fake_quant, hadamard, use_backend, use_isa


def _runs(isa: str) -> bool:
    try:
        with use_isa(isa):
            return True
    except BackendError:
        return False


IMPLEMENTATIONS = ["reference", *(isa for isa in ("plain", "avx2", "avx512") if _runs(isa))]


def _on(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*arguments: Any, **more: Any) -> Tensor:
        if name == "reference":
            with use_backend("reference"):
                return function(*arguments, **more)
        with use_backend("cpu"), use_isa(name):
            return function(*arguments, **more)

    return run


@pytest.fixture(params=IMPLEMENTATIONS, scope="session")
def quantize(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return _on(request.param, fake_quant)


@pytest.fixture(params=IMPLEMENTATIONS, scope="session")
def rotate(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return _on(request.param, hadamard)


@pytest.fixture(scope="session")
def check() -> Callable[..., None]:
    """That every implementation gives the bits that are wanted: those of the definition, computed once."""

    def run(x: Tensor, spec: str, wanted: Tensor | None = None, **more: Any) -> None:
        wanted = definition(x, spec, **more) if wanted is None else wanted
        before = x.clone()
        for name in IMPLEMENTATIONS:
            y = _on(name, fake_quant)(x, spec, **more)
            try:
                assert_same_bits(y, wanted)
            except AssertionError as error:
                raise AssertionError(f"{spec} on {name}: {error}\n{torch.Tensor.tolist(x)!r:.2000}") from None
            assert y.is_contiguous()
        assert_same_bits(x, before)

    return run
