"""Models that are hard to load, each for one reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 4
    sizes: tuple[int, ...] = (3, 5)
    rate: float = 0.5
    note: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


class Configured(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config


class Mixed(Configured):
    """Every kind of dtype; every tensor has a shape of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(nn.Linear(config.width, size) for size in config.sizes)
        self.precise = nn.Linear(2, 7, bias=False)
        self.scale = nn.Parameter(torch.randn(()))
        self.register_buffer("exact", torch.linspace(0, 1, 11, dtype=torch.float64))
        self.register_buffer("counts", torch.arange(13))
        self.register_buffer("mask", torch.arange(17) % 3 == 0)
        self.register_buffer("empty", torch.zeros(0, 19))


class Tied(Configured):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(7, config.width)
        self.head = nn.Linear(config.width, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x))


class Shared(Configured):
    """One module, buffers and all, under two names."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.first = nn.BatchNorm1d(config.width)
        self.second = self.first


class Computed(Configured):
    """Tensors that the state dict does not hold."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.width, config.width)
        positions = torch.arange(6.0)
        self.register_buffer("sines", positions.sin(), persistent=False)
        self.register_buffer("counts", torch.arange(6), persistent=False)
        self.register_buffer("noise", torch.randn(4), persistent=False)
        self.register_buffer("filled", nn.init.constant_(torch.empty(3), 7.0), persistent=False)
        self.register_buffer("nothing", None, persistent=False)
        self.plain = positions.cos()
        self.several = [positions + 1, positions.long()]
        self.named = {"window": positions.exp()}

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.sines[: self.config.width]


class Hoarding(Configured):
    """Keeps a parameter where torch does not see it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear = nn.Linear(2, 2)
        self.hoard = [self.linear.weight]


class Recurrent(Configured):
    """``nn.GRU`` keeps a list of its own parameters, and sees to it that it stays right."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reader = nn.GRU(config.width, config.width, bidirectional=True)


class Peeking(Configured):
    """A constructor that looks at values, which meta tensors do not have."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.limit = torch.arange(config.width).max().item()
        self.linear = nn.Linear(config.width, 2)


class Refusing(Configured):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        raise ValueError("the moon is not full")


class Failing(Configured):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        raise KeyError("bug")


class Frozen(Configured):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.still = nn.Parameter(torch.randn(3), requires_grad=False)
        self.moving = nn.Parameter(torch.randn(4))


class Normed(Configured):
    """Its buffers change in the forward pass, between a product and its gradient."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(config.width, 6))
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.linear(x)))


class Rider(Configured):
    """Works with the beasts that its weights require."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reins = nn.Parameter(torch.randn(config.width))
        self.beasts: tuple[nn.Module, ...] = ()

    def attach(self, required: Sequence[nn.Module]) -> None:
        if any(beast.config.width != self.config.width for beast in required):
            raise ValueError("the saddle does not fit")
        self.beasts = tuple(required)


class Lexicon(Configured):
    """Needs a file beside its tensors."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.words: tuple[str, ...] = ()
        self.embedding = nn.Embedding(config.width, 3)

    def load_assets(self, folder: Path) -> None:
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
        if len(words) != self.config.width:
            raise ValueError(f"vocab.txt has {len(words)} words, not {self.config.width}")
        self.words = tuple(words)

    def save_assets(self, folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join(self.words), encoding="utf-8")


class Dreamer(Configured):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.width, 3)

    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        z = torch.empty(n, self.config.width)
        for row in z:
            row.normal_(generator=generator).mul_(temperature)
        return z

    def decode(self, latent: Tensor) -> Tensor:
        return self.linear(latent).sigmoid()

    def to_latent(self, x: Tensor) -> Tensor:
        return x


class PowerLoss(nn.Module):
    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if power <= 0:
            raise ValueError(f"power must be above 0, got {power}")
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().pow(self.power).mean()


def example(generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randn(3, generator=generator),)


@torch.no_grad()
def dream(
    model: Dreamer,
    n: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    steps: int = 3,
    clip: bool = False,
    mode: str = "plain",
    seed_text: object = None,
) -> Tensor:
    assert type(temperature) is float
    return model.decode(model.prior(n, temperature=temperature, generator=generator)) + steps
