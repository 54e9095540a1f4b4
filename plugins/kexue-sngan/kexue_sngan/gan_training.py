"""How a GAN is trained: SN-GAN after [1], in what one core can do.

From [1]: Adam with betas (0, 0.9) and a learning rate that falls to zero over the whole run (2e-4,
twice that on CelebA, ten times on Fashion-MNIST), hinge loss, spectral normalisation of all layers
of the discriminator. Different: images are sampled from averaged weights of the generator; one
batch of generated images serves the discriminator's step and then the generator's; convolutions run
in bfloat16, and sigma never does.

References:
    [1] Miyato et al., Spectral Normalization for GANs, 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kexue_core.training import (
    Batch,
    Dataset,
    Recipe,
    RecipeConfig,
    Split,
    StepContext,
)
from kexue_core.training.data import open_images, random_flip
from kexue_sngan.cnn import CNNDiscriminator, CNNGenerator, SNGANCNNConfig
from kexue_sngan.discriminator import save_discriminator
from kexue_sngan.losses import GAMES, GradientPenalty
from kexue_sngan.spectral import spectral_norm
from kexue_sngan.thumbnails import thumbnail_distance

__all__ = ["SNGAN", "SNGANConfig", "frozen"]

#: Images that are generated at once while measuring.
EVALUATION_BATCH = 128
PREVIEW_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SNGANConfig(RecipeConfig):
    """Settings of a GAN's training.

    Attributes:
        size, channels, latent, width, critic_width, levels: Those of the model.
        game: Loss, a key of :data:`kexue_sngan.losses.GAMES`.
        spectral: Whether the discriminator is spectrally normalised.
        gradient_penalty: Weight of the gradient penalty, 0 for none.
        one_sided: Whether that punishes norms above 1 only.
        critic_steps: Steps of the discriminator for one of the generator; ``steps`` counts its.
        learning_rate: Adam's at the start; it falls linearly to zero.
        critic_learning_rate: The same of the discriminator.
        beta1, beta2: Adam's.
        dtype: Number type of the convolutions in training.
        flip: Mirror images at random.
    """

    steps: int = 50_000
    batch_size: int = 64
    ema: float = 0.999
    evaluate_every: int = 1_000
    preview_every: int = 1_000
    checkpoint_every: int = 1_000
    size: int = 32
    channels: int = 3
    latent: int = 128
    width: int = 64
    critic_width: int = 64
    levels: int = 3
    game: Literal["hinge", "nonsaturating", "wgan", "relativistic"] = "hinge"
    spectral: bool = True
    gradient_penalty: float = 0.0
    one_sided: bool = False
    critic_steps: int = 1
    learning_rate: float = 2e-4
    critic_learning_rate: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.9
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    flip: bool = False


class SNGAN(Recipe):
    """A convolutional SN-GAN of any images."""

    Config: ClassVar[type[RecipeConfig]] = SNGANConfig
    config: SNGANConfig
    #: Public data that a stranger can train on.
    hub: ClassVar[str]
    #: Side of the square that is cut out of larger frames; smaller images are kept whole.
    crop: ClassVar[int | None] = None

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images, cropped where they are whole frames."""
        c = self.config
        return open_images(
            source or self.hub, split, size=c.size, channels=c.channels, crop=self.crop
        )

    def build(self) -> Mapping[str, nn.Module]:
        """A new generator, and a discriminator under spectral normalisation."""
        # oneDNN and tensor cores read this layout as it lies, and lay no activation out anew.
        generator, critic = (
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for net in self.networks()
        )
        if self.config.spectral:
            critic = spectral_norm(critic)
        self._critic = critic
        return {"model": generator, "discriminator": critic}

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the plain discriminator."""
        config = SNGANCNNConfig(**self.shape())
        return CNNGenerator(config), CNNDiscriminator(config)

    def shape(self) -> dict[str, int]:
        """Of the settings those that are the networks'."""
        names = ("size", "channels", "latent", "width", "critic_width", "levels")
        return {name: getattr(self.config, name) for name in names}

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam without momentum, one for each."""
        c = self.config
        rates = {"model": c.learning_rate, "discriminator": c.critic_learning_rate}
        return {
            name: torch.optim.Adam(modules[name].parameters(), rate, betas=(c.beta1, c.beta2))
            for name, rate in rates.items()
        }

    def learning_rate_scale(self, step: int) -> float:
        """A straight line to zero."""
        return 1 - step / self.config.steps

    def step(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> Mapping[str, Tensor]:
        """One step of the discriminator, and, every ``critic_steps``, one of the generator."""
        c = self.config
        game = GAMES[c.game]()
        image = batch["image"]
        real = 2 * (random_flip(image, context) if c.flip else image) - 1
        z = context.noise(len(real), "normal", c.latent)
        turn = (context.step + 1) % c.critic_steps == 0
        precision = torch.autocast(
            context.device.type, torch.bfloat16, enabled=c.dtype == "bfloat16"
        )
        with precision, torch.set_grad_enabled(turn):
            fake = modules["model"](z)

        critic = modules["discriminator"]
        shown = fake.detach().to(real.dtype)  # no gradient of this step reaches the generator
        with precision:
            scores = critic(torch.cat([real, shown])).float()
        of_real, of_fake = scores.chunk(2)
        loss = game(of_real, of_fake)
        if c.gradient_penalty:
            penalty = GradientPenalty(c.gradient_penalty, one_sided=c.one_sided)
            loss = loss + penalty(critic, real, shown, context.noise(len(real), "uniform"))
        metrics = {
            "loss": loss,
            "real_score": of_real.mean(),
            "fake_score": of_fake.mean(),
            **context.minimize("discriminator", loss),
        }
        if not turn:
            return metrics

        with frozen(getattr(critic, "module", critic)) as judge, precision:
            if c.game == "relativistic":
                with torch.no_grad():
                    of_real = judge(real).float()
            loss = game.generator(judge(fake).float(), of_real)
        context.minimize("model", loss)
        return {**metrics, "generator_loss": loss}

    def evaluate(
        self, model: nn.Module, data: Dataset, *, limit: int | None = None
    ) -> Mapping[str, float]:
        """Frechet distance over thumbnails: a watch for collapse, no figure of quality.

        Quality is measured by ``kexue eval --metrics sample-quality``.
        """
        n = min(len(data), limit or len(data))
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        found: dict[str, list[Tensor]] = {"real": [], "fake": []}
        for first in range(0, n, EVALUATION_BATCH):
            rows = range(first, min(n, first + EVALUATION_BATCH))
            latent = model.prior(len(rows), generator=generator)  # type: ignore[operator]
            found["fake"].append(model.decode(latent.to(device)).cpu())  # type: ignore[operator]
            found["real"].append(data.batch(rows)["image"])
        real, fake = (torch.cat(found[name]) for name in ("real", "fake"))
        return {"thumbnail_distance": thumbnail_distance(real, fake)}

    def preview(self, model: nn.Module) -> Tensor:
        """The same samples every time."""
        generator = torch.Generator().manual_seed(0)
        latent = model.prior(PREVIEW_IMAGES, generator=generator)  # type: ignore[operator]
        images: Tensor = model.decode(latent)  # type: ignore[operator]
        return images

    def preprocess(self) -> Mapping[str, Any]:
        """What `config.json` says of the images."""
        c = self.config
        return {"modality": "image", "size": c.size, "channels": c.channels, "range": [0, 1]}

    def sampler(self) -> tuple[str, Mapping[str, Any]]:
        """The prior as it was trained with."""
        return "latent-prior", {"batch_size": PREVIEW_IMAGES}

    def extra_files(self, folder: Path) -> None:
        """The discriminator, for who wants to train on."""
        if self.config.spectral:
            save_discriminator(self._critic, folder)


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module, whose parameters want no gradient meanwhile: gradients only pass through it.

    It saves their computation, and spectral normalisation stays where the last step left it.
    """
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
