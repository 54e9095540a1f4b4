"""What the checks look at: a plugin, one model, one loss, one sampler, one recipe.

A subject builds what a check needs from the spec alone, always the same way: the ``tiny`` config, a
seed, parameters moved a little away from their start. Layers that start at zero (the last
convolution of a coupling net, a residual branch) would hide most mistakes otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kexue_core.configs import build_config
from kexue_core.plugins import PluginRecord, Plugins
from kexue_core.specs import (
    AdapterSpec,
    LossSpec,
    ModelSpec,
    RecipeSpec,
    SamplerSpec,
    import_object,
)
from kexue_core.testing.outcomes import CheckFailure
from kexue_core.testing.values import transform

__all__ = [
    "AdapterSubject",
    "LossSubject",
    "ModelSubject",
    "PluginSubject",
    "Probe",
    "RecipeSubject",
    "SamplerSubject",
    "generator",
]

#: Standard deviation of what is added to every parameter: far above rounding, far below 1.
PERTURBATION = 0.05

#: What text models are asked about when the spec has no ``example_input`` of texts.
TEXTS = (
    "科学空间是一个博客",
    "今天天气怎么样？",
    "",
    "A sentence in English, with 数字 123 and an emoji 🙂",
    "很长的句子" * 12,
)


def generator(seed: int = 0) -> torch.Generator:
    """A source of randomness on the CPU."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, slots=True)
class Probe:
    """One method of a model, with valid arguments.

    Attributes:
        name: The method.
        make: ``make(n)`` gives arguments for ``n`` samples.
        call: Calls the method; a method that takes a generator gets a fresh one of seed 0.
        draws: Whether it takes a generator, so that only a prefix of a batch is reproducible.
    """

    name: str
    make: Callable[[int], Any]
    call: Callable[[Any], Any]
    draws: bool = False

    def run(self, arguments: Any) -> Any:
        """Call without gradients, torch's global randomness pinned and left as it was."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.call(arguments)

    def is_random(self, arguments: Any) -> bool:
        """Whether the method draws from torch's global generator."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            self.call(arguments)
            return not torch.equal(before, torch.get_rng_state())


@dataclass(frozen=True)
class ModelSubject:
    """A model that a plugin declares."""

    spec: ModelSpec
    distribution: str

    @property
    def label(self) -> str:
        """``model:name``."""
        return f"model:{self.spec.name}"

    def can(self, *capabilities: str) -> bool:
        """Whether the spec declares one of the capabilities."""
        return any(c in self.spec.capabilities for c in capabilities)

    @functools.cached_property
    def config(self) -> Any:
        """The ``tiny`` config."""
        return build_config(import_object(self.spec.config), self.spec.tiny)

    def build(self, *, seed: int = 0, perturbed: bool = True) -> nn.Module:
        """A tiny model in eval mode, its parameters moved away from their start.

        Raises:
            CheckFailure: The factory made something that is no ``nn.Module``.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = import_object(self.spec.factory)(self.config)
        if not isinstance(model, nn.Module):
            raise CheckFailure(
                f"{self.spec.factory} made a {type(model).__name__}, which is no nn.Module",
                "The factory of a ModelSpec is the class, called with one config",
            )
        if perturbed:
            source = generator(seed + 1)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.is_floating_point():
                        noise = torch.randn(parameter.shape, generator=source)
                        parameter.add_(PERTURBATION * noise.to(parameter.dtype))
        return model.eval()

    def data_shape(self, model: Any) -> tuple[int, ...]:
        """Shape of one datum, from the model or from what it decodes."""
        if hasattr(model, "data_shape"):
            return tuple(model.data_shape)
        with torch.no_grad():
            return tuple(model.decode(model.prior(1, generator=generator())).shape[1:])

    def data(self, model: Any, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``n`` data well inside (0, 1), the first of them the same whatever ``n``."""
        shape = self.data_shape(model)
        source = generator(2)
        drawn = [torch.rand(shape, generator=source, dtype=torch.float64) for _ in range(n)]
        stacked = torch.stack(drawn) if n else torch.empty(0, *shape, dtype=torch.float64)
        return (0.1 + 0.8 * stacked).to(dtype)

    def forward_input(self, model: Any, n: int, dtype: torch.dtype = torch.float32) -> Any:
        """Arguments of ``model(...)``: the spec's ``example_input``, else data, else latents.

        Raises:
            CheckFailure: The kit cannot guess what the model takes.
        """
        if self.spec.example_input is not None:
            made = import_object(self.spec.example_input)(model, n, generator(3))
        elif hasattr(model, "data_shape"):
            made = self.data(model, n, dtype)
        elif self.can("latent", "generator"):
            made = model.prior(n, generator=generator(3))
        else:
            raise CheckFailure(
                f"What {self.spec.factory} takes is not known",
                "Give the ModelSpec example_input='module:function', "
                "a function (model, n, generator) -> input of n samples",
            )
        return transform(made, lambda t: t.to(dtype) if t.is_floating_point() else t)

    def texts(self, model: Any) -> list[str]:
        """Texts to embed, rewrite or extract from: the example input's, else the kit's."""
        if self.spec.example_input is not None:
            made = import_object(self.spec.example_input)(model, len(TEXTS), generator(3))
            if isinstance(made, list) and all(isinstance(t, str) for t in made):
                return made
        return list(TEXTS)

    def probes(self, model: Any, dtype: torch.dtype = torch.float32) -> list[Probe]:
        """The methods that hold tensors in and tensors out, as the capabilities promise them."""

        def data(n: int) -> Tensor:
            return self.data(model, n, dtype)

        def latents(n: int) -> Any:
            drawn = model.prior(n, generator=generator(4))
            return transform(drawn, lambda t: t.to(dtype) if t.is_floating_point() else t)

        found = [Probe("forward", lambda n: self.forward_input(model, n, dtype), _calls(model))]
        if self.can("latent", "generator"):
            found.append(Probe("decode", latents, model.decode))
        if self.can("latent"):
            found.append(Probe("to_latent", data, model.to_latent))
        if self.can("density"):
            found += [
                Probe("log_prob", data, model.log_prob, draws=self.spec.bound),
                Probe(
                    "bits_per_dim",
                    data,
                    lambda x: model.bits_per_dim(x, generator=generator()),
                    draws=True,
                ),
            ]
        if self.can("energy"):
            found.append(Probe("energy", data, model.energy))
        if self.can("codes"):
            found += [
                Probe("to_codes", data, model.to_codes),
                Probe("from_codes", lambda n: model.to_codes(data(n)), model.from_codes),
            ]
        if self.can("classifier"):
            found.append(
                Probe(
                    "classify",
                    lambda n: self.forward_input(model, n, dtype),
                    model.classify,
                )
            )
        return found


def _calls(model: Any) -> Callable[[Any], Any]:
    """Call with one argument, or spread a tuple or mapping."""

    def call(arguments: Any) -> Any:
        if isinstance(arguments, tuple):
            return model(*arguments)
        if isinstance(arguments, Mapping):
            return model(**arguments)
        return model(arguments)

    return call


@dataclass(frozen=True)
class LossSubject:
    """A loss that a plugin declares."""

    spec: LossSpec
    distribution: str

    @property
    def label(self) -> str:
        """``loss:name``."""
        return f"loss:{self.spec.name}"

    def build(self, **options: Any) -> Callable[..., Tensor]:
        """The loss with its default options."""
        loss: Callable[..., Tensor] = import_object(self.spec.factory)(**options)
        return loss

    def example(self, seed: int = 0) -> tuple[Any, ...]:
        """Arguments to call it with, from the spec's ``example``.

        Raises:
            CheckFailure: It gave no tuple.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = import_object(self.spec.example)(generator(seed))
        if not isinstance(made, tuple):
            raise CheckFailure(
                f"{self.spec.example} returned a {type(made).__name__}",
                "It must return the tuple of positional arguments to call the loss with",
            )
        return made


@dataclass(frozen=True)
class SamplerSubject:
    """A sampler that a plugin declares."""

    spec: SamplerSpec
    distribution: str

    @property
    def label(self) -> str:
        """``sampler:name``."""
        return f"sampler:{self.spec.name}"

    @functools.cached_property
    def function(self) -> Callable[..., Tensor]:
        """The sampler itself."""
        found: Callable[..., Tensor] = import_object(self.spec.factory)
        return found

    @functools.cached_property
    def model(self) -> Any:
        """What it draws from: the spec's ``example``, else the kit's Gaussian."""
        if self.spec.example is not None:
            return import_object(self.spec.example)()
        from kexue_core.testing.gaussian import Gaussian

        return Gaussian().eval()

    def draw(self, n: int, *, seed: int = 0, **options: Any) -> Tensor:
        """Draw with the options that the spec gives the kit."""
        merged = {**self.spec.tiny, **options}
        return self.function(self.model, n, generator=generator(seed), **merged)


@dataclass(frozen=True)
class RecipeSubject:
    """A recipe that a plugin declares."""

    spec: RecipeSpec
    distribution: str
    model: ModelSpec

    @property
    def label(self) -> str:
        """``recipe:name``."""
        return f"recipe:{self.spec.name}"


@dataclass(frozen=True)
class AdapterSubject:
    """A reader of foreign checkpoints that a plugin declares."""

    spec: AdapterSpec
    distribution: str
    models: tuple[str, ...]

    @property
    def label(self) -> str:
        """``adapter:name``."""
        return f"adapter:{self.spec.name}"


@dataclass(frozen=True)
class PluginSubject:
    """A distribution as a whole."""

    record: PluginRecord
    plugins: Plugins

    @property
    def label(self) -> str:
        """``plugin``."""
        return "plugin"

    @property
    def distribution(self) -> str:
        """Its normalised name."""
        return self.record.distribution

    def parts(self) -> list[Any]:
        """The subjects of everything that it declares, in the order of declaration."""
        name = self.distribution
        models = {
            n: s
            for s in self.record.specs
            if isinstance(s, ModelSpec)
            for n in (s.name, *s.aliases)
        }
        found: list[Any] = []
        for spec in self.record.specs:
            if isinstance(spec, ModelSpec):
                found.append(ModelSubject(spec, name))
            elif isinstance(spec, LossSpec):
                found.append(LossSubject(spec, name))
            elif isinstance(spec, SamplerSpec):
                found.append(SamplerSubject(spec, name))
            elif isinstance(spec, RecipeSpec):
                found.append(RecipeSubject(spec, name, models[spec.model]))
            elif isinstance(spec, AdapterSpec):
                found.append(AdapterSubject(spec, name, tuple(models)))
        return found


def plain(config: Any) -> dict[str, Any]:
    """A config dataclass as the mapping that goes into ``config.json``."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
