"""The features of a published classifier, as a function of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BATCH", "Features", "load_features"]

#: Images that the classifier is given at once.
BATCH = 256
#: Weights of red, green and blue in grey (ITU-R BT.601), as Pillow has them.
LUMA = (0.299, 0.587, 0.114)


class Features:
    """Images in, feature vectors out: the axis that sample quality is measured along.

    Everything computed from features depends on the classifier that gives them. Quote ``name`` and
    ``weights_sha256`` with every figure, and compare figures of one classifier only.

    Args:
        model: A classifier with ``features``, ``config.size``, ``config.channels`` and
            ``config.labels``, in eval mode.
        name: What it is called in records.
        weights_sha256: sha256 of its ``model.safetensors``.
        batch_size: Images that it is given at once.

    Attributes:
        name, weights_sha256: As above.
        labels: Names of its classes, in the order of the logits.
        size, channels: What images are brought to.
        multilabel: Whether an image may have several labels.
    """

    def __init__(
        self, model: Any, *, name: str, weights_sha256: str, batch_size: int = BATCH
    ) -> None:
        self.model = model
        self.name = name
        self.weights_sha256 = weights_sha256
        self.batch_size = batch_size
        self.labels: tuple[str, ...] = tuple(model.config.labels)
        self.size: int = model.config.size
        self.channels: int = model.config.channels
        self.multilabel: bool = model.config.multilabel

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D), float32 on the CPU.

        Args:
            images: (N, 1 or 3, height, width) in [0, 1], height = width. Where the size differs
                from the classifier's they are resized (bilinear, antialiased), RGB becomes grey
                and grey RGB, as :meth:`prepare` does. N may be 0.

        Raises:
            ValueError: Another shape, not square, values outside [0, 1] or not finite.
        """
        return self._batched(images, self.model.features, self.model.output.in_features)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, labels), float32 on the CPU, of images as in :meth:`__call__`."""
        return self._batched(images, self.model, len(self.labels))

    def predict(self, images: Tensor) -> Tensor:
        """Number of the most probable label, (N,) int64.

        With ``multilabel`` (N, labels), bool: the labels with a probability above 1/2.
        """
        logits = self.logits(images)
        return logits > 0 if self.multilabel else logits.argmax(-1)

    def prepare(self, images: Tensor) -> Tensor:
        """``images`` as the classifier takes them: its number of channels, then its size.

        A whole image is resized, nothing is cut off: what was framed otherwise than the
        classifier's training images has to be cropped before.

        Raises:
            ValueError: Another shape, not square, values outside [0, 1] or not finite.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"images must have the shape (N, 1 or 3, size, size), not {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise ValueError(f"images must be floats in [0, 1], not {images.dtype}")
        # The comparisons are false for NaN.
        if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
            raise ValueError("images must be in [0, 1] and finite")
        images = images.float()
        if images.shape[1] == 3 and self.channels == 1:
            luma = images.new_tensor(LUMA).view(3, 1, 1)
            images = (images * luma).sum(1, keepdim=True)
        elif images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] != self.size and len(images):
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return images

    @torch.no_grad()
    def _batched(self, images: Tensor, apply: Callable[[Tensor], Tensor], width: int) -> Tensor:
        device = next(self.model.parameters()).device
        found = torch.empty(len(images), width)
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            found[rows] = apply(self.prepare(images[rows]).to(device)).float().cpu()
        return found


def load_features(
    reference: str, *, device: torch.device | str | None = None, batch_size: int = BATCH
) -> Features:
    """The features of published weights, pulled and verified where they are not here yet.

    >>> features = load_features("classifier-fashion")                      # doctest: +SKIP
    >>> features(images).shape                                              # doctest: +SKIP
    torch.Size([10000, 128])

    Args:
        reference: Weights of an image classifier: ``classifier-fashion``, ``classifier-mnist``,
            ``classifier-celeba-attrs``, or any reference that ``kexue_core.load`` takes.
        device: Where the classifier works; the CPU where ``None``. Features come to the CPU.
        batch_size: Images that it is given at once.

    Raises:
        UnsupportedError: The weights are of no image classifier with features.
        KexueError: As :func:`kexue_core.load`.
    """
    import kexue_core as kexue
    from kexue_core.api import provenance
    from kexue_core.errors import UnsupportedError
    from kexue_core.folder import WEIGHTS_FILE
    from kexue_core.hub.receipts import hash_file

    model: Any = kexue.load(reference, device=device)
    known = provenance(model)
    assert known is not None
    wanted = ("features", "output")
    config = ("labels", "size", "channels", "multilabel")
    if not all(hasattr(model, x) for x in wanted) or not all(
        hasattr(model.config, x) for x in config
    ):
        raise UnsupportedError(
            f"{reference} has no features of images to measure by",
            hint="Name weights of the model image-classifier: `kexue list classifier`",
        )
    return Features(
        model,
        name=known.entry.name if known.entry else reference,
        weights_sha256=hash_file(known.folder / WEIGHTS_FILE),
        batch_size=batch_size,
    )
