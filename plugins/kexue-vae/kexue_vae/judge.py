"""A judge of samples: does what the prior of a class draws look like a real image of it?

The decoder draws means: what classes have in common, and the same for classes that differ in
details alone. Of samples of Fashion-MNIST few shirts are taken for shirts, and few sandals for
sandals. So a small classifier is trained along, whose classes are those of the real images and
one more, "drawn" [1, 2]; the decoder is trained to make it say the class that was asked for.
Without the additional class it finds patterns that are recognised and look like nothing. Post 5253
has no such term.

References:
    [1] Bao et al., CVAE-GAN: Fine-Grained Image Generation through Asymmetric Training, 2017.
        https://arxiv.org/abs/1703.10155
    [2] Salimans et al., Improved Techniques for Training GANs, 2016, section 5.
        https://arxiv.org/abs/1606.03498
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Judge", "disturb"]


class Judge(nn.Sequential):
    """Images (n, C, size, size) in [0, 1] -> logits (n, classes + 1), the last of what is drawn."""

    def __init__(self, channels: int, size: int, classes: int, *, width: int = 32) -> None:
        side = -(-size // 4)
        super().__init__(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * side * side, 128),
            nn.ReLU(),
            nn.Linear(128, classes + 1),
        )


def disturb(image: Tensor, shift: Tensor, noise: Tensor, *, pixels: int = 2) -> Tensor:
    """Images moved by up to ``pixels``, with a little noise, so that no single pixel decides.

    Args:
        image: (n, C, H, W) in [0, 1].
        shift: (n, 2), uniform in [0, 1).
        noise: (n, C, H, W), normal.
        pixels: The farthest.
    """
    _, _, height, width = image.shape
    down, right = (shift * (2 * pixels + 1)).long().unbind(1)
    rows = down[:, None] + torch.arange(height, device=image.device)
    columns = right[:, None] + torch.arange(width, device=image.device)
    padded = F.pad(image, (pixels,) * 4)
    index = torch.arange(len(image), device=image.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2) + 0.1 * noise
