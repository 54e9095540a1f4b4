"""What ``kexue doctor`` asks in a child process: the devices, and whether foreign verbs import.

Run as ``python -m kexue_core.commands._probe devices|verbs``. The last line of stdout is JSON; a
crash, an endless import or an ``os._exit`` in here ends the child and not the doctor.
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["devices", "verbs"]


def devices() -> dict[str, Any]:
    """Torch as it works: version, threads, and each device after a sum on it."""
    import torch

    found = [{"device": "cpu", "name": f"threads: {torch.get_num_threads()}", "works": True}]
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    for name in names:
        title = torch.cuda.get_device_name(name) if name.startswith("cuda") else "Apple GPU"
        try:
            # A GPU that is listed may still be unusable: too new, too old, out of memory.
            works = float(torch.ones(8, device=name).sum()) == 8
            trouble = None
        except RuntimeError as error:
            works, trouble = False, " ".join(str(error).split())[:200]
        found.append({"device": name, "name": title, "works": works, "trouble": trouble})
    return {"torch": torch.__version__, "devices": found}


def verbs() -> dict[str, Any]:
    """Verb of another distribution -> why it does not load, or ``None``."""
    from kexue_core.commands._verbs import foreign_verbs, load_verb
    from kexue_core.errors import PluginError

    result: dict[str, Any] = {}
    for verb in foreign_verbs():
        if verb.problem is None:
            try:
                load_verb(verb.name)
                result[verb.name] = None
            except PluginError as error:
                result[verb.name] = error.message
    return result


if __name__ == "__main__":
    answer = {"devices": devices, "verbs": verbs}[sys.argv[1]]()
    print("\n" + json.dumps(answer), flush=True)
