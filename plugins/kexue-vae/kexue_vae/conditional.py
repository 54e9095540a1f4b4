"""How ``cvae-fashion`` is trained: as the others are, with labels, and a judge of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_core.errors import DataError
from kexue_core.training import Batch, Card, Dataset, RecipeConfig, Split, StepContext
from kexue_vae.centres import centre_of
from kexue_vae.cvae import CVAE, CVAEConfig
from kexue_vae.judge import Judge, disturb
from kexue_vae.recipes import PREVIEW_IMAGES, VAEMnist, VAEMnistConfig
from kexue_vae.vae import VAE

__all__ = ["CVAEFashion", "CVAEFashionConfig"]

#: Images of a batch that the judge sees, and samples that it judges.
JUDGED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CVAEFashionConfig(VAEMnistConfig):
    """28x28 grey images of ten classes of clothes.

    Attributes:
        classes: Number of classes; labels are 0 to classes - 1.
        adversarial: Weight, in nats an image, of what a judge says of samples of the prior; 0 is
            the model of the post. See :mod:`kexue_vae.judge`.
    """

    steps: int = 6_000
    ema: float = 0.999
    evaluate_every: int = 0
    preview_every: int = 1_000
    checkpoint_every: int = 1_000
    latent: int = 16
    likelihood: str = "gaussian-optimal"
    iwae_steps: int = 0
    evaluation_samples: int = 100
    classes: int = 10
    adversarial: float = 20.0


class CVAEFashion(VAEMnist):
    """A conditional VAE of Fashion-MNIST."""

    Config: ClassVar[type[RecipeConfig]] = CVAEFashionConfig
    config: CVAEFashionConfig
    hub: ClassVar[str] = "zalando-datasets/fashion_mnist"
    card: ClassVar[Card] = Card(
        summary="Conditional VAE (one prior mean a class, multilayer perceptrons) of Fashion-MNIST "
        "at 28x28: `kexue sample cvae-fashion -o labels=3` draws dresses. Classes are 0 T-shirt, "
        "1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 boot.",
        data="Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017; arXiv 1708.07747)",
        license="MIT",
        terms="Fashion-MNIST is under the MIT licence, and so are these weights.",
        limits="A judge of samples was trained along (adversarially, which the post does not do), "
        "so that samples are sharp and of the class; they vary less than real clothes do.",
    )

    def data(self, source: str | None, split: Split) -> Dataset:
        """Images with labels; images of a folder have them from the folders that they are in."""
        data = super().data(source, split)
        if len(data) and "label" not in data.batch([0]):
            raise DataError(
                f"{data.name} has no labels, which a conditional VAE is trained with",
                hint="Sort the images into one folder a class, or name other data with --data",
            )
        return data

    def preview(self, model: nn.Module) -> Tensor:
        """A sample of each class, over and over."""
        assert isinstance(model, CVAE)
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(PREVIEW_IMAGES) % self.config.classes
        latents = model.prior(
            PREVIEW_IMAGES,
            temperature=self.temperature,
            condition=labels,
            generator=generator,
        )
        return model.decode(latents)

    def build(self) -> Mapping[str, nn.Module]:
        """A new model, and a judge of its samples."""
        modules = dict(super().build())
        c = self.config
        if c.adversarial:
            modules["judge"] = Judge(c.channels, c.size, c.classes)
        return modules

    def optimizers(self, modules: Mapping[str, nn.Module]) -> Mapping[str, torch.optim.Optimizer]:
        """Adam for both."""
        return {
            name: torch.optim.Adam(module.parameters(), lr=self.config.learning_rate, fused=True)
            for name, module in modules.items()
        }

    def _beside(
        self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext
    ) -> dict[str, Tensor]:
        """A step of the judge, on real images and drawn ones, and what it says of the latter."""
        if "judge" not in modules:
            return {}
        image, label = batch["image"][:JUDGED], batch["label"][:JUDGED].long()
        n, shape = len(image), tuple(image.shape[1:])

        def seen(x: Tensor) -> Tensor:
            return disturb(x, context.noise(n, "uniform", 2), context.noise(n, "normal", *shape))

        model, judge = (getattr(modules[m], "module", modules[m]) for m in ("model", "judge"))
        assert isinstance(model, CVAE)
        noise = context.noise(n, "normal", self.config.latent)
        drawn = model.mean(centre_of(label, model.prior_mean) + noise)
        shown = torch.cat([seen(image), seen(drawn.detach())])
        is_drawn = torch.full_like(label, self.config.classes)
        told = F.cross_entropy(modules["judge"](shown), torch.cat([label, is_drawn]))
        context.minimize("judge", told)

        judge.requires_grad_(False)  # gradients pass through it
        taken = F.cross_entropy(judge(seen(drawn)), label)
        judge.requires_grad_(True)
        return {"beside": self.config.adversarial * taken, "judge": told, "taken": taken}

    def _model(self) -> VAE:
        return CVAE(CVAEConfig(**self._shape(), classes=self.config.classes))

    def _condition(self, batch: Batch) -> Tensor | None:
        """The labels."""
        return batch["label"]
