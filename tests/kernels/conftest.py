"""Every implementation that this machine can run, each as a function like ``fake_quant`` or ``hadamard``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


COMPILED = [isa for isa in ("plain", "avx2", "avx512", "emulator") if _runs(isa)]
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


@pytest.fixture(scope="session")
def check() -> Callable[..., None]:
    """That every implementation gives the bits that are wanted: those of the definition, computed once."""

    def run(x: Tensor, spec: str, wanted: Tensor | None = None, **more: Any) -> None:
        wanted = definition(x, spec, **more) if wanted is None else wanted
        before = x.clone()
        for name in IMPLEMENTATIONS:
            with _on(name):
                y = fake_quant(x, spec, **more)
            try:
                assert_same_bits(y, wanted)
            except AssertionError as error:
                raise AssertionError(f"{spec} on {name}: {error}\n{torch.Tensor.tolist(x)!r:.2000}") from None
            assert y.is_contiguous()
        assert_same_bits(x, before)

    return run
