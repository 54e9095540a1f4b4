"""The recipes: what a step touches, runs that resume, weights with their discriminator."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from kexue_sngan.discriminator import FILE, load_discriminator
from kexue_sngan.gan_training import SNGAN, frozen
from kexue_sngan.recipes import SNGANCIFAR10, SNGANCelebA, SNGANFashion
from kexue_sngan.thumbnails import thumbnail_distance
from torch import nn

from kexue_core.errors import UnsupportedError, WeightsFormatError
from kexue_core.plugins import discover
from kexue_core.training.context import LoopContext
from kexue_core.training.loop import train
from kexue_core.training.process import make_accelerator

SMALL = {
    "steps": 6,
    "batch_size": 8,
    "ema": 0.5,
    "evaluate_every": 0,
    "preview_every": 0,
    "checkpoint_every": 3,
    "size": 8,
    "latent": 6,
    "width": 4,
    "critic_width": 4,
    "levels": 2,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two hundred small ramps of different brightness, in colour."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 8)[:, None, None] * np.ones((8, 3))
    images = ramp * rng.uniform(0.2, 1, (200, 1, 1, 1)) + rng.uniform(0, 50, (200, 8, 8, 3))
    path = tmp_path / "ramps.npz"
    np.savez(path, images=images.astype(np.uint8))
    return path


class Bench:
    """A recipe and a context, without the loop."""

    def __init__(self, recipe: SNGAN) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.modules = {k: m.train() for k, m in recipe.build().items()}
        self.optimizers = recipe.optimizers(self.modules)
        self.context = LoopContext(make_accelerator("cpu"), 0, 100, self.optimizers)
        c = recipe.config
        self.image = torch.rand(c.batch_size, c.channels, c.size, c.size)

    def step(self, number: int) -> dict[str, torch.Tensor]:
        self.context.begin_step(number)
        return dict(self.recipe.step(self.modules, {"image": self.image}, self.context))

    def states(self) -> dict[str, dict[str, torch.Tensor]]:
        return {k: copy.deepcopy(m.state_dict()) for k, m in self.modules.items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {k for k in before if not torch.equal(before[k], after[k])}


@pytest.mark.parametrize("game", ["hinge", "nonsaturating", "wgan", "relativistic"])
def test_the_discriminators_step_reaches_no_generator(game):
    bench = Bench(SNGANFashion(SNGANFashion.Config(**SMALL, game=game, critic_steps=2)))
    before = bench.states()
    metrics = bench.step(0)  # not the generator's turn
    after = bench.states()
    assert "generator_loss" not in metrics
    parameters = {k for k, _ in bench.modules["model"].named_parameters()}
    assert not changed(before["model"], after["model"]) & parameters
    assert all(p.grad is None for p in bench.modules["model"].parameters())
    assert changed(before["discriminator"], after["discriminator"])

    before = after
    metrics = bench.step(1)
    after = bench.states()
    assert metrics["generator_loss"].isfinite()
    assert changed(before["model"], after["model"]) >= parameters - {"project.bias"}
    assert all(p.requires_grad for p in bench.modules["discriminator"].parameters())


def test_one_training_step_is_one_round_of_power_iteration():
    bench = Bench(SNGANFashion(SNGANFashion.Config(**SMALL, dtype="float32")))
    layer = bench.modules["discriminator"].score
    rule = layer.parametrizations.weight[0]
    seen, iterate = [], rule._iterate
    rule._iterate = lambda *arguments: seen.append(1) or iterate(*arguments)
    for number in range(3):
        bench.step(number)
        assert len(seen) == number + 1


@pytest.mark.parametrize(
    "options", [{"gradient_penalty": 10.0}, {"spectral": False, "gradient_penalty": 1.0}]
)
def test_penalties_train_with_and_without_spectral_norm(options):
    bench = Bench(
        SNGANFashion(SNGANFashion.Config(**SMALL, **options, one_sided=True, dtype="float32"))
    )
    assert all(v.isfinite() for v in bench.step(0).values())
    assert all(p.grad is not None for p in bench.modules["discriminator"].parameters())


def test_frozen_modules_get_no_gradient_and_thaw():
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    with frozen(layer) as judge:
        x = torch.ones(1, 2, requires_grad=True)
        judge(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize("recipe_class", [SNGANFashion, SNGANCIFAR10])
def test_a_stopped_run_goes_on_bit_for_bit(recipe_class, data, tmp_path):
    model = discover().find(
        "model", "sngan-resnet" if recipe_class is SNGANCIFAR10 else "sngan-cnn"
    )

    def run(name, **settings):
        options = SMALL | {"critic_steps": 2} | settings
        recipe = recipe_class(recipe_class.Config(**options))
        return train(
            recipe, name="run", model=model, data=str(data), out=tmp_path / name, device="cpu"
        )

    whole = run("whole")
    parts = run("parts", checkpoint_every=1)
    # Killed after the third step: what is later is lost, and made again.
    for step in (5, 6):
        for path in (parts / "checkpoints").glob(f"step-{step:08d}"):
            path.rename(tmp_path / f"lost-{step}")
    assert [p.name for p in (parts / "checkpoints").iterdir()] == []
    (tmp_path / "lost-5").rename(parts / "checkpoints" / "step-00000005")
    parts = run("parts", checkpoint_every=1)
    for file in ("model.safetensors", FILE):
        ours, theirs = ((folder / "weights" / file).read_bytes() for folder in (whole, parts))
        assert ours == theirs, file


def test_the_discriminator_lies_beside_the_weights(data, tmp_path):
    recipe = SNGANCelebA(SNGANCelebA.Config(**SMALL))
    model = discover().find("model", "sngan-cnn")
    folder = train(
        recipe, name="run", model=model, data=str(data), out=tmp_path / "r", device="cpu"
    )
    weights = folder / "weights"
    critic = load_discriminator(f"file:{weights}")
    assert not critic.training
    x = 2 * torch.rand(4, 3, 8, 8) - 1
    trained = recipe._critic.eval()
    # rounded to float16
    torch.testing.assert_close(critic(x), trained(x), rtol=1e-2, atol=1e-3)
    (weights / FILE).write_bytes(b"no tensors")
    with pytest.raises(WeightsFormatError, match="does not fit"):
        load_discriminator(f"file:{weights}")
    (weights / FILE).unlink()
    with pytest.raises(UnsupportedError, match="no discriminator"):
        load_discriminator(f"file:{weights}")


def test_the_learning_rate_falls_in_a_straight_line():
    recipe = SNGANFashion(SNGANFashion.Config(steps=10))
    assert [recipe.learning_rate_scale(s) for s in (0, 5, 9)] == pytest.approx([1, 0.5, 0.1])


def test_the_distance_of_thumbnails_grows_with_what_is_done_to_them():
    torch.manual_seed(0)
    images = torch.rand(40, 1, 28, 28)
    assert thumbnail_distance(images, images) == pytest.approx(0, abs=1e-9)
    assert thumbnail_distance(images, images * 0.5) > 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_quick_runs_of_five_seeds_stay_finite(seed, data, tmp_path):
    from kexue_sngan.recipes import SNGANFashionQuick

    recipe = SNGANFashionQuick(SNGANFashionQuick.Config())
    model = discover().find("model", "sngan-cnn")
    folder = train(
        recipe, name="q", model=model, data=str(data), out=tmp_path / "q", seed=seed, device="cpu"
    )
    assert (folder / "weights" / "model.safetensors").is_file()
