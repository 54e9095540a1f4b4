"""ZLPR: softmax cross-entropy for multi-label classification (kexue.fm post 7359).

>>> from kexue_zlpr import zlpr_loss                         # doctest: +SKIP

Everything is imported on first use: the entry point of the plugin costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "SoftZLPRLoss": "zlpr",
    "SparseZLPRLoss": "zlpr",
    "ZLPRLoss": "zlpr",
    "asymmetric_loss": "baselines",
    "bce_loss": "baselines",
    "focal_loss": "baselines",
    "mask_spans": "spans",
    "soft_zlpr_loss": "zlpr",
    "span_index": "spans",
    "spans_above": "spans",
    "sparse_zlpr_loss": "zlpr",
    "zlpr_loss": "zlpr",
    "zlpr_predict": "zlpr",
    "zlpr_prob": "zlpr",
}

if TYPE_CHECKING:
    from kexue_zlpr.baselines import asymmetric_loss, bce_loss, focal_loss
    from kexue_zlpr.spans import mask_spans, span_index, spans_above
    from kexue_zlpr.zlpr import (
        SoftZLPRLoss,
        SparseZLPRLoss,
        ZLPRLoss,
        soft_zlpr_loss,
        sparse_zlpr_loss,
        zlpr_loss,
        zlpr_predict,
        zlpr_prob,
    )

__all__ = [
    "SoftZLPRLoss",
    "SparseZLPRLoss",
    "ZLPRLoss",
    "asymmetric_loss",
    "bce_loss",
    "focal_loss",
    "mask_spans",
    "soft_zlpr_loss",
    "span_index",
    "spans_above",
    "sparse_zlpr_loss",
    "zlpr_loss",
    "zlpr_predict",
    "zlpr_prob",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
