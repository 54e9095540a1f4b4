"""What a recipe's step may ask of the loop: noise, and one step of an optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kexue_core.errors import NonFiniteLossError
from kexue_core.training.recipe import StepContext
from kexue_core.training.seeding import derive, seed_everything

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["LoopContext", "agree"]


class LoopContext(StepContext):
    """The loop's side of :class:`~kexue_core.training.recipe.StepContext`.

    Args:
        accelerator: Device and processes.
        seed: Seed of the run.
        steps: Length of the run.
        optimizers: The optimisers by name.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        seed: int,
        steps: int,
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        self.step = 0
        self.steps = steps
        self.device = accelerator.device
        self.generator = torch.Generator(device=self.device)
        self._accelerator = accelerator
        self._seed = seed
        self._optimizers = optimizers
        self._rank, self._shards = 0, 1

    def begin_start(self) -> None:
        """Seed the data-dependent start, which every process does alike on the same samples."""
        self._rank, self._shards = 0, 1
        self.generator.manual_seed(derive(self._seed, "start"))
        seed_everything(derive(self._seed, "start", "global"))

    def begin_step(self, step: int) -> None:
        """Seed step ``step``.

        ``generator`` is the same on every process; the global generators differ between them, so
        that dropout masks do.
        """
        self.step = step
        self._rank = self._accelerator.process_index
        self._shards = self._accelerator.num_processes
        self.generator.manual_seed(derive(self._seed, "step", step))
        seed_everything(derive(self._seed, "step", step, "rank", self._rank))

    def noise(self, batch_rows: int, draw: str, *shape: int) -> Tensor:
        """See :meth:`StepContext.noise`."""
        draws = {"normal": torch.randn, "uniform": torch.rand}
        if draw not in draws:
            raise ValueError(f"noise draws 'normal' or 'uniform', not {draw!r}")
        drawn = draws[draw](
            (batch_rows * self._shards, *shape), generator=self.generator, device=self.device
        )
        return drawn[self._rank * batch_rows : (self._rank + 1) * batch_rows]

    def minimize(
        self, optimizer: str, loss: Tensor, *, clip: float | None = None
    ) -> Mapping[str, Tensor]:
        """See :meth:`StepContext.minimize`."""
        stepper = self._optimizers[optimizer]
        stepper.zero_grad(set_to_none=True)
        # Every process has to know before any of them waits for the others' gradients.
        if agree(self._accelerator, int(not torch.isfinite(loss.detach()).all())):
            raise self._non_finite("loss", optimizer)
        self._accelerator.backward(loss)
        parameters = [p for group in stepper.param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if not torch.isfinite(norm):  # averaged over processes, hence the same on all
            raise self._non_finite("gradient", optimizer)
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        stepper.step()
        return {"grad_norm": norm}

    def _non_finite(self, what: str, optimizer: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"The {what} of {optimizer!r} became NaN or infinite at step {self.step:,}"
        )


def agree(accelerator: Accelerator, value: int) -> int:
    """The largest ``value`` of any process."""
    if accelerator.num_processes == 1:
        return value
    shared = torch.tensor(value, device=accelerator.device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return int(shared)
