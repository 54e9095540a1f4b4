"""Weights: where they come from, and how every byte of them is checked.

``locate`` gives a folder of verified files for a reference. Behind the commands are ``pull`` in
:mod:`.download`, ``verify`` in :mod:`.verification`, ``remove`` in :mod:`.removal`, ``push`` in
:mod:`.publish` and ``convert`` in :mod:`.conversion`. Nothing here imports torch, and only what
uses the network imports huggingface_hub.
"""

from __future__ import annotations

from kexue_core.hub.sources import Located, locate

__all__ = ["Located", "locate"]
