"""Small labelled images, and a classifier that has learnt nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_metrics import Features, ImageClassifier, ImageClassifierConfig


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    config = ImageClassifierConfig(labels=("dark", "grey", "light"), size=8, widths=(4, 8))
    model = ImageClassifier(config)
    model(torch.rand(64, 1, 8, 8))  # running means and variances that are not 0 and 1
    return model.eval()


@pytest.fixture
def features(classifier: ImageClassifier) -> Features:
    return Features(classifier, name="eye", weights_sha256="ab" * 32)


Shades = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def shades() -> Shades:
    """Makes (n, size, size) uint8 noise of three brightnesses, and says which one each is."""

    def make(n: int, *, seed: int = 0, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, n)
        levels = np.array([20, 110, 200])[labels][:, None, None]
        return (levels + rng.integers(0, 50, (n, size, size))).astype(np.uint8), labels

    return make


@pytest.fixture
def shades_file(shades: Shades, tmp_path: Path) -> Path:
    """300 of them for training and validation, 60 for test."""
    (images, labels), (test, of_test) = shades(300), shades(60, seed=1)
    path = tmp_path / "shades.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=test, y_test=of_test)
    return path
