"""The verbs that run a model, with a Glow of a few thousand numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kexue_core.commands import cli
from kexue_core.errors import KexueError, UnsupportedError

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="session")
def glow_folder(tmp_path_factory) -> Path:
    """A small Glow with its actnorms set, saved."""
    import kexue_core as kexue

    torch.manual_seed(0)
    glow = kexue.create("glow", size=8, levels=2, steps=2, hidden=8)
    glow.initialize(torch.rand(64, 3, 8, 8))
    return kexue.save(
        glow.eval(),
        tmp_path_factory.mktemp("weights") / "tiny-glow",
        preprocess={"modality": "image", "size": 8, "channels": 3, "range": [0, 1], "bits": 5},
        sampler=("latent-prior", {"temperature": 0.7}),
    )


@pytest.fixture
def name(here, request) -> str:
    return f"file:{request.getfixturevalue('glow_folder')}"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures of different sizes, one grey, one lying on its side by EXIF."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 12, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / "b 图.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "c.jpg", exif=exif)
    return folder


def run(*args: object):
    return CliRunner().invoke(cli, [str(a) for a in args])


def ok(*args: object):
    result = run(*args)
    assert result.exit_code == 0, result.output or result.exception
    return result


def test_sample_writes_a_grid_and_prints_its_path_and_the_settings(name):
    result = ok("sample", name, "-n", 6, "--columns", 3)
    assert result.stdout == "tiny-glow-sample.png\n"
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert result.stderr == (
        f"kexue: latent-prior(temperature=0.7, batch_size=16), seed 0, on {device}\n"
    )
    width, height = Image.open("tiny-glow-sample.png").size
    assert (width - 2) // 3 == (height - 2) // 2  # padding between and around the tiles


def test_sample_is_that_of_python_and_the_same_for_every_n(name):
    import kexue_core as kexue

    few = ok("sample", name, "-n", 2, "--seed", 3, "--out", "few.npy", "--json", "--device", "cpu")
    ok("sample", name, "-n", 5, "--seed", 3, "--out", "many.npy", "--device", "cpu")
    expected = kexue.sample(kexue.load(name), 5, seed=3).numpy()
    np.testing.assert_array_equal(np.load("many.npy"), expected)
    np.testing.assert_allclose(np.load("few.npy"), expected[:2], atol=1e-6)
    said = json.loads(few.stdout)
    assert said["settings"] == {"temperature": 0.7, "batch_size": 16}
    assert said["files"] == ["few.npy"]


def test_sample_options_are_passed_on(name):
    ok("sample", name, "-n", 2, "--temperature", 0, "-o", "batch_size=1", "--out", "cold.npy")
    first, second = np.load("cold.npy")
    np.testing.assert_array_equal(first, second)
    assert "no option 'steps'" in str(run("sample", name, "-o", "steps=3").exception)
    assert run("sample", name, "-o", "temperature=1", "--temperature", 1).exit_code == 2
    assert run("sample", name, "-o", "temperature").exit_code == 2
    refused = run("sample", name, "-o", "labels=3").exception
    assert isinstance(refused, KexueError)
    assert "unconditional" in str(refused)


def test_sample_separate(name):
    result = ok("sample", name, "-n", 3, "--separate", "out", "-q")
    assert result.stdout.split() == [f"out/0000{i}.png" for i in range(3)]
    assert result.stderr == ""
    assert Image.open("out/00002.png").size == (8, 8)
    assert run("sample", name, "--separate", "out", "--columns", 2).exit_code == 2


def test_reconstruct_gives_pairs_and_errors(name, pictures):
    result = ok("reconstruct", name, pictures, "--json", "--out", "pairs.png")
    said = json.loads(result.stdout)
    assert [Path(row["file"]).name for row in said["images"]] == ["a.png", "b 图.png", "c.jpg"]
    # A flow is a bijection: what is lost is rounding of float32.
    assert all(row["max_error"] < 1e-4 and row["psnr_db"] > 80 for row in said["images"])
    width, height = Image.open("pairs.png").size
    assert width > 5 * height  # 3 pairs in a row


def test_score_does_not_depend_on_what_else_is_scored(name, pictures):
    import kexue_core as kexue

    all_ = ok("score", name, pictures)
    lines = [line.split("\t") for line in all_.stdout.splitlines()]
    assert lines[0] == ["file", "bits_per_dim"]
    assert all_.stderr.startswith("kexue: mean of 3: ")
    alone = ok("score", name, pictures / "c.jpg", "-q").stdout.splitlines()[1].split("\t")
    assert alone == lines[3]
    nats = json.loads(ok("score", name, pictures / "b 图.png", "--unit", "nats", "--json").stdout)
    grey = np.asarray(Image.open(pictures / "b 图.png")) / 255
    x = torch.tensor(grey).float().expand(1, 3, 8, 8)
    with torch.no_grad():
        expected = float(kexue.load(name).log_prob(x))
    assert nats["images"][0]["log_prob"] == pytest.approx(expected, rel=1e-5)


def test_score_takes_arrays(name):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    np.save("bytes.npy", images)
    np.save("floats.npy", (images / 255).astype(np.float32))
    found = [
        [line.split("\t")[1] for line in ok("score", name, "--data", file).stdout.splitlines()]
        for file in ("bytes.npy", "floats.npy")
    ]
    assert found[0] == found[1]
    assert "bytes.npy[1]" in ok("score", name, "bytes.npy").stdout


def test_interpolate_has_both_ends(name, pictures):
    assert ok("interpolate", name, "--steps", 4).stdout == "tiny-glow-interpolate.png\n"
    ok("interpolate", name, "--seeds", 5, 6, "--steps", 2, "--out", "walk.png")
    ok("sample", name, "-n", 1, "--seed", 5, "--out", "five.png")
    ends, five = (np.asarray(Image.open(f)) for f in ("walk.png", "five.png"))
    np.testing.assert_array_equal(ends[:, : five.shape[1]], five)
    ok("interpolate", name, pictures / "a.png", pictures / "c.jpg", "--out", "between.png")
    assert run("interpolate", name, pictures / "a.png").exit_code == 2
    assert run(
        "interpolate", name, pictures / "a.png", pictures / "a.png", "--seeds", 1, 2
    ).exit_code


@pytest.mark.parametrize("verb", ["reconstruct", "score"])
@pytest.mark.parametrize(
    "bad",
    [
        ("missing.png", None, "missing.png does not exist"),
        ("text.png", b"no picture", "text.png (cannot identify image file"),
        ("cut.png", "cut", "cut.png ("),
        ("object.npy", np.array([{}], dtype=object), "object.npy is no .npy array"),
        ("shape.npy", np.zeros((2, 3, 4, 4), np.float32), "shape.npy has the shape (2, 3, 4, 4)"),
        ("nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32), "nan.npy holds float32"),
        ("empty", "folder", "empty holds no image"),
    ],
    ids=lambda bad: bad[0],
)
def test_bad_inputs_are_named(name, pictures, verb, bad):
    file, content, text = bad
    path = Path(file)
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content == "folder":
        path.mkdir()
    elif content == "cut":
        path.write_bytes((pictures / "a.png").read_bytes()[:-200])
    elif content is not None:
        path.write_bytes(content)
    result = run(verb, name, pictures / "a.png", file)
    assert isinstance(result.exception, KexueError)
    assert text in str(result.exception)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["interpolate", "toy-faces"], "toy-faces cannot interpolate: it can sample, reconstruct"),
        (["embed-nothing"], "There is no verb"),
        (["sample", "toy-text"], "toy-text cannot sample: it can embed"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_torch_is_imported(
    kexue, toys, catalogue, args, text
):
    catalogue.add("toy-text", {"model.safetensors": b"1"}, capabilities=["embed"])
    code = (
        "import sys\nfrom kexue_core.commands import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    done = kexue(*args, code=code)
    assert text in done.stderr
    assert done.stdout == "False\n"


def test_a_missing_plugin_is_named_before_torch_is_imported(kexue, catalogue):
    catalogue.add("toy-faces", {"model.safetensors": b"1"}, model="toy", capabilities=["sample"])
    done = kexue("sample", "toy-faces")
    assert done.returncode == 1
    assert "pip install kexue-toy" in done.stderr


def test_a_unit_that_the_model_has_not(name, pictures):
    result = run("score", name, pictures, "--unit", "energy")
    assert isinstance(result.exception, UnsupportedError)
    assert "Choose --unit bits or nats" in str(result.exception)


def test_a_place_that_cannot_be_written(name):
    Path("file").write_text("")
    result = run("sample", name, "-n", 1, "--out", "file/x.png")
    assert isinstance(result.exception, KexueError)
    assert "file/x.png cannot be written" in str(result.exception)
    assert sorted(p.name for p in Path().glob(".*.png")) == []
