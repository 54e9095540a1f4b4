"""One run of the comparison of losses: a data set, a loss, a seed; equal nets.

The net, its optimiser, the number of epochs, the batches and the seeds are the same for all losses;
only the loss differs. Of each run the epoch with the best average precision on the development part
is kept: a figure that knows no threshold, and so favours none.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kexue_core.errors import DataError
from kexue_core.experiments import Curve
from kexue_core.training import Split
from kexue_zlpr.baselines import asymmetric_loss, bce_loss, focal_loss
from kexue_zlpr.text_classifier import TextClassifier, TextClassifierConfig
from kexue_zlpr.texts import f1_scores, multi_hot, read_texts, split_of
from kexue_zlpr.zlpr import zlpr_loss

__all__ = [
    "DATASETS",
    "LOSSES",
    "Parts",
    "best_thresholds",
    "figures",
    "open_parts",
    "plan_of",
    "train_run",
]

LOSSES = ("zlpr", "bce", "weighted-bce", "focal", "asl")

#: Largest weight of a positive in weighted BCE: that of a label with one example in thousands
#: would drown all others.
MAX_WEIGHT = 50.0

#: Width of the net's hidden layer.
HIDDEN = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What a data set is called, where it lies under ``--data``, and its budget.

    Attributes:
        file: Its file.
        epochs: Passes over the training part.
        batch_size: Rows a step.
        learning_rate: Adam's at the start; it falls linearly to zero.
    """

    file: str
    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3


DATASETS: Mapping[str, Dataset] = {
    "emotions": Dataset(file="mulan_emotions.npz", epochs=40, batch_size=32),
    "scene": Dataset(file="mulan_scene.npz", epochs=20, batch_size=32),
    "enron": Dataset(file="mulan_enron.npz", epochs=20, batch_size=32, learning_rate=3e-3),
    "medical": Dataset(file="mulan_medical.npz", epochs=60, batch_size=32, learning_rate=5e-3),
    "bibtex": Dataset(file="mulan_bibtex.npz", epochs=12, learning_rate=5e-3),
    "tmc2007": Dataset(file="mulan_tmc2007.npz", epochs=5, batch_size=128, learning_rate=3e-3),
    "reuters90": Dataset(
        file="reuters90.train.jsonl.gz", epochs=7, batch_size=128, learning_rate=1e-2
    ),
    "goemotions": Dataset(
        file="goemotions.train.tsv.gz", epochs=2, batch_size=256, learning_rate=5e-3
    ),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """A data set in three parts, (inputs, 0 / 1 targets) each.

    Inputs are features (n, d), standardised where they are not 0 / 1, or feature numbers (n, L).
    """

    labels: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    dev: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    fingerprint: str


def open_parts(name: str, folder: Path) -> Parts:
    """Read a data set.

    Mulan: the test part is its own, every fifth row of its training part is dev. Reuters: of the
    training documents every tenth is test, the one before it dev. GoEmotions: its dev file is test
    and every tenth row of its training file dev; the official test file is not touched.

    Raises:
        DataError: A file is missing.
    """
    return _open_parts(name, folder.resolve())


@functools.lru_cache(maxsize=1)  # the runs of one data set follow each other
def _open_parts(name: str, folder: Path) -> Parts:
    path = folder / DATASETS[name].file
    if not path.is_file():
        raise DataError(
            f"{path} does not exist",
            hint=f"--data names a folder with {', '.join(d.file for d in DATASETS.values())}",
        )
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    if name.startswith("reuters"):
        texts = read_texts(path)
        model = _text_net(texts.vocabulary)

        def part(split: Split) -> tuple[Tensor, Tensor]:
            chosen = texts.select(split_of(len(texts.texts), split))
            return model.featurize(chosen.texts), multi_hot(chosen.labels, texts.vocabulary)

        return Parts(texts.vocabulary, part("train"), part("val"), part("test"), fingerprint)
    if name == "goemotions":
        return _goemotions(path, fingerprint)
    return _mulan(path, fingerprint)


def _mulan(path: Path, fingerprint: str) -> Parts:
    with np.load(path, allow_pickle=False) as data:
        x, y, test_x, test_y = (
            torch.from_numpy(data[key]).float()
            for key in ("train_x", "train_y", "test_x", "test_y")
        )
        labels = tuple(str(label) for label in data["labels"])
    dev = torch.arange(len(x)) % 5 == 4
    if not bool(((x == 0) | (x == 1)).all()):
        mean, deviation = x[~dev].mean(0), x[~dev].std(0).clamp(min=1e-6)
        x, test_x = (x - mean) / deviation, (test_x - mean) / deviation
    return Parts(labels, (x[~dev], y[~dev]), (x[dev], y[dev]), (test_x, test_y), fingerprint)


def _goemotions(path: Path, fingerprint: str) -> Parts:
    import gzip

    def read(file: Path) -> tuple[list[str], list[list[str]]]:
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        return [row[0] for row in rows], [row[1].split(",") for row in rows]

    texts, labels = read(path)
    test_texts, test_labels = read(path.with_name("goemotions.dev.tsv.gz"))
    names = path.with_name("goemotions.labels.txt").read_text(encoding="utf-8").split()
    numbers = [str(i) for i in range(len(names))]
    model = _text_net(tuple(names))
    x, y = model.featurize(texts), multi_hot(labels, numbers)
    dev = torch.arange(len(x)) % 10 == 9
    test = (model.featurize(test_texts), multi_hot(test_labels, numbers))
    return Parts(tuple(names), (x[~dev], y[~dev]), (x[dev], y[dev]), test, fingerprint)


def _text_net(labels: tuple[str, ...]) -> TextClassifier:
    return TextClassifier(TextClassifierConfig(labels=labels, buckets=20_000, max_features=200))


def _net(parts: Parts) -> nn.Module:
    """The one net of a data set: for features two layers, for texts the classifier."""
    x = parts.train[0]
    if x.dtype == torch.int64:
        return _text_net(parts.labels)
    return nn.Sequential(
        nn.Linear(x.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(HIDDEN, len(parts.labels)),
    )


def _loss(name: str, target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "weighted-bce":
        positives = target.sum(0)
        weight = ((len(target) - positives) / positives.clamp(min=1)).clamp(max=MAX_WEIGHT)
        return functools.partial(bce_loss, pos_weight=weight)
    losses: Mapping[str, Callable[..., Tensor]] = {
        "zlpr": zlpr_loss,
        "bce": bce_loss,
        "focal": focal_loss,
        "asl": asymmetric_loss,
    }
    return losses[name]


def train_run(
    dataset: str, loss: str, seed: int, folder: Path, *, quick: bool = False
) -> tuple[dict[str, float], dict[str, Curve]]:
    """Train one net; return its figures on the test part, and its curves.

    Args:
        dataset: One of :data:`DATASETS`.
        loss: One of :data:`LOSSES`.
        seed: Of the initial weights, batches and dropout, the same for all losses.
        folder: Where the data lies.
        quick: Two epochs.
    """
    parts, plan = open_parts(dataset, folder), DATASETS[dataset]
    plan = replace(plan, epochs=2) if quick else plan
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(parts, plan, loss)


def _train(parts: Parts, plan: Dataset, loss: str) -> tuple[dict[str, float], dict[str, Curve]]:
    began = time.process_time()
    net, (x, y) = _net(parts), parts.train
    criterion = _loss(loss, y)
    optimizer = torch.optim.Adam(net.parameters(), lr=plan.learning_rate, weight_decay=1e-5)
    total = plan.epochs * (len(x) // plan.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total)
    best, kept, curve = -1.0, {}, []
    for epoch in range(1, plan.epochs + 1):
        net.train()
        order = torch.randperm(len(x))
        for i in range(len(x) // plan.batch_size):
            rows = order[i * plan.batch_size : (i + 1) * plan.batch_size]
            optimizer.zero_grad()
            criterion(net(_trim(x[rows])), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        precision = average_precision(_logits(net, parts.dev[0]), parts.dev[1])
        curve.append((float(epoch), precision))
        if precision > best:
            best, kept = precision, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    found, by_label = figures(net, parts)
    seconds = time.process_time() - began
    return (
        {**found, "dev_average_precision": best, "cpu_s": seconds},
        {"dev_average_precision": curve, "f1_by_positives": by_label},
    )


def figures(net: nn.Module, parts: Parts) -> tuple[dict[str, float], Curve]:
    """F1 on the test part at threshold 0, and at the threshold that dev likes best.

    Returns:
        The figures, and for each label (positives in training, its F1 at threshold 0).
    """
    dev, test = _logits(net, parts.dev[0]), _logits(net, parts.test[0])
    truth = parts.test[1]
    names = ("micro_f1", "macro_f1")
    found = dict(zip(names, f1_scores(test > 0, truth), strict=True))
    for i, threshold in enumerate(best_thresholds(dev, parts.dev[1])):
        found[f"{names[i]}_tuned"] = f1_scores(test > threshold, truth)[i]
        found[f"{names[i]}_threshold"] = threshold
    positives = parts.train[1].sum(0).tolist()
    labels = [
        (positives[i], f1_scores(test[:, i : i + 1] > 0, truth[:, i : i + 1])[0])
        for i in range(len(positives))
        if truth[:, i].any()
    ]
    return found, sorted(labels)


def best_thresholds(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """The logits with the best micro and with the best macro F1, of sixty quantiles and 0."""
    # The share of positives is far below a half: most of the quantiles lie above the median.
    shares = 1 - np.logspace(-3.5, 0, 60)
    candidates = [0.0, *np.quantile(np.asarray(logits.flatten()), shares).tolist()]
    scores = np.array([f1_scores(logits > c, target) for c in candidates])
    micro, macro = scores.argmax(0)
    return float(candidates[micro]), float(candidates[macro])


def average_precision(logits: Tensor, target: Tensor) -> float:
    """Mean precision at every true (row, label) pair, all pairs in one ranking, in [0, 1]."""
    hits = target.flatten()[logits.flatten().argsort(descending=True, stable=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum().clamp(min=1))


@torch.no_grad()
def _logits(net: nn.Module, x: Tensor) -> Tensor:
    net.eval()
    return torch.cat([net(_trim(part)) for part in torch.split(x, 512)])


def _trim(x: Tensor) -> Tensor:
    """Without columns of mere padding."""
    return x[:, : max(1, int((x > 0).sum(-1).max()))] if x.dtype == torch.int64 else x


def plan_of(name: str, *, quick: bool) -> dict[str, Any]:
    """The settings that a run depends on, as JSON values."""
    plan = DATASETS[name]
    return {
        "epochs": 2 if quick else plan.epochs,
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "hidden": HIDDEN,
        "dropout": 0.2,
        "max_weight": MAX_WEIGHT,
        "selected_by": "dev average precision",
    }
