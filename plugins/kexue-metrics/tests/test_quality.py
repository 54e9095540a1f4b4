"""All figures at once, and class agreement."""

import pytest
import torch
from kexue_metrics import (
    class_agreement,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    sample_quality,
)


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(40, 1, 8, 8, generator=generator) ** power for power in (1, 2, 1)]


def test_every_figure_stands_beside_its_floor(features, sets):
    real, fake, other = sets
    quality = sample_quality(features, real, fake, real_floor=other)
    assert (quality.features, quality.weights_sha256, quality.n) == ("eye", "ab" * 32, 40)
    a = features(real)
    for figures, b in ((quality.fake, features(fake)), (quality.floor, features(other))):
        assert figures.frechet_distance == frechet_distance(a, b)
        assert figures.kernel_distance == kernel_distance(a, b)
        assert (figures.precision, figures.recall) == precision_recall(a, b, k=3)
        assert (figures.density, figures.coverage) == density_coverage(a, b, k=5)
    assert quality.fake.frechet_distance > 10 * quality.floor.frechet_distance
    values = quality.to_dict()
    assert list(values)[:3] == ["frechet_distance", "frechet_distance_floor", "kernel_distance"]
    assert values["coverage_floor"] == quality.floor.coverage
    assert len(values) == 12
    text = str(quality)
    assert "40 samples over the features of eye (sha256 abababababab)" in text
    assert f"{quality.floor.coverage:.4f}" in text


def test_features_may_be_given_instead_of_images(features, sets):
    whole = sample_quality(features, *sets[:2], real_floor=sets[2])
    given = [features(x) for x in sets]
    assert sample_quality(features, *given[:2], real_floor=given[2]) == whole


def test_the_sets_must_be_equally_many(features, sets):
    with pytest.raises(ValueError, match="equally many, not 40, 39, 40"):
        sample_quality(features, sets[0], sets[1][:39], real_floor=sets[2])
    with pytest.raises(ValueError, match="k=5 needs at least 6 real samples"):
        sample_quality(features, sets[0][:5], sets[1][:5], real_floor=sets[2][:5])


def test_agreement_is_counted_class_by_class(features):
    images = torch.rand(60, 1, 8, 8)
    seen = features.predict(images)
    assert class_agreement(features, images, seen).agreement == 1
    asked = torch.arange(60) % 3
    found = class_agreement(features, images, asked)
    assert found.n == 60
    assert found.agreement == pytest.approx(float((seen == asked).double().mean()))
    for label, share in found.per_class.items():
        of = asked == features.labels.index(label)
        assert share == pytest.approx(float((seen[of] == asked[of]).double().mean()))
    assert found.to_dict()["class_agreement_worst"] == min(found.per_class.values())
    only = class_agreement(features, images, torch.zeros(60, dtype=torch.int64))
    assert list(only.per_class) == ["dark"]


def test_labels_that_do_not_fit_are_refused(features):
    images = torch.rand(3, 1, 8, 8)
    for labels, said in (
        (torch.tensor([0, 1]), "3 images need as many"),
        (torch.tensor([0.0, 1.0, 2.0]), "whole numbers"),
        (torch.tensor([0, 1, 3]), r"in 0\.\.2"),
        (torch.tensor([-1, 1, 2]), r"in 0\.\.2"),
    ):
        with pytest.raises(ValueError, match=said):
            class_agreement(features, images, labels)
    with pytest.raises(ValueError, match="at least one"):
        class_agreement(features, images[:0], torch.zeros(0, dtype=torch.int64))
    features.multilabel = True
    with pytest.raises(ValueError, match="several labels"):
        class_agreement(features, images, torch.zeros(3, dtype=torch.int64))
