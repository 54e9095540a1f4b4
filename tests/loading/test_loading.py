"""Loading: strict, lazy, and the same model as was saved."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kexue_core import building
from kexue_core.api import create
from kexue_core.errors import (
    ConfigError,
    KexueError,
    NotFoundError,
    PluginError,
    WeightsFormatError,
)
from kexue_core.loading import load_folder
from kexue_core.saving import save_folder

Mixed = tuple[nn.Module, Path]


@pytest.fixture(params=["small", "large"], autouse=True)
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: constructors of small models run for real, those of large ones on meta."""
    if request.param == "large":
        monkeypatch.setattr(building, "SMALL", -1)


def same(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def state_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + raw)
    return digest.hexdigest()


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the tensors of a folder, as another program might."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    save_file(tensors, path)


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_is_loaded(mixed: Mixed, mmap: bool) -> None:
    model, folder = mixed
    loaded = load_folder(folder, mmap=mmap)
    same(model, loaded)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not any(module.training for module in loaded.modules())


def test_building_leaves_layers_unfilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers that a file overwrites are most of the time of a usual load."""
    folder = save_folder(tmp_path / "mixed", create("mixed"))

    def draw(*args: object, **kwargs: object) -> None:
        raise AssertionError("a parameter was filled")

    monkeypatch.setattr(torch.Tensor, "uniform_", draw)
    monkeypatch.setattr(torch.Tensor, "normal_", draw)
    load_folder(folder)


def test_saved_is_loaded_bit_for_bit_in_a_fresh_process(mixed: Mixed) -> None:
    model, folder = mixed
    script = (
        "import importlib.util, sys; from kexue_core.loading import load_folder; "
        "spec = importlib.util.spec_from_file_location('here', sys.argv[1]); "
        "here = importlib.util.module_from_spec(spec); spec.loader.exec_module(here); "
        "print(here.state_digest(load_folder(sys.argv[2])))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, __file__, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert child.stdout.strip() == state_digest(model)


def test_training_never_writes_to_the_file(mixed: Mixed) -> None:
    _, folder = mixed
    path = folder / "model.safetensors"
    before = path.read_bytes()
    path.chmod(0o444)
    one, two = load_folder(folder), load_folder(folder)
    optimizer = torch.optim.Adam(one.parameters(), lr=0.1)
    sum(p.square().sum() for p in one.parameters()).backward()
    optimizer.step()
    with torch.no_grad():
        one.counts.zero_()
    assert not torch.equal(one.scale, two.scale)
    assert path.read_bytes() == before
    same(load_folder(folder), two)


def test_file_may_be_deleted_while_it_is_mapped(mixed: Mixed) -> None:
    model, folder = mixed
    loaded = load_folder(folder)
    (folder / "model.safetensors").unlink()
    same(model, loaded)


def test_float32_is_mapped_and_not_copied(mixed: Mixed) -> None:
    _, folder = mixed
    mapped = load_folder(folder)
    storages = {p.untyped_storage().data_ptr() for p in mapped.state_dict().values() if p.numel()}
    assert len(storages) == 1
    maps = Path("/proc/self/maps")
    if maps.exists():
        file = str(folder / "model.safetensors")
        assert any(line.endswith(file) for line in maps.read_text().splitlines())


def test_tensors_of_one_mapping_count_their_changes_apart(tmp_path: Path) -> None:
    """A batch norm that updates itself must not look like a change of all weights to autograd."""
    torch.manual_seed(0)
    model = load_folder(save_folder(tmp_path / "normed", create("normed"))).train()
    loss = model(torch.randn(8, 4)).sum()
    with torch.no_grad():
        model.norm.num_batches_tracked.add_(1)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = create("tied")
    for options in ({}, {"dtype": "bfloat16"}, {"mmap": False}):
        loaded = load_folder(save_folder(tmp_path / "tied", model), **options)
        assert loaded.head.weight is loaded.embedding.weight
        assert len(list(loaded.parameters())) == 1
    same(model, load_folder(tmp_path / "tied"))


def test_weights_that_another_program_untied(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "tied", create("tied"))
    weight = load_file(folder / "model.safetensors")["embedding.weight"]
    edit(folder, lambda tensors: tensors.update({"head.weight": weight.clone()}))
    loaded = load_folder(folder)
    assert loaded.head.weight is loaded.embedding.weight
    edit(folder, lambda tensors: tensors.pop("embedding.weight"))
    assert torch.equal(load_folder(folder).embedding.weight, weight)
    edit(folder, lambda tensors: tensors.update({"embedding.weight": weight + 1}))
    with pytest.raises(WeightsFormatError, match=r"embedding\.weight and head\.weight differ"):
        load_folder(folder)


def test_shared_modules_stay_shared(tmp_path: Path) -> None:
    model = create("shared")
    model.first.running_mean.add_(3)
    loaded = load_folder(save_folder(tmp_path / "shared", model))
    same(model, loaded)
    assert loaded.first is loaded.second
    assert loaded.first.running_mean is loaded.second.running_mean


def test_what_the_state_dict_does_not_hold_is_computed_again(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = create("computed")
    folder = save_folder(tmp_path / "computed", model)
    state = torch.get_rng_state()
    loaded = load_folder(folder)
    assert torch.equal(state, torch.get_rng_state()), "loading must not use up random numbers"
    same(model, loaded)
    for name in ("sines", "counts", "filled", "plain"):
        assert torch.equal(getattr(loaded, name), getattr(model, name)), name
    assert all(map(torch.equal, loaded.several, model.several))
    assert torch.equal(loaded.named["window"], model.named["window"])
    assert loaded.nothing is None
    assert torch.equal(loaded.noise, load_folder(folder).noise)
    assert "sines" not in loaded.state_dict()
    half = load_folder(folder, dtype=torch.float16)
    assert half.sines.dtype == half.plain.dtype == torch.float16
    assert half.counts.dtype == torch.int64
    half(torch.zeros(2, 4, dtype=torch.float16))


def test_parameters_that_assigning_would_leave_behind(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "hoarding", create("hoarding"))
    with pytest.raises(PluginError, match=r"hoarding keeps parameters or buffers in a plain list"):
        load_folder(folder)


def test_a_list_of_loaded_parameters_is_nothing_left_over(tmp_path: Path) -> None:
    model = create("recurrent", width=3)
    loaded = load_folder(save_folder(tmp_path / "recurrent", model))
    x = torch.randn(5, 2, 3)
    assert torch.equal(loaded.reader(x)[0], model.reader(x)[0])


def test_constructors_that_look_at_values(tmp_path: Path) -> None:
    model = create("peeking", width=6)
    loaded = load_folder(save_folder(tmp_path / "peeking", model))
    same(model, loaded)
    assert loaded.limit == 5


def test_requires_grad_is_the_constructors(tmp_path: Path) -> None:
    model = create("mixed").requires_grad_(False)
    assert all(
        p.requires_grad for p in load_folder(save_folder(tmp_path / "a", model)).parameters()
    )
    with pytest.warns(FutureWarning, match="frozen is deprecated: use mixed"):
        loaded = load_folder(save_folder(tmp_path / "b", create("frozen")))
    assert not loaded.still.requires_grad
    assert loaded.moving.requires_grad


def test_narrow_storage_is_computed_in_float32(tmp_path: Path) -> None:
    model = create("mixed")
    for dtype in (torch.float16, torch.bfloat16):
        folder = save_folder(tmp_path / str(dtype), create("mixed").to(dtype))
        loaded = load_folder(folder)
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert loaded.exact.dtype == torch.float64  # the model asks for it
        assert loaded.counts.dtype == torch.int64
        assert loaded.mask.dtype == torch.bool
        kept = load_folder(folder, dtype=dtype)
        assert {t.dtype for t in kept.state_dict().values() if t.is_floating_point()} == {dtype}
    double = load_folder(save_folder(tmp_path / "double", model.double()))
    same(model, double)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "float16", "float64"])
def test_dtype_of_all_floating_tensors(mixed: Mixed, dtype: Any) -> None:
    model, folder = mixed
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    loaded = load_folder(folder, dtype=dtype)
    for name, tensor in model.state_dict().items():
        stored = tensor.to(wanted) if tensor.is_floating_point() else tensor
        assert loaded.state_dict()[name].dtype == stored.dtype
        assert torch.equal(loaded.state_dict()[name], stored)


@pytest.mark.parametrize("dtype", ["int64", "float33", torch.int8, "nn", 32, "float8_e4m3fn"])
def test_other_dtypes_are_refused(mixed: Mixed, dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no dtype to compute in\. Choose float32"):
        load_folder(mixed[1], dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:77", 3.5])
def test_devices_that_are_not_there(mixed: Mixed, device: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_folder(mixed[1], device=device)


def test_default_device_and_dtype_of_the_caller_do_not_matter(mixed: Mixed) -> None:
    model, folder = mixed
    with torch.device("meta"):
        loaded = load_folder(folder)
    same(model, loaded)


def test_misaligned_tensors_of_other_writers(tmp_path: Path) -> None:
    """The format admits a float32 that begins at any byte."""
    model = create("peeking", width=1)
    folder = save_folder(tmp_path / "out", model)
    state = model.state_dict()
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in state.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4 + 3)
    path = folder / "model.safetensors"
    path.unlink()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    for mmap in (True, False):
        same(model, load_folder(folder, mmap=mmap))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("scale"), r"1 missing \(scale\)"),
        (lambda t: [t.pop(k) for k in list(t)[:5]], r"5 missing \(\S+, \S+, \S+, \.\.\.\)"),
        (lambda t: t.update({"more": torch.zeros(2)}), r"1 unexpected \(more\)"),
        (
            lambda t: t.update({"scale": torch.zeros(1), "counts": torch.zeros(12).long()}),
            r"2 of another shape \(counts \[12\], not \[13\], scale \[1\], not \[\]\)",
        ),
        (
            lambda t: t.update({"counts": t["counts"].int()}),
            r"1 of another dtype \(counts I32, not torch.int64\)",
        ),
        (lambda t: t.update({"scale": torch.tensor(1)}), r"scale I64, not torch.float32"),
        (lambda t: t.update({"mask": t["mask"].float()}), r"mask F32, not torch.bool"),
        (
            lambda t: t.update({"mask": t["mask"].to(torch.uint8)}),
            r"mask U8, not torch.bool",
        ),
        (lambda t: t.clear(), "missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    mixed: Mixed, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    _, folder = mixed
    edit(folder, change)
    with pytest.raises(WeightsFormatError, match=message) as caught:
        load_folder(folder)
    assert "does not fit the model mixed" in str(caught.value)


def test_weights_for_another_config(mixed: Mixed) -> None:
    _, folder = mixed
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"]["sizes"] = [3, 6, 7]
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsFormatError, match=r"2 missing .*2 of another shape"):
        load_folder(folder)


def test_weights_for_another_model(mixed: Mixed) -> None:
    _, folder = mixed
    with pytest.raises(WeightsFormatError, match="holds weights of the model mixed, and tied was"):
        load_folder(folder, model="tied")
    with pytest.raises(WeightsFormatError, match="of the plugin kexue-zoo, and kexue-flow was"):
        load_folder(folder, plugin="kexue-flow")
    load_folder(folder, plugin="Kexue_Zoo", model="mixed")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "unheard-of"}, NotFoundError, "declares the model 'unheard-of'"),
        ({"model": "mixd"}, NotFoundError, r"Did you mean mixed\?"),
        ({"plugin": "kexue-nowhere"}, PluginError, "pip install kexue-nowhere"),
        ({"config": {"width": 0}}, ConfigError, "width must be at least 1, got 0"),
        ({"config": {"widht": 3}}, ConfigError, r"Config has no widht. Did you mean width\?"),
        ({"config": {"width": "3"}}, ConfigError, "width must be a whole number, not '3'"),
        ({"config": {"sizes": "ab"}}, ConfigError, "sizes must be a list, not 'ab'"),
        ({"config": {"sizes": [0.5]}}, ConfigError, "refuses its config"),
        ({"model": "refusing"}, ConfigError, "refuses its config: the moon is not full"),
        ({"model": "failing"}, PluginError, "cannot be built: KeyError: 'bug'"),
    ],
)
def test_configs_that_build_nothing(
    mixed: Mixed, change: dict[str, Any], error: type[KexueError], message: str
) -> None:
    path = mixed[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=message):
        load_folder(mixed[1])


@pytest.mark.parametrize("size", [1, 1_000])
def test_a_config_of_a_far_larger_model_is_refused_in_time(mixed: Mixed, size: int) -> None:
    path = mixed[1] / "config.json"
    content = json.loads(path.read_text())
    content["config"]["sizes"] = [size] * 150_000
    path.write_text(json.dumps(content))
    start = time.monotonic()
    with pytest.raises(WeightsFormatError, match="mixed is that of a far larger model"):
        load_folder(mixed[1])
    assert time.monotonic() - start < 60


def test_booleans_that_are_neither(mixed: Mixed) -> None:
    _, folder = mixed
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] = 2  # one-byte dtypes come last in the file
    path.write_bytes(raw)
    with pytest.raises(WeightsFormatError, match="neither true nor false"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(mixed: Mixed, name: str) -> None:
    (mixed[1] / name).unlink()
    with pytest.raises(WeightsFormatError, match=name):
        load_folder(mixed[1])


def test_assets_that_are_missing_or_wrong(tmp_path: Path) -> None:
    model = create("lexicon", width=2)
    model.words = ("a", "b")
    folder = save_folder(tmp_path / "out", model)
    (folder / "vocab.txt").write_text("a b c")
    with pytest.raises(WeightsFormatError, match=r"vocab\.txt has 3 words, not 2"):
        load_folder(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsFormatError, match=r"vocab\.txt is missing"):
        load_folder(folder)


def test_models_without_tensors(tmp_path: Path) -> None:
    model = create("mixed", sizes=())
    same(model, load_folder(save_folder(tmp_path / "few", model)))
