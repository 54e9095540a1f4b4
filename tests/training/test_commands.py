"""``kexue train`` and ``kexue eval`` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kexue_trainee.recipe import ToyRecipe, ToyRecipeConfig

from kexue_core.commands.evaluate import command as evaluate_command
from kexue_core.commands.train import command as train_command
from kexue_core.errors import ConfigError, DataError, KexueError, NotFoundError
from kexue_core.training.records import read_records

Invoke = Callable[..., Result]


def invoke(command: Any, *arguments: object) -> Result:
    result = CliRunner().invoke(command, list(map(str, arguments)))
    if isinstance(result.exception, KexueError):
        raise result.exception
    return result


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    settings = ("--set", "width=12", "--set", "betas=0.8,0.9")
    result = invoke(
        train_command, "toy-made", "--data", data, "--out", out, "--steps", 6, *settings
    )
    assert result.exit_code == 0, result.output
    return out


def test_settings_reach_the_run(trained: Path) -> None:
    config = json.loads((trained / "run.json").read_text())["config"]
    assert (config["steps"], config["width"], config["betas"]) == (6, 12, [0.8, 0.9])
    [record] = read_records(trained / "results.jsonl")
    assert record.command == (
        "kexue train toy-made --data toy.npz --steps 6 --set width=12 --set betas=0.8,0.9"
    )


def test_eval_repeats_the_figure_of_the_card(trained: Path, data: Path) -> None:
    name = f"file:{trained / 'weights'}"
    result = invoke(evaluate_command, name, "--data", data, "--json")
    [measured] = json.loads(result.stdout)
    [record] = read_records(trained / "results.jsonl")
    for key in ("metric", "value", "dataset", "split", "n", "weights"):
        assert measured[key] == getattr(record, key)
    assert measured["settings"]["data"] == record.settings["data"]
    header, row = invoke(evaluate_command, name, "--data", data).stdout.splitlines()
    assert header.split("\t") == ["metric", "value", "split", "n", "dataset"]
    assert row.split("\t")[:2] == ["mse", f"{record.value:.6g}"]


def test_eval_records_and_limits(trained: Path, data: Path, tmp_path: Path) -> None:
    weights, file = trained / "weights", trained / "weights" / "results.jsonl"
    arguments = (f"file:{weights}", "--data", data, "--split", "train", "--limit", 5)
    assert invoke(evaluate_command, *arguments, "--record", file).exit_code == 0
    trained_figure, measured = read_records(file)
    assert trained_figure.split == "val"
    assert (measured.split, measured.n) == ("train", 5)
    assert measured.command.startswith("kexue eval file:weights --data toy.npz --split train")
    # Written again by the same run, the folder keeps what was measured on the same file.
    settings = ("--set", "width=12", "--set", "betas=0.8,0.9", "--steps", 6)
    invoke(train_command, "toy-made", "--data", data, "--out", trained, *settings)
    assert measured in read_records(file)
    assert "| mse | " in (weights / "README.md").read_text()


def test_eval_says_what_is_wrong(trained: Path, data: Path, tmp_path: Path) -> None:
    name = f"file:{trained / 'weights'}"
    with pytest.raises(DataError, match="has no test split"):
        invoke(evaluate_command, name, "--data", data, "--split", "test")
    with pytest.raises(NotFoundError, match="nowhere"):
        invoke(evaluate_command, "file:nowhere", "--data", data)
    with pytest.raises(NotFoundError, match="toy-mad"):
        invoke(evaluate_command, name, "--data", data, "--recipe", "toy-mad")
    with pytest.raises(ConfigError, match="has no widht"):
        invoke(evaluate_command, name, "--data", data, "--set", "widht=3")
    (tmp_path / "thesis.jsonl").write_text("dear reader\n")
    with pytest.raises(DataError, match=r"thesis\.jsonl, line 1"):
        invoke(evaluate_command, name, "--data", data, "--record", tmp_path / "thesis.jsonl")
    assert (tmp_path / "thesis.jsonl").read_text() == "dear reader\n"


def test_train_says_what_is_wrong(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Did you mean toy-made"):
        invoke(train_command, "toy-maed", "--data", data)
    with pytest.raises(ConfigError, match="has no lr"):
        invoke(train_command, "toy-made", "--data", data, "--set", "lr=1")
    assert invoke(train_command, "toy-made", "--steps", "0").exit_code == 2


def test_an_evaluation_is_that_of_the_settings_trained_with(trained: Path) -> None:
    from kexue_core.commands.evaluate import _trained_with
    from kexue_core.commands.train import make_recipe
    from kexue_core.plugins import discover

    declared = discover().find("recipe", "toy-made")
    settings = _trained_with(trained / "weights", "toy-made")
    recipe = make_recipe(declared, ("width=9",), settings)
    assert isinstance(recipe, ToyRecipe)
    assert recipe.config == ToyRecipeConfig(steps=6, width=9, betas=(0.8, 0.9))
    assert _trained_with(trained / "weights", "another") == {}
    assert _trained_with(trained, "toy-made") == {}


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_help_costs_no_torch_and_shows_examples(verb: str, environment: dict[str, str]) -> None:
    code = (
        f"import sys; from kexue_core.commands.{verb} import command; "
        "heavy = {'torch', 'numpy', 'PIL', 'accelerate', 'datasets', 'safetensors'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "command.main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "Examples:" in done.stdout
