from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kexue_trainee.recipe import ToyRecipe, ToyRecipeConfig
from PIL import Image
from safetensors.torch import load_file

from kexue_core.errors import ConfigError, DataError, NonFiniteLossError, TrainingError
from kexue_core.loading import load_folder
from kexue_core.plugins import discover
from kexue_core.training import Recipe
from kexue_core.training.loop import train
from kexue_core.training.records import read_records


def run(recipe: Recipe, data: Path, out: Path, **options: Any) -> Path:
    model = discover().find("model", "toy")
    return train(
        recipe, name="toy-made", model=model, data=str(data), out=out, device="cpu", **options
    )


def toy(**settings: Any) -> ToyRecipe:
    return ToyRecipe(ToyRecipeConfig(**settings))


def final(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint holds: weights, their average, the optimiser's state."""
    return load_file(max((folder / "checkpoints").iterdir()) / "tensors.safetensors")


def assert_identical(a: Path, b: Path) -> None:
    x, y = final(a), final(b)
    assert x.keys() == y.keys()
    for key, value in x.items():
        assert torch.equal(value, y[key]), key
    weights = "weights/model.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with its data beside it."""
    folder = tmp_path_factory.mktemp("run")
    ramp = np.linspace(0, 255, 8)[:, None] * np.ones(8)
    scale = np.random.default_rng(0).uniform(0, 1, (120, 1, 1))
    np.savez(folder / "toy.npz", images=(ramp * scale).astype(np.uint8))
    return run(toy(), folder / "toy.npz", folder / "out")


def data_of(finished: Path) -> Path:
    return finished.parent / "toy.npz"


def test_the_folder_holds_what_is_promised(finished: Path) -> None:
    steps = [40 - 10, 40]
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == [
        f"step-{s:08d}" for s in steps
    ]
    assert {p.name for p in finished.iterdir()} == {
        *("run.json", "log.jsonl", "tb", "previews", "checkpoints", "weights", "results.jsonl")
    }
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert list(losses) == list(range(1, 41))
    assert np.mean([losses[s] for s in range(36, 41)]) < losses[1] / 2, "it learns"
    assert all("train/grad_norm" in line for line in lines if "train/loss" in line)
    assert [line["step"] for line in lines if "val/mse" in line] == [15, 30]
    assert any((finished / "tb").iterdir())


def test_previews_are_pictures(finished: Path) -> None:
    paths = sorted((finished / "previews").iterdir())
    assert [p.name for p in paths] == ["step-00000020.png", "step-00000040.png"]
    with Image.open(paths[0]) as picture:
        assert picture.mode == "RGB"
        assert picture.width == picture.height >= 2 * 96  # four images, two a row


def test_the_schedule_scales_the_rate(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert rates[20:] == [1e-2] * 20


def test_the_published_weights_are_the_rounded_average(finished: Path) -> None:
    published = load_file(finished / "weights" / "model.safetensors")
    state = final(finished)
    for key, value in published.items():
        average = state[f"module.average.{key}"]
        wanted = average if key == "mean" else average.half()  # `mean` is in ModelSpec.float32
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)
    assert not torch.equal(
        state["module.average.encode.weight"], state["module.model.encode.weight"]
    )


def test_figures_are_those_of_the_published_file(finished: Path) -> None:
    [record] = read_records(finished / "results.jsonl")
    recipe = toy()
    samples = recipe.data(str(data_of(finished)), "val")
    with torch.no_grad():
        again = recipe.evaluate(load_folder(finished / "weights"), samples)
    assert record.value == again["mse"]
    assert (record.metric, record.split, record.n, record.seed) == ("mse", "val", 12, 0)
    assert record.settings["data"] == samples.fingerprint
    assert f"| mse | {record.value:.6g} |" in (finished / "weights" / "README.md").read_text()
    assert read_records(finished / "weights" / "results.jsonl") == [record]


def test_nothing_names_a_folder_of_this_machine(finished: Path) -> None:
    for path in (finished / "weights").iterdir():
        assert str(finished.parent).encode() not in path.read_bytes(), path


def test_the_data_dependent_start_saw_its_samples(finished: Path) -> None:
    mean = final(finished)["module.model.mean"]
    samples = toy().data(str(data_of(finished)), "train")
    everything = samples.batch(range(len(samples)))["image"].flatten(1).mean(0)
    assert 0 < (mean - everything).abs().max() < 0.2  # of 32 samples, not of all


def test_a_run_that_is_over_changes_nothing_when_it_is_run_again(finished: Path) -> None:
    before = {
        p: p.read_bytes()
        for p in finished.rglob("*")
        if p.is_file() and p.parent.name != "tb" and "weights" not in p.parts
    }
    weights = (finished / "weights" / "model.safetensors").read_bytes()
    run(toy(), data_of(finished), finished)
    assert {p: p.read_bytes() for p in before} == before
    assert (finished / "weights" / "model.safetensors").read_bytes() == weights


def test_a_run_in_pieces_is_the_run_in_one(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "pieces"
    for _ in range(60):
        run(toy(), data_of(finished), out, max_minutes=0.002)  # 0.12 s: some steps
        assert (out / "weights" / "model.safetensors").is_file()
        if (out / "checkpoints" / "step-00000040").exists():
            break
    assert_identical(finished, out)
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in lines if "train/loss" in x]
    assert steps == list(range(1, 41)), "every step is logged once"


def test_another_seed_is_another_run(finished: Path, tmp_path: Path) -> None:
    other = run(toy(), data_of(finished), tmp_path / "other", seed=1)
    a, b = final(finished), final(other)
    assert not torch.equal(a["module.model.encode.weight"], b["module.model.encode.weight"])


def test_how_often_one_looks_does_not_change_what_is_learnt(finished: Path, tmp_path: Path) -> None:
    recipe = toy(evaluate_every=3, preview_every=0, checkpoint_every=7)
    other = run(recipe, data_of(finished), tmp_path / "other")
    assert_identical(finished, other)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"width": 8}, {}, "width was 16 and is 8"),
        ({"betas": (0.5, 0.9)}, {}, r"betas was \[0.9, 0.99\] and is \[0.5, 0.9\]"),
        ({}, {"seed": 3}, "seed was 0 and is 3"),
    ],
)
def test_another_run_is_not_gone_on_with(
    finished: Path, settings: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=rf"holds another run: {said}.*--fresh"):
        run(toy(**settings), data_of(finished), finished, **options)


def test_a_run_that_never_began_is_forgotten(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"toy-made cannot be built with width=-1: RuntimeError"):
        run(toy(steps=3, width=-1), data, tmp_path / "out")
    run(toy(steps=3, width=8), data, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["width"] == 8


def test_what_fails_as_it_comes_is_no_fault_of_the_settings(data: Path, tmp_path: Path) -> None:
    class Broken(ToyRecipe):
        def build(self) -> Any:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run(Broken(ToyRecipeConfig(steps=3)), data, tmp_path / "out")


def test_other_data_is_not_gone_on_with(finished: Path, data: Path) -> None:
    images = np.load(data)["images"]
    images[0, 0, 0] ^= 1  # one pixel
    np.savez(data, images=images)
    with pytest.raises(TrainingError, match="the data was toy"):
        run(toy(), data, finished)


def test_looking_differently_goes_on(data: Path, tmp_path: Path) -> None:
    run(toy(steps=4), data, tmp_path / "out")
    run(toy(steps=4, preview_every=1, checkpoint_every=1), data, tmp_path / "out", resume=True)


def test_fresh_keeps_the_old_run_beside(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(toy(steps=4), data, out)
    run(toy(steps=3), data, out, resume=False)
    assert json.loads((out / "run.json").read_text())["config"]["steps"] == 3
    assert json.loads((tmp_path / "out.1" / "run.json").read_text())["config"]["steps"] == 4


def test_resume_wants_a_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume"):
        run(toy(), data, tmp_path / "none", resume=True)


@pytest.mark.parametrize("resume", [None, False])
def test_a_folder_of_something_else_is_left_alone(
    data: Path, tmp_path: Path, resume: bool | None
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(TrainingError, match="exists and is no run"):
        run(toy(), data, tmp_path / "thesis", resume=resume)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(NonFiniteLossError, match="at step 25") as caught:
        run(toy(poison=25), data, out)
    assert f"last good checkpoint is {out / 'checkpoints' / 'step-00000020'}" in str(caught.value)
    assert not (out / "weights").exists()
    for path in (out / "checkpoints").rglob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(path).values())


def test_a_step_that_meets_nan_before_there_is_a_loss(data: Path, tmp_path: Path) -> None:
    class Careful(ToyRecipe):
        def step(self, modules: Any, batch: Any, context: Any) -> Any:
            if context.step == 25:
                raise FloatingPointError("vectors are NaN")
            return super().step(modules, batch, context)

    out = tmp_path / "out"
    with pytest.raises(NonFiniteLossError, match="At step 25: vectors are NaN") as caught:
        run(Careful(toy().config), data, out)
    assert f"last good checkpoint is {out / 'checkpoints' / 'step-00000020'}" in str(caught.value)


def test_poisoned_parameters_are_not_saved(data: Path, tmp_path: Path) -> None:
    class Poisoning(ToyRecipe):
        def step(self, modules: Any, batch: Any, context: Any) -> Any:
            metrics = super().step(modules, batch, context)
            if context.step == 14:
                with torch.no_grad():
                    modules["model"].decode.bias[3] = float("inf")
                    modules["model"].decode.weight.mul_(0)
                return {"loss": torch.zeros(())}
            return metrics

    recipe = Poisoning(ToyRecipeConfig(checkpoint_every=15))
    with pytest.raises(NonFiniteLossError, match=r"model\.decode\.bias holds NaN .* step 15"):
        run(recipe, data, tmp_path / "out")
    assert not list((tmp_path / "out" / "checkpoints").glob("*"))


def test_no_average_publishes_the_model_itself(data: Path, tmp_path: Path) -> None:
    out = run(toy(steps=5, ema=0.0), data, tmp_path / "out")
    published = load_file(out / "weights" / "model.safetensors")
    assert torch.equal(published["mean"], final(out)["module.model.mean"])
    assert not any(k.startswith("module.average") for k in final(out))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_finish_is_of_the_published_copy_alone(data: Path, tmp_path: Path, ema: float) -> None:
    class Finishing(ToyRecipe):
        def finish(self, model: torch.nn.Module) -> None:
            assert not model.training
            model.mean.add_(1.0)

    recipe = Finishing(ToyRecipeConfig(steps=5, ema=ema))
    out = tmp_path / "out"
    trained = "module.average.mean" if ema else "module.model.mean"
    for _ in range(2):  # the second time there is nothing to train; it is published again
        run(recipe, data, out)
        published = load_file(out / "weights" / "model.safetensors")
        assert torch.equal(published["mean"], final(out)[trained] + 1.0)


def test_missing_data_and_devices_are_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz does not exist"):
        run(toy(), tmp_path / "nowhere.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(TrainingError, match="no device 'tpu'"):
        train(
            toy(),
            name="toy-made",
            model=discover().find("model", "toy"),
            device="tpu",
            out=tmp_path,
        )


def test_a_broken_batch_ends_the_run(data: Path, tmp_path: Path) -> None:
    class Breaking(ToyRecipe):
        def data(self, source: str | None, split: Any) -> Any:
            samples = super().data(source, split)
            fetch = samples.batch

            def batch(indices: Any) -> Any:
                if len(indices) == 8 and split == "train" and 7 in indices:
                    raise DataError("image 7 cannot be read")
                return fetch(indices)

            samples.batch = batch  # type: ignore[method-assign]  # an instance of its own
            return samples

    with pytest.raises(DataError, match="image 7"):
        run(Breaking(ToyRecipeConfig()), data, tmp_path / "out")


def test_a_batch_that_does_not_divide_is_refused() -> None:
    from kexue_core.training.process import rows_per_process

    with pytest.raises(ConfigError, match=r"batch_size 30 does not divide over 4 .*batch_size=32"):
        rows_per_process(30, 4)
