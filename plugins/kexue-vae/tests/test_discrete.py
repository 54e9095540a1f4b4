"""The recipes of clusters and categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_vae import ClusterVAE, ClusterVAEConfig
from kexue_vae.discrete import ClusterMnist, GumbelMnist, purity

from kexue_core.plugins import discover
from kexue_core.training.loop import train
from kexue_core.training.records import read_records

SMALL: dict[str, Any] = {
    "steps": 80,
    "ema": 0.9,
    "batch_size": 32,
    "evaluate_every": 0,
    "preview_every": 0,
    "checkpoint_every": 80,
    "size": 8,
    "latent": 3,
    "widths": (16,),
    "warmup": 2,
    "learning_rate": 1e-2,
    "evaluation_samples": 5,
}


class Labelled:
    """Images of 0 and 1 whose first pixel is the cluster that a model should see."""

    name = fingerprint = "labelled"

    def __init__(self, clusters: list[int], labels: list[int]) -> None:
        self.image = torch.zeros(len(labels), 1, 2, 2)
        self.image[:, 0, 0, 0] = torch.tensor(clusters).float()
        self.label = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Any) -> dict[str, torch.Tensor]:
        chosen = torch.tensor(list(indices))
        return {"image": self.image[chosen], "label": self.label[chosen]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Dark and bright images, with labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = rng.integers(0, 100, (200, 8, 8)) + 150 * labels[:, None, None]
    path = tmp_path / "two.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.mark.parametrize(
    ("recipe_class", "model", "settings"),
    [
        (ClusterMnist, "vae-cluster", {"clusters": 2}),
        (GumbelMnist, "vae-gumbel", {"tau": (1.0, 0.3)}),
    ],
)
def test_a_short_run_learns(recipe_class, model, settings, data, tmp_path) -> None:
    recipe = recipe_class(recipe_class.Config(**SMALL, **settings))
    folder = train(
        recipe,
        name="short",
        model=discover().find("model", model, "kexue-vae"),
        data=str(data),
        out=tmp_path / "run",
        device="cpu",
    )
    found = {r.metric: r.value for r in read_records(folder / "results.jsonl")}
    untrained = recipe.evaluate(recipe.build()["model"].eval(), recipe.data(str(data), "val"))
    assert found["nll_iwae_5"] < untrained["nll_iwae_5"] - 0.3
    if model == "vae-cluster":
        assert 0.5 <= found["cluster_purity"] <= 1


def test_tau_falls_from_1_to_a_hundredth_and_reaches_the_model(data: Path) -> None:
    recipe = GumbelMnist(GumbelMnist.Config(**{**SMALL, "steps": 101}))
    assert [recipe.tau(t) for t in (0, 50, 100)] == pytest.approx([1.0, 0.1, 0.01])
    modules = recipe.build()

    class Context:
        step = 50

        def noise(self, rows: int, draw: str, *shape: int) -> torch.Tensor:
            return torch.rand(rows, *shape)

        def minimize(self, *args: object, **options: object) -> dict[str, torch.Tensor]:
            return {}

    recipe.step(modules, {"image": torch.rand(4, 1, 8, 8)}, Context())
    assert modules["model"].tau == pytest.approx(0.1)


def test_purity_counts_the_commonest_label_of_each_cluster() -> None:
    model = ClusterVAE(ClusterVAEConfig(size=2, latent=2, widths=(), clusters=2, hidden=0)).eval()
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.zero_()
        model.encoder[-1].weight[0, 0] = 1.0  # the first latent is the first pixel
        model.assign[0].weight.copy_(torch.tensor([[-9.0, 0.0], [9.0, 0.0]]))
        model.assign[0].bias.copy_(torch.tensor([4.5, -4.5]))
    data = Labelled(clusters=[0, 0, 0, 1, 1, 1], labels=[7, 7, 2, 2, 2, 2])
    assert purity(model, data) == pytest.approx(5 / 6)
    assert purity(model, data, limit=3) == pytest.approx(2 / 3)
