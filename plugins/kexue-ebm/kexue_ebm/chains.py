"""What all samplers share: the force field of a model, noise, and an eye on the chains.

A chain is one row of a batch. It has a random number generator of its own, so that it runs the same
way whatever runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kexue_core.errors import KexueError

__all__ = [
    "ChainNoise",
    "DivergedChainError",
    "Field",
    "Noise",
    "SharedNoise",
    "Trace",
    "Watch",
    "frozen",
    "placed_as",
]

#: Numbers drawn at once for one chain, about: a call for each chain and step would cost more than
#: the steps do.
BLOCK = 1 << 12
#: Steps drawn, or looked over, at once, at most.
BLOCK_STEPS = 50


class DivergedChainError(KexueError):
    """A chain became NaN or infinite.

    Attributes:
        chain: Its number in the batch, from 0.
        step: The step that did it, from 1; 0 is the start.
    """

    def __init__(self, chain: int, step: int, *, hint: str = "Lower step_size") -> None:
        super().__init__(f"Chain {chain} became NaN or infinite at step {step}", hint=hint)
        self.chain = chain
        self.step = step


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Sampling's view of a model: no gradient to its parameters, eval mode, all put back after.

    In eval mode spectral normalisation does not advance its power iteration with every step of the
    chains, and its weights are computed once, not once a step.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    asking = [p for p in model.parameters() if p.requires_grad]
    parametrized = any(parametrize.is_parametrized(module) for module, _ in modes)
    with ExitStack() as stack:
        try:
            model.eval()
            for parameter in asking:
                parameter.requires_grad_(False)
            if parametrized:
                stack.enter_context(parametrize.cached())
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)
            for module, training in modes:
                module.training = training


class Field:
    """The energy of a model and its gradient in the data, which drives a chain.

    Args:
        model: Anything with ``energy(x)``. Use it inside :func:`frozen`. Where it has
            ``energy_and_gradient(x)`` as well, that is used instead of autograd.
        dtype: Number type that the network computes in, by autocast; ``None`` for its own.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        self._energy: Callable[[Tensor], Tensor] = model.energy
        self._both: Callable[[Tensor], tuple[Tensor, Tensor]] | None
        self._both = getattr(model, "energy_and_gradient", None)
        self._dtype = dtype
        self._ones: Tensor | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U(x), (n,), and its gradient, (n, *shape), of chains (n, *shape)."""
        if self._both is not None and self._dtype is None:
            return self._both(x)
        cast = (
            torch.autocast(x.device.type, self._dtype) if self._dtype is not None else nullcontext()
        )
        with torch.enable_grad():
            x.requires_grad_()
            with cast:
                # A batch of one takes other kernels, whose last bits differ: it gets company.
                energy = self._energy(x) if len(x) != 1 else self._energy(torch.cat([x, x]))[:1]
            if self._ones is None or self._ones.shape != energy.shape:
                self._ones = torch.ones_like(energy)
            (gradient,) = torch.autograd.grad(energy, x, self._ones)
        x.requires_grad_(False)
        return energy.detach(), gradient


class Noise(Protocol):
    """The random numbers of one step after the other."""

    def normal(self) -> Tensor:
        """Standard normal, (n, *shape)."""
        ...

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), (n,)."""
        ...


class ChainNoise:
    """Noise of chains with a generator each, drawn some steps ahead.

    A chain's numbers depend on its generator alone: neither on other chains nor on the number of
    steps, so that a longer run begins as the shorter one.

    Args:
        generators: One a chain, on the CPU.
        shape: Of a datum.
        like: A tensor with the device and number type of the chains.
        uniforms: How often a step calls :meth:`uniform`.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        shape: Sequence[int],
        like: Tensor,
        *,
        uniforms: int = 0,
    ) -> None:
        self._generators = generators
        self._shape = tuple(shape)
        self._like = like
        self._uniforms = uniforms
        size = max(1, like.new_empty(self._shape).numel())
        self._ahead = max(1, min(BLOCK_STEPS, BLOCK // size))
        self._normal: Iterator[Tensor] = iter(())
        self._uniform: Iterator[Tensor] = iter(())

    def normal(self) -> Tensor:
        """Standard normal, (n, *shape)."""
        found = next(self._normal, None)
        if found is None:
            self._draw()
            found = next(self._normal)
        return found

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), (n,); after :meth:`normal` of the same step."""
        return next(self._uniform)

    def _draw(self) -> None:
        kind: dict[str, Any] = {"dtype": self._like.dtype}
        shape = (self._ahead, *self._shape)
        drawn = [torch.randn(shape, generator=g, **kind) for g in self._generators]
        self._normal = iter(torch.stack(drawn, 1).to(self._like.device).unbind())
        if self._uniforms:
            count = self._ahead * self._uniforms
            drawn = [torch.rand(count, generator=g, **kind) for g in self._generators]
            self._uniform = iter(torch.stack(drawn, 1).to(self._like.device).unbind())


class SharedNoise:
    """Noise of a batch from one generator: a little faster, for where nobody asks for one chain.

    Args:
        generator: On the device of the chains.
        shape: Of the batch, (n, *shape).
        dtype: Number type of the chains.
    """

    def __init__(
        self,
        generator: torch.Generator,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._kind: dict[str, Any] = {
            "generator": generator,
            "device": generator.device,
            "dtype": dtype,
        }
        self._shape = tuple(shape)

    def normal(self) -> Tensor:
        """Standard normal, (n, *shape)."""
        return torch.randn(self._shape, **self._kind)

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), (n,)."""
        return torch.rand(self._shape[0], **self._kind)


class Trace:
    """What chains did on their way. Hand one to a sampler as ``trace=``, and look at it after.

    Args:
        every: Steps between records; the start and the end are always among them.
        states: Whether to keep the states, not their energies alone.

    Attributes:
        steps: The recorded steps; 0 is the start.
    """

    def __init__(self, every: int = 1, *, states: bool = True) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.every = every
        self.states = states
        self.steps: list[int] = []
        # One list of records a batch of chains.
        self._x: list[list[Tensor]] = []
        self._energy: list[list[Tensor]] = []
        self._accepted: list[Tensor] = []

    @property
    def x(self) -> Tensor:
        """The states, (records, n, *shape), on the CPU."""
        return torch.cat([torch.stack(part) for part in self._x], 1)

    @property
    def energy(self) -> Tensor:
        """Their energies in nats, (records, n), on the CPU."""
        return torch.cat([torch.stack(part) for part in self._energy], 1)

    @property
    def acceptance(self) -> Tensor:
        """Share of proposals that each chain accepted, (n,); 1 for samplers that accept all."""
        if self._accepted:
            return torch.cat(self._accepted)
        return torch.ones(self.energy.shape[1])

    def begin(self) -> None:
        """A new batch of chains."""
        self.steps = []
        self._x.append([])
        self._energy.append([])

    def wants(self, step: int, last: bool = False) -> bool:
        """Whether the state after ``step`` steps is recorded."""
        return last or step % self.every == 0

    def record(self, step: int, x: Tensor, energy: Tensor) -> None:
        """Keep a state."""
        if not self._energy:
            self.begin()
        self.steps.append(step)
        self._energy[-1].append(energy.detach().to("cpu", copy=True))
        if self.states:
            self._x[-1].append(x.detach().to("cpu", copy=True))

    def record_accepted(self, share: Tensor) -> None:
        """Keep the share of accepted proposals, (n,), of a batch that has ended."""
        self._accepted.append(share.cpu())


class Watch:
    """Finds the chain and the step at which something stops being finite.

    Looking at every step would make the device wait for the host; so each step leaves one number a
    chain, and they are looked over now and then.

    Args:
        first: Number of the first chain of the batch.
        hint: What to do about it.
    """

    def __init__(self, first: int = 0, *, hint: str = "Lower step_size") -> None:
        self.first = first
        self._hint = hint
        self._done = 0
        self._seen: list[Tensor] = []

    def look(self, values: Tensor) -> None:
        """Note one number a chain, (n,), finite where all is well, for the next step.

        Raises:
            DivergedChainError: One of the last steps left the finite.
        """
        self._seen.append(values)
        if len(self._seen) == BLOCK_STEPS:
            self.check()

    def check(self) -> None:
        """Look over what was noted.

        Raises:
            DivergedChainError: One of the last steps left the finite.
        """
        if not self._seen:
            return
        finite = torch.stack(self._seen).isfinite()
        if not finite.all():
            step, chain = (~finite).nonzero()[0].tolist()
            raise DivergedChainError(self.first + chain, self._done + step + 1, hint=self._hint)
        self._done += len(self._seen)
        self._seen = []


def placed_as(model: Any) -> Tensor:
    """An empty tensor with the device and floating type of a model's tensors."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                return tensor.new_empty(0).detach()
    return torch.empty(0)
