"""Folders of weights: written whole, lossless, and always the same bytes."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kexue_core.api import create
from kexue_core.errors import ConfigError, KexueError, NotFoundError, WeightsFormatError
from kexue_core.folder import SamplerChoice, WeightsConfig
from kexue_core.loading import load_folder
from kexue_core.safetensors_header import read_header
from kexue_core.saving import save_folder

Child = Callable[..., BaseProcess]
FILES = {"config.json", "model.safetensors", "README.md"}


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_config_says_how_to_build_and_use_the_model(tmp_path: Path) -> None:
    model = create("mixed", width=2, sizes=(9, 8), note="备注")
    folder = save_folder(
        tmp_path / "out",
        model,
        preprocess={"size": 64, "range": (0, 1)},
        sampler=("dream", {"temperature": 0.7}),
        requires=("codec",),
        card="# 卡片\n",
    )
    assert {p.name for p in folder.iterdir()} == FILES
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == {
        "format": 1,
        "model": "mixed",
        "plugin": "kexue-zoo",
        "config": {"width": 2, "sizes": [9, 8], "rate": 0.5, "note": "备注"},
        "preprocess": {"size": 64, "range": [0, 1]},
        "sampler": {"name": "dream", "options": {"temperature": 0.7}},
        "requires": ["codec"],
        "sha256": digest(folder)["model.safetensors"],
    }
    assert (folder / "README.md").read_text(encoding="utf-8") == "# 卡片\n"
    read = WeightsConfig.read(folder)
    assert read.sampler == SamplerChoice("dream", {"temperature": 0.7})
    assert read.requires == ("codec",)


def test_safetensors_library_reads_the_same_tensors(mixed: tuple[nn.Module, Path]) -> None:
    model, folder = mixed
    state = model.state_dict()
    read = load_file(folder / "model.safetensors")
    assert set(read) == set(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_every_tensor_is_aligned_and_data_begins_on_a_cache_line(
    mixed: tuple[nn.Module, Path],
) -> None:
    model, folder = mixed
    entries = read_header(folder / "model.safetensors")
    state = model.state_dict()
    assert min(e.start for e in entries.values()) % 64 == 0
    assert all(e.start % state[name].element_size() == 0 for name, e in entries.items())


def test_same_model_gives_same_bytes_in_every_process(
    mixed: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, folder = mixed
    again = save_folder(tmp_path / "again", load_folder(folder))
    assert digest(again) == digest(folder)
    script = (
        "import sys; from kexue_core.loading import load_folder; "
        "from kexue_core.saving import save_folder; "
        "save_folder(sys.argv[2], load_folder(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "fresh")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert digest(tmp_path / "fresh") == digest(folder)


def test_any_memory_layout_is_stored_as_it_reads(tmp_path: Path) -> None:
    model = create("mixed")
    with torch.no_grad():
        model.precise.weight = nn.Parameter(torch.randn(2, 7).t())  # not contiguous
        model.layers[0].bias = nn.Parameter(torch.randn(12)[::4])  # a view with strides
        model.layers[1].bias = nn.Parameter(torch.randn(1).expand(5))  # one number five times
    loaded = load_folder(save_folder(tmp_path / "out", model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_half_rounds_all_but_what_the_spec_keeps(tmp_path: Path) -> None:
    model = create("mixed")
    folder = save_folder(tmp_path / "half", model, half=True)
    dtypes = {
        name: entry.dtype for name, entry in read_header(folder / "model.safetensors").items()
    }
    assert dtypes.pop("scale") == dtypes.pop("precise.weight") == "F32"
    assert dtypes.pop("counts") == "I64"
    assert dtypes.pop("mask") == "BOOL"
    assert set(dtypes.values()) == {"F16"}
    loaded = load_folder(folder).state_dict()
    state = model.state_dict()
    assert torch.equal(loaded["scale"], state["scale"])
    assert torch.equal(loaded["layers.0.weight"], state["layers.0.weight"].half().float())


@pytest.mark.parametrize("value", [65_520.0, -1e30])
def test_half_refuses_what_float16_cannot_hold(tmp_path: Path, value: float) -> None:
    model = create("mixed")
    with torch.no_grad():
        model.layers[1].bias[2] = value
    with pytest.raises(ConfigError, match=r"layers\.1\.bias does not fit torch.float16.*float32"):
        save_folder(tmp_path / "half", model, half=True)
    assert list(tmp_path.glob("*half*")) == []


def test_lossless_keeps_infinities_and_nans(tmp_path: Path) -> None:
    model = create("mixed")
    with torch.no_grad():
        model.layers[1].bias[:3] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    for half in (False, True):
        loaded = load_folder(save_folder(tmp_path / "odd", model, half=half))
        assert torch.equal(loaded.layers[1].bias[:2], model.layers[1].bias[:2])
        assert loaded.layers[1].bias[2].isnan()


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "tied", create("tied"))
    assert list(read_header(folder / "model.safetensors")) == ["embedding.weight"]


def test_earlier_folder_is_replaced_while_a_model_is_mapped_from_it(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "out", create("mixed"))
    mapped = load_folder(folder)
    before = {k: v.clone() for k, v in mapped.state_dict().items()}
    save_folder(folder, create("mixed"))
    assert all(torch.equal(v, before[k]) for k, v in mapped.state_dict().items())
    assert not torch.equal(load_folder(folder).scale, mapped.scale)
    save_folder(folder, mapped)  # over the very file that it was mapped from, twice removed
    assert torch.equal(load_folder(folder).scale, before["scale"])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_other_files_are_never_deleted(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "out", create("mixed"))
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds 'thesis.tex'"):
        save_folder(folder, create("mixed"))
    assert (folder / "thesis.tex").exists()
    with pytest.raises(ConfigError, match="is a file"):
        save_folder(folder / "thesis.tex", create("mixed"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_extra_files_and_assets_are_part_of_the_folder(tmp_path: Path) -> None:
    model = create("lexicon", width=2)
    model.words = ("科学", "空间")

    def extra(folder: Path) -> None:
        (folder / "labels.txt").write_text("a b")

    for _ in range(2):
        folder = save_folder(tmp_path / "out", model, extra_files=extra)
    assert {p.name for p in folder.iterdir()} == FILES | {"vocab.txt", "labels.txt"}
    assert load_folder(folder).words == model.words


def test_full_disk_leaves_the_earlier_folder_whole(tmp_path: Path, child: Child) -> None:
    """A limit on file sizes makes a write fail half way, as a full disk does."""
    folder = save_folder(tmp_path / "out", create("mixed"))
    before = digest(folder)
    model = create("mixed", sizes=(1000, 1001))

    def save_where_files_are_small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(KexueError) as caught:
            save_folder(folder, model)
        assert str(caught.value) == (
            f"{folder} was not written: File too large; what was there before is intact"
        )

    process = child(save_where_files_are_small)
    process.join()
    assert process.exitcode == 0
    assert digest(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_space_is_named_with_the_next_action(tmp_path: Path) -> None:
    def extra(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KexueError, match=r"No space left on device.*intact\. Free some space"):
        save_folder(tmp_path / "out", create("mixed"), extra_files=extra)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path, child: Child) -> None:
    folder = save_folder(tmp_path / "out", create("mixed", width=1))
    models = [create("mixed", width=width) for width in (2, 3)]

    for milliseconds in range(20):
        # A pipe, not an Event: the kill must not leave a lock behind that its holder took along.
        heard, told = multiprocessing.Pipe(duplex=False)

        def save_for_ever(told: Connection = told) -> None:
            for number, model in enumerate(itertools.cycle(models)):
                save_folder(folder, model)
                if number == 0:
                    told.send("saved")

        process = child(save_for_ever)
        assert heard.poll(60)
        process.join(timeout=milliseconds / 1000)
        process.kill()
        process.join()
        # Killed between the two renames, it is whole beside its place.
        found = folder if folder.exists() else next(tmp_path.glob(".out.*.old"))
        assert load_folder(found).config.width in (2, 3)


def test_refusals_name_the_field(tmp_path: Path) -> None:
    model = create("mixed")
    with pytest.raises(WeightsFormatError, match="preprocess: mean is nan"):
        save_folder(tmp_path / "x", model, preprocess={"mean": float("nan")})
    with pytest.raises(WeightsFormatError, match="preprocess: dtype is a dtype"):
        save_folder(tmp_path / "x", model, preprocess={"dtype": torch.float32})
    with pytest.raises(WeightsFormatError, match="sampler: name"):
        save_folder(tmp_path / "x", model, sampler=("No Name", {}))
    with pytest.raises(NotFoundError, match="No installed plugin declares a model with the class"):
        save_folder(tmp_path / "x", nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"Linear keeps no dataclass as self\.config"):
        save_folder(tmp_path / "x", nn.Linear(1, 1), distribution="a", model_name="b")
    model.counts = model.counts.to_sparse()
    with pytest.raises(ConfigError, match="counts cannot be stored"):
        save_folder(tmp_path / "x", model)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_as_readable_as_any_other(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "out", create("mixed"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode
    for path in folder.iterdir():
        assert path.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
