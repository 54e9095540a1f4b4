"""Saving, and loading in a process that has never seen the model.

``python -m kexue_core.testing.fresh DISTRIBUTION MODEL FOLDER`` is that process: it loads the
folder as ``kexue.load`` would and prints what it got. A buffer that is neither saved nor rebuilt,
a tied weight that came loose, a constructor that draws random numbers into something unsaved: each
shows as a hash that differs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kexue_core.testing.outcomes import Check, CheckFailure
from kexue_core.testing.subjects import ModelSubject
from kexue_core.testing.values import leaves

__all__ = ["FRESH_CHECKS", "observe"]

#: Seconds for a child to import torch and load a tiny model, on a busy machine.
PATIENCE = 240


def save_and_load(subject: ModelSubject) -> None:
    """Saved, and loaded in a fresh process, every tensor and output is the same bit for bit."""
    from kexue_core.saving import save_folder

    model = subject.build()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "weights"
        save_folder(folder, model, distribution=subject.distribution, model_name=subject.spec.name)
        child = subprocess.run(
            [sys.executable, "-m", __name__, subject.distribution, subject.spec.name, str(folder)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise CheckFailure(
            f"Loading in a fresh process failed: {lines[-1]}",
            "Build from the config alone, tie weights in __init__ in every process, "
            "and import what the class needs in its own module",
        )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # as in the child: the order of sums depends on it
        before = observe(subject, model)
    finally:
        torch.set_num_threads(threads)
    after = json.loads(child.stdout.splitlines()[-1])
    changed = sorted(k for k, v in before["state"].items() if after["state"].get(k) != v)
    if changed or before["state"].keys() != after["state"].keys():
        raise CheckFailure(
            f"{', '.join(changed[:3]) or 'A tensor'} differs after saving and loading",
            "Register every tensor as a parameter or buffer, and change none of them in __init__ "
            "after load or in forward",
        )
    for name, digest in before["outputs"].items():
        if after["outputs"][name] != digest:
            raise CheckFailure(
                f"{name} gives another result after saving and loading, "
                "though every saved tensor is the same",
                "Compute it from parameters, buffers and the config alone: no plain attribute, "
                "no random number drawn in __init__",
            )


def observe(subject: ModelSubject, model: nn.Module) -> dict[str, Any]:
    """Hashes of every tensor and output of a model. Loading itself insists on tied weights."""
    return {
        "state": {name: _digest(tensor) for name, tensor in model.state_dict().items()},
        "outputs": {p.name: _digest(p.run(p.make(2))) for p in subject.probes(model)},
    }


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in leaves(value):
        digest.update(path.encode())
        if isinstance(leaf, Tensor):
            flat = leaf.detach().contiguous().reshape(-1)
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def main(distribution: str, name: str, folder: str) -> None:
    """Load a folder and print what it holds, as the last line."""
    from kexue_core.loading import load_folder
    from kexue_core.plugins import discover
    from kexue_core.specs import ModelSpec

    torch.set_num_threads(1)
    spec = discover().find("model", name, distribution).spec
    assert isinstance(spec, ModelSpec)
    print(json.dumps(observe(ModelSubject(spec, distribution), load_folder(Path(folder)))))


FRESH_CHECKS: tuple[Check[ModelSubject], ...] = (Check("save-load", save_and_load),)

if __name__ == "__main__":
    main(*sys.argv[1:])
