"""Image data by its name on the Hugging Face Hub, through the ``datasets`` library.

The library asks for a name again and again before it looks into its cache. So the Hub is asked one
question first: if it cannot be reached, what is in the cache is taken at once.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from kexue_core.errors import AccessError, DataError, NetworkError, NotFoundError, OfflineError
from kexue_core.hub.network import Patience, check_online, classify, endpoint, with_retries
from kexue_core.training.data.sources import RawImages, pick_split, similar
from kexue_core.training.data.tables import one_line, quiet_datasets, read_tables
from kexue_core.training.recipe import Split

__all__ = ["HUB_NAME", "open_hub"]

#: ``owner/name``, with ``:configuration`` where a data set has several. A word alone is a path.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")

#: Variables that switch the network off, for one library or another.
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

_AT_HAND = "name data at hand with --data PATH"


def open_hub(source: str, split: Split) -> RawImages:
    """Open one split of a data set on the Hub, ``owner/name`` or ``owner/name:configuration``.

    Raises:
        DataError: There is no such data set, split or image column.
        AccessError: Its terms must be accepted first.
        NetworkError: The Hub cannot be reached and the data is not in the cache.
    """
    name, _, configuration = source.partition(":")
    try:
        _ask(name)
    except (NotFoundError, AccessError) as error:
        raise _unknown(source) from error
    except NetworkError as error:
        loaded = _cached(source, name, configuration, error)
    else:
        loaded = _fetched(source, name, configuration)
    return pick_split(read_tables(loaded, source, name, None), split, source)


def _ask(name: str) -> None:
    """Ask the Hub for a data set, once and for at most the time that a connection may take.

    Raises:
        NotFoundError, AccessError: There is none by that name, or it is private.
        NetworkError: The network is off, or the Hub gave no answer.
    """
    if os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineError("HF_DATASETS_OFFLINE is set", hint="Unset it")
    check_online(name)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    usual = Patience.from_environment()
    once = replace(usual, attempts=1, reply_timeout=usual.connect_timeout)
    with_retries(
        lambda: api.dataset_info(name, timeout=once.connect_timeout),
        endpoint(),
        once,
        threading.Event(),
    )


def _fetched(source: str, name: str, configuration: str) -> Any:
    """All splits, downloaded where they are not in the cache."""
    with quiet_datasets() as datasets:
        try:
            return datasets.load_dataset(name, configuration or None)
        except datasets.exceptions.DatasetNotFoundError as error:
            if "gated" in str(error):
                raise AccessError(
                    f"The data set {source} cannot be fetched: its terms are not accepted",
                    hint="Accept them on its page while logged in, then: hf auth login",
                ) from error
            raise _unknown(source) from error
        except ConnectionError as error:
            raise NetworkError(
                f"The data set {source} cannot be fetched: {one_line(error)}",
                hint=f"Check the network, or {_AT_HAND}",
            ) from error
        except Exception as error:
            raise DataError(
                f"The data set {source} cannot be opened: {type(error).__name__}: "
                f"{one_line(error)}",
                hint=f"Name another, or {_AT_HAND}",
            ) from error


def _cached(source: str, name: str, configuration: str, trouble: NetworkError) -> Any:
    """All splits from the library's cache, which an earlier download filled.

    Raises:
        NetworkError: They are not there, or not whole; a subclass as ``trouble`` is.
    """
    with quiet_datasets():
        from datasets.packaged_modules.cache.cache import Cache

        try:
            return Cache(
                repo_id=name,
                dataset_name=name.rpartition("/")[2],
                config_name=configuration or None,
                version="auto",
                hash="auto",
            ).as_dataset()
        except Exception as error:
            missing = one_line(error)
    hint = f"Check the spelling and the network, or {_AT_HAND}"
    if isinstance(trouble, OfflineError):
        switches = [name for name in _SWITCHES if os.environ.get(name)]
        reason, hint = "the network is switched off", f"Unset {' and '.join(switches)}"
        hint += f", or {_AT_HAND}"
    elif isinstance(trouble.__cause__, Exception):
        # The sentence about the last try counts tries, and there was only one.
        reason = one_line(classify(trouble.__cause__, endpoint(), parsing=True))
    else:
        reason = trouble.message
    raise type(trouble)(
        f"{source} is neither a path here nor in the cache ({missing}), and cannot be fetched: "
        f"{reason}",
        hint=similar(Path(source)) or hint,
    ) from trouble


def _unknown(source: str) -> DataError:
    return DataError(
        f"{source} is neither a path here nor a data set on the Hub that is open to all",
        hint=similar(Path(source)) or f"Check the spelling, or {_AT_HAND}",
    )
