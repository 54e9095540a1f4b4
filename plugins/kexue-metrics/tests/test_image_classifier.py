"""The classifier's shapes, losses and labels, and that its file stands alone."""

import subprocess
import sys
from pathlib import Path

import kexue_metrics.image_classifier
import pytest
import torch
import torch.nn.functional as F
from kexue_metrics import ImageClassifier, ImageClassifierConfig


@pytest.mark.parametrize(
    ("size", "channels", "widths"), [(8, 1, (4, 6)), (9, 3, (4, 4, 8)), (4, 1, (5,))]
)
@pytest.mark.parametrize("multilabel", [False, True])
def test_shapes_and_gradients(size, channels, widths, multilabel):
    torch.manual_seed(0)
    model = ImageClassifier(
        ImageClassifierConfig(
            labels=tuple("abc"),
            size=size,
            channels=channels,
            widths=widths,
            multilabel=multilabel,
            dropout=0.1,
        )
    )
    x = torch.rand(6, channels, size, size)
    features = model.eval().features(x)
    assert features.shape == (6, widths[-1])
    assert (features >= 0).all()
    logits = model(x)
    assert torch.equal(logits, model.output(features))  # no dropout in eval mode
    target = torch.randint(2, (6, 3)) if multilabel else torch.randint(3, (6,))
    model.train().loss(model(x), target).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_losses_and_probabilities_are_those_of_the_labels():
    logits = torch.randn(5, 3)
    one = ImageClassifier(ImageClassifierConfig(labels=tuple("abc"), size=4, widths=(2,)))
    classes = torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(one.loss(logits, classes), F.cross_entropy(logits, classes))
    assert one.probabilities(logits).sum(-1) == pytest.approx(1)
    config = ImageClassifierConfig(labels=tuple("abc"), size=4, widths=(2,), multilabel=True)
    several, rows = ImageClassifier(config), torch.randint(2, (5, 3))
    expected = F.binary_cross_entropy_with_logits(logits, rows.float())
    assert torch.equal(several.loss(logits, rows), expected)
    assert torch.equal(several.probabilities(logits), logits.sigmoid())


def test_an_image_has_its_labels_in_any_batch(classifier):
    x = torch.rand(5, 1, 8, 8)
    ranked = classifier.classify(x)
    probabilities = classifier(x).softmax(-1)
    for row, expected in zip(ranked, probabilities, strict=True):
        names = ("dark", "grey", "light")
        assert dict(row) == pytest.approx(dict(zip(names, expected.tolist(), strict=True)))
        assert [p for _, p in row] == sorted((p for _, p in row), reverse=True)
    for x_i, row in zip(x, ranked, strict=True):
        [alone] = classifier.classify(x_i[None])
        assert dict(alone) == pytest.approx(dict(row), abs=1e-6)
    assert classifier.classify(x[:0]) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": ()}, "distinct names"),
        ({"labels": ("a", "a")}, "distinct names"),
        ({"channels": 2}, "1 or 3, not 2"),
        ({"widths": ()}, "positive, at least one"),
        ({"size": 3, "widths": (2, 2, 2)}, "too small to halve"),
        ({"dropout": 1.0}, r"in \[0, 1\), not 1.0"),
    ],
)
def test_configs_that_make_no_sense(wrong, said):
    with pytest.raises(ValueError, match=said):
        ImageClassifierConfig(**{"labels": ("a", "b"), **wrong})


def test_other_shapes_are_refused(classifier):
    for shape in ((2, 3, 8, 8), (2, 1, 9, 9), (1, 8, 8)):
        with pytest.raises(ValueError, match=r"shape \(n, 1, 8, 8\)"):
            classifier(torch.rand(shape))


def test_the_file_runs_without_kexue(tmp_path: Path):
    source = Path(kexue_metrics.image_classifier.__file__).read_text()
    program = source + (
        "\nmodel = ImageClassifier(ImageClassifierConfig(labels=('a',), size=4, widths=(2,)))"
        "\nprint(tuple(model(torch.rand(3, 1, 4, 4)).shape))"
        "\nimport sys; assert not any(m.startswith('kexue') for m in sys.modules)"
    )
    (tmp_path / "copied.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "copied.py"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("(3, 1)\n", 0), done.stderr
