"""Features of images of any size and number of channels, and of published weights."""

import pytest
import torch
from kexue_metrics import Features, load_features
from PIL import Image

import kexue_core as kexue
from kexue_core.errors import UnsupportedError
from kexue_core.registry import load_registry


def test_they_are_the_models_in_any_batch(features, classifier):
    images = torch.rand(11, 1, 8, 8)
    found = features(images)
    assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (11, 8), False)
    torch.testing.assert_close(found, classifier.features(images).detach())
    torch.testing.assert_close(features.logits(images), classifier(images).detach())
    small = Features(classifier, name="eye", weights_sha256="", batch_size=3)
    # Other batches may take other kernels, whose last bits differ.
    torch.testing.assert_close(small(images), found, rtol=1e-5, atol=1e-6)
    assert features(images[:0]).shape == (0, 8)


def test_predictions(features, classifier):
    images = torch.rand(20, 1, 8, 8)
    assert torch.equal(features.predict(images), classifier(images).argmax(-1))
    several = Features(classifier, name="eye", weights_sha256="")
    several.multilabel = True
    assert torch.equal(several.predict(images), classifier(images) > 0)


def test_colours_become_grey_as_pillow_makes_them(features):
    pixels = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    grey = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L")
    expected = torch.tensor(list(grey.tobytes())).view(8, 8) / 255
    prepared = features.prepare(pixels / 255)
    # Pillow rounds to whole levels.
    torch.testing.assert_close(prepared[0, 0], expected, atol=0.5 / 255 + 1e-5, rtol=0)
    same = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(features.prepare(same.expand(-1, 3, -1, -1)), same)


def test_sizes_are_brought_to_the_classifiers(features):
    fine = torch.rand(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    prepared = features.prepare(fine)
    assert prepared.shape == (2, 1, 8, 8)
    # Halved with antialiasing: the mean of all pixels stays.
    torch.testing.assert_close(prepared.mean((2, 3)), fine.mean((2, 3)), atol=0.01, rtol=0)
    checks = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()[None, None]
    inner = features.prepare(checks)[..., 1:-1, 1:-1]
    assert (inner - 0.5).abs().max() < 0.01  # without antialiasing some would be 0 or 1
    assert features.prepare(torch.rand(2, 3, 5, 5)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(2, 2, 8, 8), "shape"),
        (torch.rand(2, 1, 8, 9), "shape"),
        (torch.rand(1, 8, 8), "shape"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "floats in"),
        (torch.full((2, 1, 8, 8), 1.01), r"in \[0, 1\] and finite"),
        (torch.full((2, 1, 8, 8), -0.01), r"in \[0, 1\] and finite"),
        (torch.full((2, 1, 8, 8), torch.nan), r"in \[0, 1\] and finite"),
    ],
)
def test_what_are_no_images_is_said(features, images, said):
    with pytest.raises(ValueError, match=said):
        features(images)


def test_saved_weights_carry_their_hash(classifier, tmp_path):
    import hashlib

    folder = kexue.save(classifier, tmp_path / "eye", preprocess={"modality": "image", "size": 8})
    loaded = load_features(f"file:{folder}", batch_size=4)
    content = (folder / "model.safetensors").read_bytes()
    assert loaded.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert loaded.name == f"file:{folder}"
    assert loaded.labels == ("dark", "grey", "light")
    images = torch.rand(9, 1, 8, 8)
    torch.testing.assert_close(loaded(images), classifier.features(images).detach())


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes"),
    [
        ("classifier-fashion", 1, 28, 10),
        ("classifier-mnist", 1, 28, 10),
        ("classifier-celeba-attrs", 3, 48, 5),
    ],
)
def test_published_classifiers(name, channels, size, classes):
    features = load_features(name)
    assert (features.name, features.channels, features.size) == (name, channels, size)
    entry = next(e for e in load_registry().weights if e.name == name)
    assert features.weights_sha256 == entry.files["model.safetensors"].sha256
    images = torch.rand(3, channels, size, size)
    assert features(images).shape == (3, 128)
    shape = (3, classes) if features.multilabel else (3,)
    assert features.predict(images).shape == shape


def test_other_weights_are_refused():
    with pytest.raises(UnsupportedError, match="zlpr-reuters has no features of images"):
        load_features("zlpr-reuters")
