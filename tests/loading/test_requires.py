"""Weights that require others: loaded along, handed over, pulled and verified with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import kexue_core as kexue
from kexue_core.commands import cli
from kexue_core.errors import NotFoundError, WeightsFormatError
from kexue_core.folder import WeightsConfig
from kexue_core.hub.stanza import describe

from .conftest import Catalogue


@pytest.fixture
def stable(catalogue: Catalogue) -> tuple[Catalogue, nn.Module, nn.Module]:
    """Weights `rider`, which require `horse` and `mule`."""
    torch.manual_seed(0)
    horse, mule = kexue.create("normed", width=3), kexue.create("dreamer", width=3)
    for beast in (horse, mule):
        catalogue.add("horse" if beast is horse else "mule", beast)
    names = ["horse", "mule"]
    rider = kexue.create("rider", width=3)
    catalogue.add("rider", rider, save={"requires": names}, requires=names)
    return catalogue, horse, mule


class TestLoading:
    def test_what_is_required_is_handed_over_in_order(self, stable) -> None:
        _, *beasts = stable
        rider = kexue.load("rider", dtype="float64")
        assert len(rider.beasts) == 2
        for found, saved in zip(rider.beasts, beasts, strict=True):
            assert type(found) is type(saved)
            assert not found.training
            for key, tensor in found.state_dict().items():
                expected = saved.state_dict()[key]
                if expected.is_floating_point():
                    expected = expected.double()
                assert torch.equal(tensor, expected)

    def test_it_is_known_where_each_came_from(self, stable) -> None:
        rider = kexue.load("rider")
        known = [kexue.api.provenance(m) for m in (rider, *rider.beasts)]
        assert [k.reference for k in known if k] == ["rider", "horse", "mule"]

    def test_saving_writes_the_names_and_not_the_models(self, stable, tmp_path: Path) -> None:
        rider = kexue.load("rider")
        again = kexue.save(rider, tmp_path / "again")
        assert WeightsConfig.read(again).requires == ("horse", "mule")
        assert list(rider.state_dict()) == ["reins"]
        assert len(kexue.load(f"file:{again}").beasts) == 2

    def test_a_model_that_takes_none_loads_without(self, catalogue: Catalogue) -> None:
        catalogue.add("loner", kexue.create("mixed"), save={"requires": ["nowhere"]})
        kexue.load("loner")

    def test_what_does_not_fit_is_an_error(self, stable) -> None:
        catalogue, _, _ = stable
        catalogue.add("horse", kexue.create("normed", width=5))
        with pytest.raises(WeightsFormatError, match=r"rider does not fit horse, mule.*saddle"):
            kexue.load("rider")

    def test_what_is_missing_is_an_error(self, catalogue: Catalogue) -> None:
        catalogue.add("rider", kexue.create("rider"), save={"requires": ["unicorn"]})
        with pytest.raises(NotFoundError, match="unicorn"):
            kexue.load("rider")

    @pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
    def test_a_circle_is_an_error(self, catalogue: Catalogue, names: tuple[str, ...]) -> None:
        for name, following in zip(names, (*names[1:], names[0]), strict=True):
            catalogue.add(name, kexue.create("rider"), save={"requires": [following]})
        with pytest.raises(WeightsFormatError, match=f"requires {names[0]}$|itself: a requires"):
            kexue.load("a")

    def test_one_that_two_require_is_no_circle(self, catalogue: Catalogue) -> None:
        catalogue.add("foal", kexue.create("mixed"))
        for name in ("left", "right"):
            catalogue.add(name, kexue.create("rider"), save={"requires": ["foal"]})
        catalogue.add("team", kexue.create("rider"), save={"requires": ["left", "right"]})
        assert [len(rider.beasts) for rider in kexue.load("team").beasts] == [1, 1]


class TestCommands:
    def test_pull_and_verify_follow_them(self, stable) -> None:
        for command in ("pull", "verify"):
            done = CliRunner().invoke(cli, [command, "rider", "--json"])
            assert done.exit_code == 0, done.output
            assert {row["name"] for row in json.loads(done.stdout)} == {"rider", "horse", "mule"}

    def test_verify_finds_a_bad_file_of_what_is_required(self, stable) -> None:
        catalogue, _, _ = stable
        path = catalogue.mirror / "mule" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        done = CliRunner().invoke(cli, ["verify", "rider", "--json"])
        assert {r["name"] for r in json.loads(done.stdout) if r["state"] == "bad"} == {"mule"}
        assert done.exception is not None

    def test_a_folder_of_this_machine_is_not_published_as_required(self, tmp_path: Path) -> None:
        card = "---\nlicense: mit\n---\n# Rider\n\n## Data and terms\n\nNone.\n"
        folder = kexue.save(
            kexue.create("rider"), tmp_path / "rider", requires=["file:horse"], card=card
        )
        with pytest.raises(WeightsFormatError, match="requires file:horse, which nobody else has"):
            describe(folder, "rider", earlier={}, given={})
