"""The processes that train one model together: one alone, or those that ``accelerate launch`` started.

No torch until they train.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    shards = False  #: whether each process has a part of the model alone

    def device(self, asked: str) -> str:
        """Where this process computes, of the device that was asked for."""
        return asked

    def builds_on(self, device: str) -> str:
        """Where a model is made that then trains on ``device``."""
        return device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """What computes the loss and what makes the step."""
        return model, optimizer

    def starting(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A forward pass, alike in every process, in which quantizers take their first scales."""
        del model
        return nullcontext()

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter, a gradient or a moment; every process has to ask, in the same order."""
        return tensor

    def gathered(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors by name, in the main process, which writes them; every process has to ask."""
        found = {}
        for name, tensor in tensors:
            value = self.whole(tensor.detach())
            if self.is_main:
                found[name] = value.contiguous().cpu()
        return found

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

    def start_trackers(self) -> None:
        """Let the trackers make their files: once the study has its folder, as a new one has to be empty."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell the trackers."""
        del values, step


class AcceleratedRanks(Ranks):
    """The processes of ``accelerate launch``, each with the whole model (DDP); and trackers.

    Those of a launch with FSDP are :class:`ShardedRanks`.

    Args:
        device: As torch names it; ``cpu`` goes through gloo.
        trackers: Some of ``tensorboard``, ``wandb``, ``mlflow``; the main process tells them.
        folder: Where trackers write.
        name: Of the run, for the trackers.

    Raises:
        ConfigError: accelerate or a tracker is not installed, or the launch divides models in a way that is
            not supported.
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
        except (ImportError, ValueError) as error:
            raise ConfigError(f"trackers {', '.join(trackers)}: {error}") from error
        found = {getattr(kind, "value", kind) for kind in self.accelerator.log_with}
        if missing := [tracker for tracker in trackers if tracker not in found]:
            # accelerate leaves out what is not installed, and says nothing.
            raise ConfigError(f"--tracker {missing[0]}: not installed here; pip install {missing[0]}")
        kind = str(self.accelerator.distributed_type).rpartition(".")[2]
        if kind in ("DEEPSPEED", "MEGATRON_LM"):
            raise ConfigError(
                f"{kind} is not supported: launch with DDP (accelerate launch --multi_gpu) or with FSDP "
                "(accelerate launch --use_fsdp --fsdp_version 2)"
            )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.trackers, self._name = trackers, name

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

    def start_trackers(self) -> None:
        if not self.trackers:
            return
        try:
            self.accelerator.init_trackers(self._name)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"trackers {', '.join(self.trackers)}: {error}") from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.trackers:
            self.accelerator.log(dict(values), step=step)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device


class ShardedRanks(AcceleratedRanks):
    """The processes of ``accelerate launch --use_fsdp --fsdp_version 2``, each with a part of the model.

    The division is torch's ``fully_shard``, called here and not by accelerate, which leaves it out on CPUs.
    Of the launch's FSDP options ``fsdp_reshard_after_forward`` is followed; blocks of a model are always
    gathered one by one. A model is made on the CPU, so that no device has to hold all of it.

    Raises:
        ConfigError: As for :class:`AcceleratedRanks`; or FSDP of version 1, or an option that would change
            numbers or is not supported.
    """

    shards = True

    def __init__(
        self, device: str, trackers: tuple[str, ...] = (), folder: Path | None = None, name: str = "qscale"
    ) -> None:
        super().__init__(device, trackers, folder, name)
        from accelerate import FullyShardedDataParallelPlugin
        from torch.distributed.device_mesh import init_device_mesh

        plugin = FullyShardedDataParallelPlugin()  # of what the launch put into the environment
        _check_fsdp(plugin, self.accelerator)
        self._reshard = bool(plugin.reshard_after_forward)
        self._mesh = init_device_mesh(self._device.type, (self.world,))

    def builds_on(self, device: str) -> str:
        del device
        return "cpu"

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        from qscale.training import sharding

        sharding.shard(model, optimizer, self._mesh, self._reshard)
        return model, optimizer

    def starting(self, model: nn.Module) -> AbstractContextManager[Any]:
        from qscale.training import sharding

        return sharding.starting(model)

    def whole(self, tensor: Tensor) -> Tensor:
        from qscale.training import sharding

        return sharding.whole(tensor)

    @contextmanager
    def apart(self, model: Any) -> Iterator[None]:
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        from torch import nn

        return float(self.whole(nn.utils.clip_grad_norm_(parameters, most)))


def _check_fsdp(plugin: Any, accelerator: Any) -> None:
    """Refuse what would be left out or would change numbers."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    if plugin.fsdp_version != 2:
        raise ConfigError("FSDP of version 1 is not supported: launch with --fsdp_version 2")
    state, wrap = accelerator.state, getattr(plugin.auto_wrap_policy, "__name__", "")
    refused = {
        "--fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "--fsdp_ignored_modules": plugin.ignored_modules is not None,
        "--fsdp_auto_wrap_policy SIZE_BASED_WRAP": wrap == "size_based_auto_wrap_policy",
        "--fsdp_transformer_layer_cls_to_wrap": plugin.transformer_cls_names_to_wrap is not None,
        "--use_parallelism_config": getattr(state, "parallelism_config", None) is not None,
        "--fsdp_activation_checkpointing": plugin.activation_checkpointing,
        "--mixed_precision": accelerator.mixed_precision != "no",
        "--dynamo_backend": str(getattr(state.dynamo_plugin.backend, "value", "NO")).upper() != "NO",
    }
    instead = {
        "--fsdp_activation_checkpointing": "; qscale train has --checkpoint-activations",
        "--mixed_precision": "; qscale train has --precision",
        "--dynamo_backend": "; qscale train has --compile",
    }
    for option, given in refused.items():
        if given:
            raise ConfigError(
                f"accelerate launch {option}: not supported with FSDP here, leave it out"
                f"{instead.get(option, '')}"
            )


def _asks_for_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


@cache
def ranks_of(device: str, trackers: tuple[str, ...] = (), folder: Path | None = None) -> Ranks:
    """Those of this process: alone unless it was launched with others, or trackers are asked for."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and _asks_for_fsdp():
        return ShardedRanks(device, trackers, folder)
    return AcceleratedRanks(device, trackers, folder) if several or trackers else Ranks()
