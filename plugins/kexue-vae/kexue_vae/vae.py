"""The variational autoencoder, its evidence lower bound and its importance-weighted bound.

    log p(x) >= E_q(z|x) [log p(x|z)] - KL(q(z|x) || p(z))                               [1, eq 3]
    log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i|x),    z_1 .. z_k ~ q(z|x)             [2, eq 8]

What is normal is the posterior of *each* image, q(z|x) = N(mean(x), exp(log_var(x))) [3]. Its KL to
N(0, I) is summed over dimensions; log-likelihoods are summed over values; both are in nats, one
number an image. Nothing is averaged here but over samples of one image.

References:
    [1] Kingma & Welling, Auto-Encoding Variational Bayes, 2013. https://arxiv.org/abs/1312.6114
    [2] Burda et al., Importance Weighted Autoencoders, 2015. https://arxiv.org/abs/1509.00519
    [3] Su Jianlin, https://kexue.fm/archives/5253

Example:
    >>> vae = VAE(VAEConfig(size=8, widths=(32,), latent=4)).eval()
    >>> x = binarize(torch.rand(5, 1, 8, 8), seed=0)
    >>> bound = vae.log_prob(x, samples=50)  # (5,) nats
    >>> images = vae.decode(vae.prior(3))  # (3, 1, 8, 8) in [0, 1]
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from kexue_vae.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from kexue_vae.networks import NETS, make_decoder, make_encoder

__all__ = ["VAE", "Posterior", "Terms", "VAEConfig", "binarize", "log_normal"]

# exp(+-15) is as flat or as sharp as a posterior gets; beyond it one bad step is an infinity.
MAX_LOG_VAR = 15.0

# Rows (image and sample) that are decoded at once where nothing else is asked. On a processor what
# so few need fits its cache: with 1024 a convolutional decoder takes 1.3 times as long, perceptrons
# the same.
MAX_ROWS, MAX_ROWS_ELSEWHERE = 128, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """Shape of a VAE; the defaults make a model of binary 28x28 images with 0.6M parameters.

    Args:
        size: side of the square image in pixels; `channels` of it.
        latent: dimensions of z.
        net: "mlp" with hidden layers of `widths`, or "conv" with so many channels after each
            halving of the side.
        likelihood: one of `kexue_vae.likelihoods.LIKELIHOODS`.
        sigma: deviation of "gaussian-fixed"; where the other real-valued likelihoods start.
    """

    size: int = 28
    channels: int = 1
    latent: int = 40
    net: str = "mlp"
    widths: tuple[int, ...] = (256, 256)
    likelihood: str = "bernoulli"
    sigma: float = 0.1

    def __post_init__(self) -> None:
        for name in ("size", "channels", "latent"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, valid in (("net", NETS), ("likelihood", LIKELIHOODS)):
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be at least 1, got {self.widths}")
        if self.net == "conv" and (not self.widths or self.size % 2 ** len(self.widths)):
            raise ValueError(
                f"a conv net halves the side once a width: size {self.size} is not a multiple of "
                f"2**{len(self.widths)}, or there are no widths"
            )
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, got {self.sigma}")


#: Parameters of q(z|x), the first dimension of each the image.
Posterior: TypeAlias = tuple[Tensor, ...]


class Terms(NamedTuple):
    """What the bounds are made of, in nats.

    Attributes:
        log_likelihood: log p(x|z) at k samples, (n, k).
        kl: KL(q(z|x) || p(z)) by parts that add up to it, (n, d).
        log_weights: log p(x, z) - log q(z|x) at the samples, (n, k).
    """

    log_likelihood: Tensor
    kl: Tensor
    log_weights: Tensor


class VAE(nn.Module):
    """A VAE with a standard normal prior.

    Data are (n, C, size, size) in [0, 1], binary where the likelihood is Bernoulli's. Latents are
    (n, latent).

    `net_dtype` runs both networks in another number type in training mode: torch.bfloat16 takes
    two thirds of the time. Bounds and samples are always computed in that of the parameters.
    """

    config: VAEConfig
    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.net_dtype: torch.dtype | None = None
        outputs = self.encoder_outputs
        self.encoder = make_encoder(config.net, self.data_shape, config.widths, outputs)
        self.decoder = make_decoder(config.net, self.data_shape, config.widths, self.decoder_inputs)
        self.likelihood = make_likelihood(config.likelihood, config.channels, config.sigma)

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.config.channels, self.config.size, self.config.size)

    @property
    def encoder_outputs(self) -> int:
        """Numbers of the posterior: a mean and a logarithm of a variance a dimension."""
        return 2 * self.config.latent

    @property
    def decoder_inputs(self) -> int:
        """Numbers of a latent as the decoder takes it."""
        return self.config.latent

    # The densities of which the bounds are made.

    def posterior(self, x: Tensor) -> Posterior:
        """Mean and log-variance of q(z|x), (n, d) each."""
        mean, log_var = self._run(self.encoder, x).chunk(2, dim=1)
        return mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)

    def sample(self, posterior: Posterior, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z = mean + sigma noise, (n, k, d), and log q(z|x) in nats, (n, k) [1, section 2.4]."""
        mean, log_var = posterior
        z = torch.addcmul(mean[:, None], (0.5 * log_var).exp()[:, None], noise)
        # From the noise and not from z, where (z - mean) / sigma would lose digits.
        constant = noise.shape[2] * math.log(2 * math.pi)
        return z, -0.5 * (noise.square().sum(2) + log_var.sum(1)[:, None] + constant)

    def log_prior(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """log p(z) of z (n, k, d) in nats, (n, k)."""
        self._refuse(condition)
        return log_normal(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of x (n, C, H, W) and z (n, k, ...) in nats, (n, k)."""
        output = self._run(self.decoder, z.flatten(2).flatten(0, 1))
        return self.likelihood.log_prob(x, output.view(*z.shape[:2], *self.data_shape))

    def kl(self, posterior: Posterior, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """KL(N(mean, sigma^2) || N(0, 1)) a dimension, (n, d), exactly.

        1/2 (mean^2 + sigma^2 - log sigma^2 - 1) [3]. The samples z (n, k, d) are for priors whose
        KL has no closed form.
        """
        self._refuse(condition)
        mean, log_var = posterior
        return 0.5 * (mean.square() + log_var.exp() - log_var - 1)

    def noise(self, n: int, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """What `sample` makes samples of: N(0, I) on the CPU, (n, samples, d).

        From a generator it is drawn one image after the other.
        """
        return _normal(n, (samples, self.config.latent), generator)

    def forward(
        self, x: Tensor, condition: Tensor | None = None, noise: Tensor | None = None
    ) -> Terms:
        """The terms of both bounds: `kexue_vae.ELBO` and `IWAE` make losses of them.

        Args:
            x: (n, C, H, W).
            condition: Of conditional models.
            noise: (n, k, d), for k samples of each posterior. By default it is drawn for one, from
                torch's global generator.

        Raises:
            ValueError: x is of another shape or outside [0, 1].
        """
        self.check(x)
        posterior = self.posterior(x)
        if noise is None:
            noise = self.noise(len(x), 1)
        z, log_q = self.sample(posterior, noise.to(x.device, x.dtype))
        log_likelihood = self.log_likelihood(x, z)
        return Terms(
            log_likelihood=log_likelihood,
            kl=self.kl(posterior, z, condition),
            log_weights=log_likelihood + self.log_prior(z, condition) - log_q,
        )

    # Density, a bound: IWAE-k.

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        samples: int = 500,
        generator: torch.Generator | None = None,
        max_rows: int | None = None,
    ) -> Tensor:
        """IWAE-k with k = `samples`: a lower bound of log p(x) in expectation, (n,) nats.

        It rises with k, to log p(x) [2, theorem 1]; k = 1 is the ELBO. A figure means nothing
        without its k and, for binary images, how they were binarised.

        Args:
            x: (n, C, H, W).
            condition: Of conditional models.
            samples: k.
            generator: Source of the noise, on the CPU, used one image after the other. By default
                every image gets the same noise, that of seed 0: the bound is then a function of
                the image alone, but its errors do not average out over a data set.
            max_rows: How many (image, sample) pairs are decoded at once; by default 128 on a
                processor and 1024 elsewhere. It bounds the memory and changes nothing else.

        Raises:
            ValueError: x is of another shape or outside [0, 1], or samples or max_rows below 1.
        """
        self.check(x)
        if max_rows is None:
            max_rows = MAX_ROWS if x.device.type == "cpu" else MAX_ROWS_ELSEWHERE
        if samples < 1 or max_rows < 1:
            raise ValueError(f"samples {samples} and max_rows {max_rows} must be at least 1")
        if condition is not None and len(condition) != len(x):
            raise ValueError(f"{len(condition)} conditions for {len(x)} images")
        batches = [self.posterior(part) for part in torch.split(x, max_rows)]
        posterior = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        if condition is not None:  # what is wrong with it is said now, not when its image comes up
            nothing = self.noise(len(x), 0).to(x.device, x.dtype)
            self.log_prior(self.sample(posterior, nothing)[0], condition)
        images = max(1, max_rows // samples)
        common = self.noise(1, samples, _seeded()) if generator is None else None
        bounds = []
        for start in range(0, max(len(x), 1), images):
            part = slice(start, start + images)
            count = len(x[part])
            noise = common if common is not None else self.noise(count, samples, generator)
            noise = noise.to(x.device, x.dtype).expand(count, *noise.shape[1:])
            weights = [
                self._log_weights(
                    x[part],
                    tuple(p[part] for p in posterior),
                    some,
                    None if condition is None else condition[part],
                )
                for some in torch.split(noise, max_rows, dim=1)
            ]
            bounds.append(torch.logsumexp(torch.cat(weights, dim=1), dim=1) - math.log(samples))
        return torch.cat(bounds)

    def bits_per_dim(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Bits a value by IWAE-500, an upper bound, (n,), for images in [0, 1].

        Of the binarised image where the likelihood is Bernoulli's, of the 8-bit image otherwise;
        `generator` draws the binarisation or the dequantisation, one image after the other.
        """
        self.check(x, quantized=False)
        generator = generator or _seeded()
        noise = torch.empty(len(x), *self.data_shape)
        for one in noise:
            one.uniform_(generator=generator)
        x = self.likelihood.quantize(x, noise.to(x.device, x.dtype))
        nats = -self.log_prob(x) / (math.prod(self.data_shape) * math.log(2))
        return nats if self.likelihood.discrete else nats + 8

    def _log_weights(
        self, x: Tensor, posterior: Posterior, noise: Tensor, condition: Tensor | None
    ) -> Tensor:
        z, log_q = self.sample(posterior, noise)
        return self.log_likelihood(x, z) + self.log_prior(z, condition) - log_q

    # Latents.

    @torch.no_grad()
    def prior(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (n, d) of N(0, temperature^2), drawn on the CPU one after the other."""
        self._refuse(condition)
        return self._draw(n, temperature, generator)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, d) -> the mean of p(x|z), (n, C, H, W) in [0, 1]."""
        if z.ndim != 2 or z.shape[1] != self.config.latent:
            raise ValueError(f"latents must be (n, {self.config.latent}), not {tuple(z.shape)}")
        return self.mean(z)

    def mean(self, z: Tensor) -> Tensor:
        """The same with gradients, for losses of what is drawn."""
        return self.likelihood.mean(self._run(self.decoder, z))

    @torch.no_grad()
    def to_latent(self, x: Tensor) -> Tensor:
        """Images in [0, 1] -> the mean of q(z|x), (n, d)."""
        self.check(x, quantized=False)
        return self.posterior(x)[0]

    def check(self, x: Tensor, *, quantized: bool = True) -> None:
        """Raise ValueError for another shape, for values outside [0, 1] and for NaN.

        With `quantized` also for values that the likelihood knows nothing of.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.data_shape:
            wanted = ", ".join(map(str, self.data_shape))
            raise ValueError(f"images must be (n, {wanted}), not {tuple(x.shape)}")
        # A NaN fails the comparison too.
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"images must be in [0, 1], got [{x.min():.4g}, {x.max():.4g}]")
        if quantized:
            self.likelihood.check(x)

    def _draw(self, n: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        first = next(self.parameters())
        noise = _normal(n, (self.config.latent,), generator)
        return temperature * noise.to(first.device, first.dtype)

    def _refuse(self, condition: Tensor | None) -> None:
        if condition is not None:
            raise ValueError(f"{type(self).__name__} is unconditional: condition must be None")

    def _run(self, net: nn.Module, x: Tensor) -> Tensor:
        if self.net_dtype is None or not self.training:
            found: Tensor = net(x)
            return found
        with torch.autocast(x.device.type, self.net_dtype):
            return net(x).to(x.dtype)  # type: ignore[no-any-return]  # a module's call has no types


def binarize(x: Tensor, *, seed: int) -> Tensor:
    """Grey images in [0, 1] to 0 and 1, each value 1 with itself as probability, on the CPU.

    The draws follow the order of x, so that the first images of a set come out the same whatever
    follows them.
    """
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return (noise < x.cpu()).to(x.dtype).to(x.device)


def log_normal(z: Tensor, mean: Tensor | None = None) -> Tensor:
    """log N(z; mean, I) in nats, summed over the last dimension; the mean is 0 by default."""
    squares = (z if mean is None else z - mean).square().sum(-1)
    return -0.5 * (squares + z.shape[-1] * math.log(2 * math.pi))


def _normal(n: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """N(0, 1), (n, *shape), on the CPU; from a generator one row after the other."""
    if generator is None:
        return torch.randn(n, *shape)
    noise = torch.empty(n, *shape)
    for one in noise:
        one.normal_(generator=generator)
    return noise


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
