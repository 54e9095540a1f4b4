"""The training loop: a pure function of (config, data, seed) that can be stopped anywhere."""

from __future__ import annotations

import errno
import math
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from kexue_core.errors import KexueError, NonFiniteLossError, TrainingError
from kexue_core.images import grid
from kexue_core.training.batches import Order, Prefetch
from kexue_core.training.checkpoint import Checkpoints
from kexue_core.training.context import LoopContext, agree
from kexue_core.training.ema import MovingAverage
from kexue_core.training.process import make_accelerator, rows_per_process, signals_noted
from kexue_core.training.progress import Progress, trim_log
from kexue_core.training.publish import publish
from kexue_core.training.recipe import Batch, Dataset, Recipe
from kexue_core.training.records import command_line
from kexue_core.training.runs import describe, open_run, settings_named
from kexue_core.training.seeding import derive, seed_everything

if TYPE_CHECKING:
    from accelerate import Accelerator

    from kexue_core.plugins import Declared

__all__ = ["TrainingInterrupted", "train"]

#: Seconds between checkpoints, on top of those of the recipe.
CHECKPOINT_SECONDS = 300.0
#: Lines in log.jsonl for a whole run; each is a mean over the steps since the last.
LOG_LINES = 2_000
#: Validation samples measured while training; the end measures all.
EVALUATED = 2_048

_OUT_OF_TIME = 10_000  # above every signal's number
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingInterrupted(TrainingError):  # noqa: N818 - it went as asked
    """A signal stopped the run after a step that is saved. Running it again goes on.

    Attributes:
        signal: Its number; a shell expects the exit code 128 + signal.
    """

    def __init__(self, message: str, *, hint: str | None, signal: int) -> None:
        super().__init__(message, hint=hint)
        self.signal = signal


def train(
    recipe: Recipe,
    *,
    name: str,
    model: Declared,
    weights: str | None = None,
    data: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    max_minutes: float | None = None,
    device: str = "auto",
    resume: bool | None = None,
    command: str | None = None,
) -> Path:
    """Run a recipe to its end, or as far as time allows, and write the weights.

    The same arguments go on with a run that was stopped, and lead to the same weights: bit for bit
    on the CPU with the same number of threads; on a GPU as far as its kernels are deterministic;
    with another number of processes up to rounding.

    Args:
        recipe: The recipe, with its config.
        name: Its name, for the run's folder and records.
        model: The spec of the model it trains, and the distribution that declares it.
        weights: Name of the weights on their card; ``None`` for the recipe's.
        data: Path or Hub name; ``None`` for the recipe's public default.
        out: Folder of the run; ``None`` for ``runs/<name>``.
        seed: Seed of everything random.
        max_minutes: Stop training after this time. Weights are written nevertheless.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: ``True`` demands a run to go on with, ``False`` starts anew, ``None`` goes on
            where there is one.
        command: Command line for the records, without paths of this machine.

    Returns:
        The run's folder: ``run.json``, ``log.jsonl``, ``tb/``, ``previews/``, ``checkpoints/``,
        ``weights/`` and ``results.jsonl``.

    Raises:
        DataError: The data is missing or broken.
        TrainingError: The run cannot start, resume or be written.
        NonFiniteLossError: A loss or gradient became NaN or infinite.
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint was written.
    """
    began = time.monotonic()
    deadline = began + 60 * max_minutes if max_minutes is not None else math.inf
    folder = out or Path("runs") / name
    command = command or command_line("train", name, {"data": data, "seed": seed or None})
    accelerator = make_accelerator(device)
    try:
        run = _Run(recipe, name, accelerator, folder, source=data, seed=seed, resume=resume)
        stopped = run.go(deadline)
        if stopped in (signal.SIGINT, signal.SIGTERM):
            raise TrainingInterrupted(
                f"Stopped after step {run.done:,} of {run.steps:,}, which is saved",
                hint="The same call goes on from there",
                signal=stopped,
            )
        if run.main:
            if run.done < run.steps:
                print(
                    f"{name}: time is up after step {run.done:,} of {run.steps:,}; "
                    "the same command goes on",
                    file=sys.stderr,
                )
            for record in publish(
                recipe,
                run.average.module,
                model,
                folder=folder,
                name=name,
                title=weights or name,
                training=run.data,
                validation=run.validation,
                seed=seed,
                steps=run.done,
                command=command,
                device=accelerator.device,
            ):
                print(
                    f"{name}: published weights after step {run.done:,}: "
                    f"{record.metric} {record.value:.6g} on {record.n:,} of {record.split}",
                    file=sys.stderr,
                )
        accelerator.wait_for_everyone()
    except TrainingError:
        raise
    except (OSError, KexueError) as error:
        cause = error.__cause__ if isinstance(error, KexueError) else error
        if not isinstance(cause, OSError) or cause.errno not in _NO_ROOM:
            raise
        saved = Checkpoints(folder / "checkpoints").steps()
        raise TrainingError(
            f"{folder} cannot be written: {cause.strerror}",
            hint=(f"The checkpoint of step {saved[-1]:,} is whole. " if saved else "")
            + "Make room and run the same command again",
        ) from error
    return folder


class _Run:
    """The state of one run. ``done`` counts the steps that are finished."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        accelerator: Accelerator,
        folder: Path,
        *,
        source: str | None,
        seed: int,
        resume: bool | None,
    ) -> None:
        self.recipe = recipe
        self.name = name
        self.accelerator = accelerator
        self.main = bool(accelerator.is_main_process)
        self.folder = folder
        self.progress: Progress | None = None
        self.logged: dict[str, list[torch.Tensor]] = {}
        self.saved_at = 0.0
        self.steps = recipe.config.steps
        self.rows = rows_per_process(recipe.config.batch_size, accelerator.num_processes)
        with settings_named(recipe, name):
            self.data: Dataset = recipe.data(source, "train")
            self.validation: Dataset = recipe.data(source, "val")
        if not len(self.data) or not len(self.validation):
            raise TrainingError(f"{self.data.name} is empty", hint="Name other data with --data")
        self.order = Order(len(self.data), recipe.config.batch_size, seed)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        if self.main:
            wanted = describe(recipe, name, self.data, seed=seed, source=source)
            open_run(folder, wanted, resume=resume)
            self.checkpoints.clean()
            for leftover in folder.glob(".weights*"):  # of a process killed while publishing
                shutil.rmtree(leftover, ignore_errors=True)
        accelerator.wait_for_everyone()

        seed_everything(derive(seed, "build"))
        with settings_named(recipe, name):
            self.bare = {k: m.to(accelerator.device) for k, m in recipe.build().items()}
            self.optimizers = recipe.optimizers(self.bare)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self.average = MovingAverage(self.bare["model"], recipe.config.ema)
        self.context = LoopContext(accelerator, seed, self.steps, self.optimizers)
        self.done = self.checkpoints.restore(self._saved(), self.optimizers)
        if self.done == 0 and recipe.start_samples:
            self.context.begin_start()
            batch = self._to_device(self.data.batch(self.order.take(0, recipe.start_samples)))
            with torch.no_grad():
                recipe.start(self.bare, batch, self.context)
            self.average.reset()
        if self.main:
            trim_log(folder, self.done)
        # Wrapped last: the start must not run through the wrapper, and wrapping copies the first
        # process's weights to all.
        self.modules = {
            k: accelerator.prepare_model(m) if any(p.requires_grad for p in m.parameters()) else m
            for k, m in self.bare.items()
        }

    def go(self, deadline: float) -> int:
        """Train until the end, ``deadline`` or a signal; return the signal's number, or 0."""
        if self.done >= self.steps:
            return 0
        stop = 0
        try:
            with ExitStack() as stack:
                received = stack.enter_context(signals_noted())
                if self.main:
                    self.progress = stack.enter_context(
                        Progress(self.folder, self.name, self.done, self.steps)
                    )
                batches = stack.enter_context(Prefetch(self._fetch, self.done, self.steps))
                self.saved_at = time.monotonic()
                for module in self.modules.values():
                    module.train()
                while self.done < self.steps and not stop:
                    self._log(self._step(self._to_device(batches.take())))
                    late = _OUT_OF_TIME if time.monotonic() > deadline else 0
                    # One process may have the signal, another the time: all have to stop together.
                    stop = agree(self.accelerator, received[-1] if received else late)
                    if self.main:
                        self._keep(stopping=bool(stop))
                        if stop in (0, _OUT_OF_TIME):
                            self._look(last=bool(stop) or self.done == self.steps)
        except NonFiniteLossError as error:
            saved = self.checkpoints.steps()
            raise NonFiniteLossError(
                error.message,
                hint="Lower the learning rate or clip the gradient. "
                + (
                    f"The last good checkpoint is {self.checkpoints.path(saved[-1])}"
                    if saved
                    else "There is no checkpoint yet"
                ),
            ) from error
        return 0 if stop == _OUT_OF_TIME else stop

    def _step(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        step = self.done
        scale = self.recipe.learning_rate_scale(step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
        self.context.begin_step(step)
        try:
            metrics = self.recipe.step(self.modules, batch, self.context)
        except FloatingPointError as error:
            raise NonFiniteLossError(f"At step {step:,}: {error}") from error
        loss = metrics.get("loss")
        if loss is not None and not torch.isfinite(loss.detach()).all():
            raise NonFiniteLossError(f"The loss became NaN or infinite at step {step:,}")
        self.average.update(step)
        self.done = step + 1
        return metrics

    def _log(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Collect the step's scalars, and write their means where a line is due."""
        for key, value in metrics.items():
            self.logged.setdefault(key, []).append(value.detach().float().mean())
        means: dict[str, float] = {}
        if self.done % max(1, self.steps // LOG_LINES) == 0 or self.done == self.steps:
            means = self._means()
        if self.progress:
            if means:
                self.progress.record(self.done, means)
            self.progress.step(self.done, means.get("train/loss"))

    def _means(self) -> dict[str, float]:
        """Means over the steps since the last and the processes; all of them have to call it."""
        device = self.accelerator.device
        values = torch.stack([torch.stack(v).mean().to(device) for v in self.logged.values()])
        values = self.accelerator.reduce(values, "mean")
        means = {f"train/{k}": v for k, v in zip(self.logged, values.tolist(), strict=True)}
        self.logged = {}
        group = next(iter(self.optimizers.values())).param_groups[0]
        return {**means, "learning_rate": float(group["lr"])}

    def _keep(self, *, stopping: bool) -> None:
        """Save a checkpoint where one is due."""
        if not (
            stopping
            or self._due(self.recipe.config.checkpoint_every)
            or self.done == self.steps
            or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        ):
            return
        for name, module in self._saved().items():
            for key, value in module.state_dict().items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise NonFiniteLossError(
                        f"{name}.{key} holds NaN or infinite values after step {self.done:,}"
                    )
        self.checkpoints.save(self.done, self._saved(), self.optimizers)
        self.saved_at = time.monotonic()

    def _look(self, *, last: bool) -> None:
        """Evaluate and preview the averaged model where that is due."""
        assert self.progress is not None
        model = self.average.module
        # The end is measured on the published file, over all of the data.
        if self._due(self.recipe.config.evaluate_every) and not last:
            seed_everything(0)
            with torch.no_grad():
                values = self.recipe.evaluate(model.eval(), self.validation, limit=EVALUATED)
            self.progress.record(self.done, {f"val/{k}": v for k, v in values.items()})
            shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
            self.progress.say(f"{self.name}: step {self.done:,} val {shown}")
        if self._due(self.recipe.config.preview_every) or last:
            seed_everything(0)
            with torch.no_grad():
                images = self.recipe.preview(model.eval())
            if images is not None:
                path = self.folder / "previews" / f"step-{self.done:08d}.png"
                path.parent.mkdir(exist_ok=True)
                grid(images).save(path)
        if not self.average.decay:  # it is the model that is trained
            model.train()

    def _saved(self) -> dict[str, nn.Module]:
        averaged = {"average": self.average.module} if self.average.decay else {}
        return {**self.bare, **averaged}

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _fetch(self, step: int) -> Batch:
        chosen = self.order.indices(step)
        first = self.accelerator.process_index * self.rows
        return self.data.batch(chosen[first : first + self.rows])

    def _to_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return {k: v.to(device, non_blocking=True) for k, v in batch.items()}
