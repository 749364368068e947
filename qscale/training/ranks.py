"""The processes that train one model together: one alone, or those that ``accelerate launch`` started.

No torch until they train.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qscale.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

TRACKERS = ("tensorboard", "wandb", "mlflow")


class Ranks:
    """One process: everything is its own."""

    rank = 0
    world = 1

    def device(self, asked: str) -> str:
        """Where this process computes, of the device that was asked for."""
        return asked

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """What computes the loss and what makes the step."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process's share of the loss; those of all are averaged with the last part."""
        loss.backward()  # type: ignore[no-untyped-call]

    def apart(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A part of a step after which gradients are not yet averaged."""
        del model
        return nullcontext()

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        """Scale the gradients down to a norm of ``most``; the norm that they had."""
        from torch import nn

        return float(nn.utils.clip_grad_norm_(parameters, most))

    def mean(self, value: float) -> float:
        """Of a number that each process has."""
        return value

    def tell(self, value: Any) -> Any:
        """What the main process says, to all: anything that can be pickled."""
        return value

    def join(self, parts: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Rows that each process has a share of, in the order of all; ``order`` numbers its own."""
        del order
        return parts

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell the trackers."""
        del values, step


class AcceleratedRanks(Ranks):
    """The processes of ``accelerate launch``, each with the whole model (DDP); and trackers.

    Args:
        device: As torch names it; ``cpu`` goes through gloo.
        trackers: Some of ``tensorboard``, ``wandb``, ``mlflow``; the main process tells them.
        folder: Where trackers write.
        name: Of the run, for the trackers.

    Raises:
        ConfigError: accelerate or a tracker is not installed, or the launch shards models.
    """

    def __init__(
        self, device: str, trackers: tuple[str, ...] = (), folder: Path | None = None, name: str = "qscale"
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ConfigError(
                "several processes and trackers need accelerate: pip install accelerate"
            ) from error
        for tracker in trackers:
            if tracker not in TRACKERS:
                raise ConfigError(f"unknown tracker {tracker!r}; known: {', '.join(TRACKERS)}")
        try:
            self.accelerator = Accelerator(
                cpu=device == "cpu", log_with=list(trackers) or None, project_dir=folder
            )
            if trackers:
                self.accelerator.init_trackers(name)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"trackers {', '.join(trackers)}: {error}") from error
        kind = str(self.accelerator.distributed_type).rpartition(".")[2]
        if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise ConfigError(
                f"{kind} shards a model, whose checkpoints and evaluation need all of it in one place here: "
                "launch with DDP (accelerate launch --multi_gpu)"
            )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.trackers = trackers

    def device(self, asked: str) -> str:
        return asked if self.world == 1 else str(self._device)

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        if self.world == 1:
            return model, optimizer
        prepared: tuple[nn.Module, Any] = self.accelerator.prepare(model, optimizer)
        return prepared

    def apart(self, model: nn.Module) -> AbstractContextManager[Any]:
        if self.world == 1:
            return nullcontext()
        parted: AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return parted

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        if self.world == 1:
            return super().clip(parameters, most)
        norm = self.accelerator.clip_grad_norm_(parameters, most)
        assert norm is not None
        return float(norm)

    def mean(self, value: float) -> float:
        if self.world == 1:
            return value
        import torch

        told = torch.tensor(value, dtype=torch.float64, device=self._device)
        return float(self.accelerator.reduce(told, "mean"))

    def tell(self, value: Any) -> Any:
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def join(self, parts: np.ndarray, order: np.ndarray) -> np.ndarray:
        if self.world == 1:
            return parts
        import numpy as np
        from accelerate.utils import gather_object

        pairs = gather_object([(parts, order)])
        numbers = np.concatenate([order for _, order in pairs])
        rows = np.concatenate([part for part, _ in pairs])
        out: np.ndarray = rows[np.argsort(numbers, kind="stable")]
        return out

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.trackers:
            self.accelerator.log(dict(values), step=step)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device


@cache
def ranks_of(device: str, trackers: tuple[str, ...] = (), folder: Path | None = None) -> Ranks:
    """Those of this process: alone unless it was launched with others, or trackers are asked for."""
    if trackers or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return AcceleratedRanks(device, trackers, folder)
    return Ranks()
