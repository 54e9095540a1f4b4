"""What GANs minimise: four games between a generator and a discriminator, and two penalties.

A game is a module with two losses, of scores D(x) as the discriminator gives them, real numbers:

    game(real, fake)               what the discriminator minimises
    game.generator(fake, real)     what the generator minimises

In the discriminator's step ``fake`` must come from ``x.detach()`` of the generator's images, and
in the generator's the discriminator's parameters want no gradient: see ``recipes.py``.

References:
    [1] Goodfellow et al., Generative Adversarial Nets, 2014. https://arxiv.org/abs/1406.2661
    [2] Arjovsky et al., Wasserstein GAN, 2017. https://arxiv.org/abs/1701.07875
    [3] Lim & Ye, Geometric GAN, 2017. https://arxiv.org/abs/1705.02894
    [4] Jolicoeur-Martineau, The relativistic discriminator, 2018. https://arxiv.org/abs/1807.00734
    [5] Gulrajani et al., Improved Training of Wasserstein GANs, 2017. arXiv 1704.00028
    [6] Wu et al., Wasserstein Divergence for GANs, 2018. https://arxiv.org/abs/1712.01026
    [7] Su Jianlin, https://kexue.fm/archives/6051, https://kexue.fm/archives/6110
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "GAMES",
    "Game",
    "GradientPenalty",
    "HingeGAN",
    "NonSaturatingGAN",
    "RelativisticGAN",
    "WassersteinDivergence",
    "WassersteinGAN",
]


class Game(nn.Module):
    """The two losses of a GAN, means over the batch."""

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of its scores of real and generated images, (n,) each."""
        raise NotImplementedError

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss of the scores of its images, (n,); ``real`` where scores count."""
        raise NotImplementedError


class HingeGAN(Game):
    """[3]: relu(1 - D(x)) + relu(1 + D(G(z))); the generator minimises -D(G(z)).

    A sample that is told apart by more than the margin gives the discriminator no gradient.
    """

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss."""
        return -fake.mean()


class NonSaturatingGAN(Game):
    """[1]: -log s(D(x)) - log(1 - s(D(G(z)))), s the sigmoid; generator: -log s(D(G(z)))."""

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss."""
        return F.softplus(-fake).mean()


class WassersteinGAN(Game):
    """[2]: D(G(z)) - D(x); the generator minimises -D(G(z)).

    Only with a Lipschitz constraint on D (spectral norm, a penalty) is there a minimum.
    """

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss."""
        return -fake.mean()


class RelativisticGAN(Game):
    """[4]: -log s(D(x) - D(G(z))); the generator minimises the same with the roles exchanged.

    Args:
        average: Compare each score with the mean of the others (RaSGAN), not pair by pair (RSGAN).
    """

    def __init__(self, *, average: bool = False) -> None:
        super().__init__()
        self.average = average

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss."""
        if not self.average:
            return F.softplus(fake - real).mean()
        up, down = real - fake.mean(), fake - real.mean()
        return (F.softplus(-up).mean() + F.softplus(down).mean()) / 2

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss; ``ValueError`` without ``real``."""
        if real is None:
            raise ValueError("the relativistic generator needs the scores of real images too")
        loss: Tensor = self(fake, real)
        return loss


#: Name -> game, as recipes take them.
GAMES: dict[str, Callable[[], Game]] = {
    "hinge": HingeGAN,
    "nonsaturating": NonSaturatingGAN,
    "wgan": WassersteinGAN,
    "relativistic": RelativisticGAN,
}


class GradientPenalty(nn.Module):
    """[5]: weight * mean (|dD/dx| - 1)^2, at random points between real and generated images.

    It asks for a gradient of norm 1 where it looks, and nowhere else: a constraint on the lines
    between the two kinds, that costs a second backward pass [7].

    Args:
        weight: Its factor; 10 in [5].
        one_sided: Punish norms above 1 only, max(|dD/dx| - 1, 0)^2, which is what a Lipschitz
            constraint says (section 4 of [5], and [7]).
    """

    def __init__(self, weight: float = 10.0, *, one_sided: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.one_sided = one_sided

    def forward(
        self,
        critic: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        mix: Tensor | None = None,
    ) -> Tensor:
        """The penalty, a scalar, differentiable in the critic's parameters.

        Args:
            critic: Images (n, ...) to scores, (n,) or (n, 1), each of its own image alone: no
                batch norm in it.
            real, fake: As many images of each, (n, ...).
            mix: Share of the real image at each point, (n,) in [0, 1]; drawn where ``None``.
        """
        if mix is None:
            mix = torch.rand(len(real), dtype=real.dtype, device=real.device)
        mix = mix.view(-1, *[1] * (real.ndim - 1))
        over = _slopes(critic, mix * real + (1 - mix) * fake) - 1
        if self.one_sided:
            over = F.relu(over)
        return self.weight * over.square().mean()

    def extra_repr(self) -> str:
        """Its settings."""
        return f"weight={self.weight}, one_sided={self.one_sided}"


class WassersteinDivergence(nn.Module):
    """[6]: the penalty k * mean |dD/dx|^p of WGAN-div; together with the game ``wgan``.

    No Lipschitz constraint is needed: with it the loss is a divergence for every k > 0, p > 1. The
    mean is over real and generated images, half of each, so each half has the factor k / 2.

    Args:
        k: Its factor; 2 in [6].
        p: Power of the norm; 6 in [6].
        at: Where to look: at the ``"ends"``, or at random points ``"between"`` them.
    """

    def __init__(
        self, k: float = 2.0, p: float = 6.0, *, at: Literal["ends", "between"] = "ends"
    ) -> None:
        super().__init__()
        if at not in ("ends", "between"):
            raise ValueError(f"at must be 'ends' or 'between', not {at!r}")
        self.k = k
        self.p = p
        self.at = at

    def forward(
        self,
        critic: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        mix: Tensor | None = None,
    ) -> Tensor:
        """The penalty, a scalar; arguments as those of :class:`GradientPenalty`."""
        if self.at == "between":
            if mix is None:
                mix = torch.rand(len(real), dtype=real.dtype, device=real.device)
            mix = mix.view(-1, *[1] * (real.ndim - 1))
            return self.k * _slopes(critic, mix * real + (1 - mix) * fake).pow(self.p).mean()
        ends = (_slopes(critic, x).pow(self.p).mean() for x in (real, fake))
        return self.k / 2 * sum(ends, start=real.new_zeros(()).float())

    def extra_repr(self) -> str:
        """Its settings."""
        return f"k={self.k}, p={self.p}, at={self.at!r}"


def _slopes(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|dD/dx| of each image, (n,), at least float32, with a graph to the critic's parameters."""
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    if slope.dtype in (torch.float16, torch.bfloat16):
        slope = slope.float()
    # The norm's own backward gives 0 at a slope of 0, where the square root has no derivative.
    norms: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return norms
