"""Every implementation that this machine can run, each as a function like ``fake_quant`` or ``hadamard``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from torch import Tensor

from qscale.errors import BackendError
from qscale.kernels import fake_quant, hadamard, use_backend, use_isa


def _runs(isa: str) -> bool:
    try:
        with use_isa(isa):
            return True
    except BackendError:
        return False


COMPILED = [isa for isa in ("plain", "avx2", "avx512") if _runs(isa)]
IMPLEMENTATIONS = ["reference", *COMPILED]


@contextmanager
def _on(name: str) -> Iterator[None]:
    if name == "reference":
        with use_backend("reference"):
            yield
    else:
        with use_backend("cpu"), use_isa(name):
            yield


@pytest.fixture(params=IMPLEMENTATIONS, scope="session")
def implementation(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[None]]:
    """Within ``with implementation():`` everything runs on one of them."""
    return lambda: _on(request.param)


@pytest.fixture(params=COMPILED, scope="session")
def isa(request: pytest.FixtureRequest) -> str:
    """The instruction sets of the compiled kernels, for ``use_isa``."""
    return request.param


@pytest.fixture(scope="session")
def quantize(implementation: Callable[[], AbstractContextManager[None]]) -> Callable[..., Tensor]:
    def run(x: Tensor, spec: str, **more: Any) -> Tensor:
        with implementation():
            return fake_quant(x, spec, **more)

    return run


@pytest.fixture(scope="session")
def rotate(implementation: Callable[[], AbstractContextManager[None]]) -> Callable[..., Tensor]:
    def run(x: Tensor, block: int | None = None, signs: Tensor | None = None, **more: bool) -> Tensor:
        with implementation():
            return hadamard(x, block, signs, **more)

    return run
