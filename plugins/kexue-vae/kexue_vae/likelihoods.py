"""The four decoders: what p(x|z) is, given what the decoder's network says.

A likelihood takes data x (n, C, H, W) in [0, 1] and the decoder's output (n, k, C, H, W) for k
latents of each, and returns log p(x|z) in nats, (n, k): summed over values, never averaged. What
it is a probability *of* differs, and so do its numbers:

==================  ==================================  ===========================================
name                x                                   log p is of
==================  ==================================  ===========================================
bernoulli           exactly 0 or 1                      a binary image
gaussian-fixed      real                                a density, sigma given
gaussian-learned    real                                a density, sigma a parameter
gaussian-optimal    real                                a density, sigma^2 the mean squared error
logistic            k / 255 (rounded to it)             an image of 8 bits a value
==================  ==================================  ===========================================

References:
    [1] Kingma & Welling, Auto-Encoding Variational Bayes, 2013. https://arxiv.org/abs/1312.6114
    [2] Rybkin et al., sigma-VAE, 2020. https://arxiv.org/abs/2006.13202
    [3] Salimans et al., PixelCNN++, 2017, section 2.1. https://arxiv.org/abs/1701.05517
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "make_likelihood",
]

LIKELIHOODS = (
    "bernoulli",
    "gaussian-fixed",
    "gaussian-learned",
    "gaussian-optimal",
    "logistic",
)

# Rounding to 8 bits has a deviation of 1 / (255 sqrt(12)). A sigma below it would model that.
MIN_SIGMA = 1 / (255 * math.sqrt(12))

# Share of the newest batch in the running mean squared error of gaussian-optimal.
MOMENTUM = 0.05


class Likelihood(nn.Module):
    """p(x|z) as a function of data and the decoder's output.

    Attributes:
        discrete: Whether log p is of a probability, and not of a density.
    """

    discrete: bool

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """x (n, C, H, W), output (n, k, C, H, W) -> log p(x|z) in nats, (n, k)."""
        raise NotImplementedError

    def mean(self, output: Tensor) -> Tensor:
        """The mean of p(x|z) in [0, 1], of the shape of the output."""
        raise NotImplementedError

    def quantize(self, x: Tensor, noise: Tensor) -> Tensor:
        """8-bit images in [0, 1] as what this is a probability of; noise in [0, 1) as x."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raise ValueError where x in [0, 1] is not what this is a probability of."""


class Bernoulli(Likelihood):
    """Independent binary values; the output is their logits [1, appendix C.1].

    log p = x . l - sum softplus(l), one product and one pass over the logits. On grey values the
    same formula is a cross-entropy and no likelihood of anything, so they are refused.
    """

    discrete = True

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """x (n, C, H, W) of 0 and 1, logits (n, k, C, H, W) -> nats (n, k)."""
        logits = output.flatten(2)
        chosen = torch.bmm(logits, x.flatten(1)[:, :, None]).squeeze(2)
        return chosen - F.softplus(logits).sum(2)

    def mean(self, output: Tensor) -> Tensor:
        """Probability that a value is 1."""
        return output.sigmoid()

    def quantize(self, x: Tensor, noise: Tensor) -> Tensor:
        """Grey values to 0 and 1, each 1 with its value as probability; noise in [0, 1)."""
        return (noise < x).to(x.dtype)

    def check(self, x: Tensor) -> None:
        """Raise ValueError where a value is neither 0 nor 1."""
        if not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                "this model is of binary images, and the cross-entropy of grey values is no "
                "likelihood: call binarize(x) first"
            )


class Gaussian(Likelihood):
    """Independent normals of one deviation; the output is their mean.

    log p = -|x - mean|^2 / (2 sigma^2) - D/2 log(2 pi sigma^2). Left out, the second term and
    sigma make a beta of the KL: "MSE plus KL" is this with sigma^2 = 1/2.

    Args:
        sigma: "fixed", "learned" (a parameter), or "optimal" [2, section 3.2]: sigma^2 is the mean
            squared error of the batch while training, which is where log p is largest, and its
            running mean afterwards, so that a density does not depend on the batch.
        start: The deviation, or where it starts, in units of the data's [0, 1].
    """

    discrete = False
    variance: Tensor

    def __init__(self, sigma: str, start: float) -> None:
        super().__init__()
        self.kind = sigma
        if sigma == "learned":
            self.log_sigma = nn.Parameter(torch.tensor(math.log(start)))
        else:
            self.register_buffer("variance", torch.tensor(start**2))

    @property
    def sigma(self) -> Tensor:
        """The deviation that log p uses in eval mode."""
        return (self.log_sigma.exp() if self.kind == "learned" else self.variance.sqrt()).clamp(
            min=MIN_SIGMA
        )

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """x (n, C, H, W), means (n, k, C, H, W) -> log-density in nats (n, k)."""
        squares = (output - x[:, None]).square().flatten(2).sum(2)
        dims = x[0].numel() if len(x) else 1
        if self.kind == "optimal" and self.training and len(x):
            # d log p / d sigma is zero at the optimum, so nothing is lost by detaching it.
            variance = (squares.detach().mean() / dims).clamp(min=MIN_SIGMA**2)
            self.variance.lerp_(variance.to(self.variance.dtype), MOMENTUM)
        else:
            variance = self.sigma.square()
        return -0.5 * (squares / variance + dims * (2 * math.pi * variance).log())

    def mean(self, output: Tensor) -> Tensor:
        """The mean, cut to [0, 1]."""
        return output.clamp(0, 1)

    def quantize(self, x: Tensor, noise: Tensor) -> Tensor:
        """Fill the bins of 8-bit values with noise in [0, 1): a density of it bounds their mass."""
        return ((x * 255).round() + noise) / 256


class DiscretizedLogistic(Likelihood):
    """The mass that a logistic puts on the bin of an 8-bit value [3]; the output is its mean.

    P(x) = sigmoid((x + h - mean) / s) - sigmoid((x - h - mean) / s) with h = 1/510, the outer bins
    reaching to infinity. One scale s a channel is learned. The difference is taken in the form

        log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - e^(b - a)),

    which loses no digit where both are close to 0 or 1.
    """

    discrete = True

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        # A logistic of scale s has the deviation pi s / sqrt(3).
        scale = start * math.sqrt(3) / math.pi
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(scale)))

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """x (n, C, H, W) in [0, 1], means (n, k, C, H, W) -> log-mass in nats (n, k)."""
        levels = (x * 255).round()[:, None] / 255
        log_scale = self.log_scale.clamp(min=math.log(MIN_SIGMA))[:, None, None]
        precision = (-log_scale).exp()
        half = precision / 510
        centred = (levels - output) * precision
        below = F.logsigmoid(centred + half)  # of x or less
        above = F.logsigmoid(half - centred)  # of x or more
        inside = below + above + (-torch.expm1(-2 * half)).log()
        log_mass = torch.where(levels == 0, below, torch.where(levels == 1, above, inside))
        return log_mass.flatten(2).sum(2)

    def mean(self, output: Tensor) -> Tensor:
        """The logistic's mean, cut to [0, 1]."""
        return output.clamp(0, 1)

    def quantize(self, x: Tensor, noise: Tensor) -> Tensor:
        """Round to k / 255; the noise is not needed."""
        return (x * 255).round() / 255


def make_likelihood(name: str, channels: int, sigma: float) -> Likelihood:
    """The likelihood of a name in `LIKELIHOODS`."""
    if name == "bernoulli":
        return Bernoulli()
    if name == "logistic":
        return DiscretizedLogistic(channels, sigma)
    return Gaussian(name.removeprefix("gaussian-"), sigma)
