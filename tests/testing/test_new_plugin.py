"""What ``kexue new-plugin`` writes passes ruff, mypy and the kit unchanged, and trains."""

from __future__ import annotations

import builtins
import io
import json
import keyword
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sandbox import Sandbox
from synthetic import REPOSITORY, write_distribution

from kexue_core.commands import cli
from kexue_core.errors import ConfigError, InvalidReferenceError
from kexue_core.testing import scaffold
from kexue_core.testing.scaffold import KINDS, LONGEST_NAME, Kind, write_plugin

#: Names that the code from the templates needs for something else.
COLLIDING: dict[Kind, str] = {"model": "tensor", "loss": "f", "sampler": "range"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox") / "environment")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind: x-model, x-loss, x-sampler, and those of COLLIDING."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        write_plugin(f"x-{kind}", kind, folder)
        write_plugin(COLLIDING[kind], kind, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
# Names are inside of lines, and those that begin with a digit get a prefix.
@pytest.mark.parametrize("name", ["x", "3d-net", "a" * LONGEST_NAME, "3" * LONGEST_NAME])
def test_ruff_has_nothing_to_say(name: str, kind: Kind, sandbox: Sandbox, tmp_path: Path) -> None:
    folder = write_plugin(name, kind, tmp_path)
    sandbox.run("ruff check --no-cache . && ruff format --no-cache --check .", folder)


def names_in(folder: Path, kind: Kind) -> list[list[str]]:
    """The identifiers and keywords of each module, in their order."""
    found = []
    for module in KINDS[kind][1]:
        text = next(folder.glob(f"kexue_*/{module}.py")).read_text()
        compile(text, module, "exec")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found.append([token.string for token in tokens if token.type == tokenize.NAME])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_hides_what_the_code_needs(kind: Kind, sandbox: Sandbox, tmp_path: Path) -> None:
    plain = names_in(write_plugin("zzz", kind, tmp_path), kind)
    words = {*keyword.kwlist, *dir(builtins), *(word for module in plain for word in module)}
    hyphenated = {re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", "-", word).strip("-") for word in words}
    asked = {name.lower() for name in hyphenated if name and len(name) <= LONGEST_NAME}
    for name in sorted(asked - {"kexue-core", "kexue-zzz", "zzz"}):
        folder = write_plugin(name, kind, tmp_path)
        for ours, theirs in zip(names_in(folder, kind), plain, strict=True):
            # A collision gives one word two meanings.
            pairs = set(zip(ours, theirs, strict=True))
            assert len(pairs) == len({word for word, _ in pairs}), name
        declared = next(folder.glob("kexue_*/plugin.py")).read_text()
        written = re.findall(r'factory="[^:]*:(\w+)"', declared)[0]
        assert written.isidentifier()
        assert not keyword.iskeyword(written)
        assert not hasattr(builtins, written)
    sandbox.run("ruff check --no-cache . && ruff format --no-cache --check .", tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "module", "wanted"),
    [
        ("class", "sampler", "sampler", "class_sampler"),
        ("torch", "sampler", "sampler", "torch_sampler"),
        ("none", "model", "model", "NoneModel"),
        ("f", "loss", "loss", "FLoss"),
        ("random-walk", "sampler", "sampler", "random_walk"),
        ("toy", "model", "model", "Toy"),
    ],
)
def test_only_a_name_that_collides_gets_a_suffix(
    name: str, kind: Kind, module: str, wanted: str, tmp_path: Path
) -> None:
    folder = write_plugin(name, kind, tmp_path)
    declared = next(folder.glob("kexue_*/plugin.py")).read_text()
    assert f'name="{name}"' in declared
    assert f'.{module}:{wanted}"' in declared


@pytest.mark.timeout(900)  # mypy reads torch anew where its cache is cold
def test_mypy_has_nothing_to_say(plugins: Path, sandbox: Sandbox) -> None:
    packages = sorted(plugins.glob("kexue-*/kexue_*"))
    assert len(packages) == 2 * len(KINDS)
    cache = REPOSITORY / ".mypy_cache" / "new-plugin"
    sandbox.run(f"mypy --strict --cache-dir {cache} " + " ".join(map(str, packages)), plugins)


@pytest.mark.parametrize("kind", ["loss", "sampler"])  # the page's test does it for a model
def test_the_kit_passes(kind: Kind, plugins: Path, sandbox: Sandbox) -> None:
    name = f"kexue-{COLLIDING[kind]}"
    sandbox.run("pip install --quiet -e .", plugins / name)
    done = sandbox.run(f"kexue check {name} --json", plugins)
    outcomes = json.loads(done.stdout)
    assert {o["subject"].partition(":")[0] for o in outcomes} == {"plugin", kind}
    assert not [o for o in outcomes if o["status"] == "failed"]


@pytest.mark.timeout(600)
def test_the_recipe_trains_and_its_weights_are_sampled(plugins: Path, sandbox: Sandbox) -> None:
    name = "x-model"
    sandbox.run("pip install --quiet -e .", plugins / f"kexue-{name}")
    images = plugins.parent / "images"
    images.mkdir()
    source = np.random.default_rng(0)
    for index in range(40):
        pixels = source.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index:02}.png")
    run = plugins.parent / "run"
    sandbox.run(
        f"kexue train {name} --data {images} --steps 4 --set batch_size=8 --out {run}", plugins
    )
    assert (run / "weights" / "model.safetensors").is_file()
    sandbox.run(f"kexue sample file:{run / 'weights'} -n 4 --out samples.png", plugins)
    assert (plugins / "samples.png").is_file()


def test_taken_names_and_folders_are_refused(tmp_path: Path) -> None:
    write_plugin("fresh", "model", tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        write_plugin("fresh", "model", tmp_path)
    with pytest.raises(ConfigError, match="plugin of kexue itself"):
        write_plugin("flow", "model", tmp_path)
    with pytest.raises(ConfigError, match="kexue-flow declares a model 'glow'"):
        write_plugin("glow", "model", tmp_path)
    with pytest.raises(ConfigError, match="kexue declares a sampler 'latent-prior'"):
        write_plugin("latent-prior", "sampler", tmp_path)
    with pytest.raises(ConfigError, match="31 characters"):
        write_plugin("a" * 31, "model", tmp_path)
    with pytest.raises(InvalidReferenceError):
        write_plugin("Not A Name", "model", tmp_path)


def test_a_prefix_is_not_doubled(tmp_path: Path) -> None:
    assert write_plugin("kexue-fresh", "loss", tmp_path).name == "kexue-fresh"


@pytest.mark.parametrize("name", ["core", "kexue-core"])
def test_the_core_is_not_overwritten(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would overwrite the module kexue_core, which exists in"):
        write_plugin(name, "model", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_module_of_another_distribution_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_distribution(tmp_path / "site", "kexue-theirs", "raise ImportError", group="other")
    (site / "kexue_left_over").mkdir()  # as after `pip uninstall`, no module
    monkeypatch.syspath_prepend(site)
    with pytest.raises(ConfigError, match="would overwrite the module kexue_theirs"):
        write_plugin("theirs", "loss", tmp_path)
    assert write_plugin("left-over", "loss", tmp_path).is_dir()


def test_a_link_to_nothing_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "kexue-fresh").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"kexue-fresh exists already\. Choose another name"):
        write_plugin("fresh", "loss", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"link is no folder\. Choose another --dir"):
        write_plugin("fresh", "loss", tmp_path / "link")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scaffold._template

    def broken(source: str) -> str:
        if source == "loss/loss.py":  # the last one
            raise error
        return real(source)

    with monkeypatch.context() as patch:
        patch.setattr(scaffold, "_template", broken)
        with pytest.raises(error):
            write_plugin("fresh", "loss", tmp_path)
    assert not list(tmp_path.iterdir())
    folder = write_plugin("fresh", "loss", tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode  # not those of a temporary folder


def test_one_kind_at_a_time(tmp_path: Path) -> None:
    def run(*options: str) -> tuple[int, list[Path]]:
        words = ["new-plugin", "fresh", "--dir", str(tmp_path), *options]
        return CliRunner().invoke(cli, words).exit_code, list(tmp_path.glob("*/*/loss.py"))

    assert run("--loss", "--sampler") == (2, [])
    assert run("--model", "--loss") == (2, [])
    assert run("--loss") == (0, [tmp_path / "kexue-fresh" / "kexue_fresh" / "loss.py"])
