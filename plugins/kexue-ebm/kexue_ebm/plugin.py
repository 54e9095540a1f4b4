"""What kexue-ebm declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import LossSpec, ModelSpec, RecipeSpec, SamplerSpec, hookimpl
from kexue_core.specs import Option, Spec

#: The paper that the convolutional energy, its loss and its chains follow.
IGEBM = "1903.08689"

#: Options that all samplers have.
COMMON = {
    "start": Option(default="uniform", help="uniform or normal noise, or replay: kept samples"),
    "batch_size": Option(default=256, help="chains run at once"),
}


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the models, the loss, the samplers and the recipes."""
    yield from _models()
    yield from _samplers()
    yield from _recipes()


def _models() -> Iterator[Spec]:
    yield ModelSpec(
        name="ebm",
        factory="kexue_ebm.energy:EBM",
        config="kexue_ebm.energy:EBMConfig",
        summary="Convolutional energy of an image, with or without spectral normalisation",
        post=6612,
        papers=(IGEBM,),
        capabilities=("energy",),
        tiny={"size": 8, "width": 4, "spectral_norm": True, "replay": 2},
        float32=("*.bias", "*.left", "*.right"),
    )
    yield ModelSpec(
        name="ebm-mlp",
        factory="kexue_ebm.energy:EnergyMLP",
        config="kexue_ebm.energy:EnergyMLPConfig",
        summary="Energy of a vector, for densities that can be looked at",
        post=6612,
        capabilities=("energy",),
        tiny={"hidden": 16, "base_scale": 2.0},
        float32=("*.bias", "*.left", "*.right"),
    )
    yield LossSpec(
        name="contrastive-divergence",
        factory="kexue_ebm.losses:ContrastiveDivergence",
        example="kexue_ebm.losses:contrastive_divergence_example",
        summary="Energy of data less that of the model's samples, with L2 on both",
        post=6612,
        papers=(IGEBM,),
    )


def _samplers() -> Iterator[Spec]:
    yield SamplerSpec(
        name="langevin",
        factory="kexue_ebm.samplers:langevin",
        summary="Langevin dynamics at a temperature; exact as the step goes to zero",
        post=6612,
        needs=("energy",),
        options={
            "steps": Option(default=1_000, help="length of the chains"),
            "step_size": Option(default=1e-4, help="eps: drift eps/2, noise sqrt(eps T)"),
            "temperature": Option(default=1.0, help="T of exp(-U/T), at least 0"),
            "clamp": Option(default=False, help="keep chains in [0, 1], as images are"),
            **COMMON,
        },
        targets_density=True,
        tiny={"steps": 300, "step_size": 5e-4, "batch_size": 2_500},
    )
    yield SamplerSpec(
        name="igebm-langevin",
        factory="kexue_ebm.samplers:igebm_langevin",
        summary="The chains of Du and Mordatch: noise, clipped gradient, [0, 1]",
        post=6612,
        papers=(IGEBM,),
        needs=("energy",),
        options={
            "steps": Option(default=60, help="length of the chains"),
            "step_size": Option(default=10.0, help="factor on the gradient"),
            "noise_scale": Option(default=0.005, help="deviation of the noise of a step"),
            "clip": Option(default=0.01, help="bound on each number of the gradient"),
            **COMMON,
        },
        tiny={"steps": 20, "step_size": 0.1},
    )
    yield SamplerSpec(
        name="mala",
        factory="kexue_ebm.samplers:mala",
        summary="Langevin dynamics with an accept step: exact at any step size",
        post=6612,
        needs=("energy",),
        options={
            "steps": Option(default=1_000, help="length of the chains"),
            "step_size": Option(default=1e-4, help="eps of the proposal"),
            "temperature": Option(default=1.0, help="T of exp(-U/T), above 0"),
            **COMMON,
        },
        targets_density=True,
        tiny={"steps": 200, "step_size": 4e-3, "batch_size": 2_500},
    )
    yield SamplerSpec(
        name="hmc",
        factory="kexue_ebm.samplers:hmc",
        summary="Hamiltonian Monte Carlo: exact, and far between samples",
        post=6612,
        papers=("1206.1901",),
        needs=("energy",),
        options={
            "steps": Option(default=100, help="trajectories"),
            "step_size": Option(default=0.01, help="of a leapfrog step"),
            "leapfrog": Option(default=10, help="steps a trajectory"),
            "jitter": Option(default=0.2, help="share by which step sizes vary, in [0, 1)"),
            "temperature": Option(default=1.0, help="T of exp(-U/T), above 0"),
            **COMMON,
        },
        targets_density=True,
        tiny={"steps": 20, "step_size": 0.03, "leapfrog": 5, "batch_size": 2_500},
    )


def _recipes() -> Iterator[Spec]:
    for name, data, what in (
        ("ebm-mnist", "ylecun/mnist", "MNIST"),
        ("ebm-fashion", "zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    ):
        factory = f"kexue_ebm.recipes:{'EBMMnist' if what == 'MNIST' else 'EBMFashion'}"
        yield RecipeSpec(
            name=name,
            factory=factory,
            model="ebm",
            data=data,
            summary=f"28x28 {what} by contrastive divergence; three quarters of an hour of a core",
            post=6612,
            papers=(IGEBM,),
        )
        yield RecipeSpec(
            name=f"{name}-quick",
            factory=f"{factory}Quick",
            model="ebm",
            data=data,
            summary=f"The same of {what} in a minute or two, to see that it runs",
            post=6612,
            papers=(IGEBM,),
        )
