"""The two clients that ``measure_pulls.py`` sends over bad networks, and what came of a pull."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kexue_core.testing.loopback_hub import LoopbackHub

__all__ = ["BIG", "LIMIT", "OURS", "THEIRS", "THEIRS_WHOLE", "Client", "Outcome", "clients"]

BIG = "model.safetensors"
LIMIT = 60.0

PATIENCE = {
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "HF_HUB_ETAG_TIMEOUT": "1",
    "KEXUE_STALL_TIMEOUT": "1",
    "KEXUE_RATE_WINDOW": "2",
    "KEXUE_RETRY_WAIT": "0.5",
}

OURS = """
from kexue_core.hub.download import pull
[done] = pull([reference])
found = {name: str(done.folder / name) for name in done.files}
"""

THEIRS = """
from huggingface_hub import hf_hub_download
repo, _, revision = reference.removeprefix("hf:").partition("@")
found = {
    name: hf_hub_download(repo, name, revision=revision or None)
    for name in ("config.json", "model.safetensors")
}
"""

# Memory is taken before and after: what importing costs is not the transfer's.
RUNNER = """
import json, logging, os, re, sys, time
os.environ.update({environment!r})
sys.stderr = open(os.devnull, "w")
reference = {reference!r}

def memory(field):
    with open("/proc/self/status") as status:
        return int(re.search(field + r":\\s+(\\d+)", status.read())[1]) * 1024

import huggingface_hub, httpx2, huggingface_hub.hf_api, huggingface_hub.file_download
import kexue_core.hub.download, kexue_core.hub.remote
huggingface_hub.get_session()
before = memory("VmRSS")
try:
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
except OSError:
    pass
start = time.monotonic()
try:
    {body}
    result = {{"found": found}}
except BaseException as error:
    result = {{"error": type(error).__name__}}
result["seconds"] = time.monotonic() - start
result["memory"] = memory("VmHWM") - before
with open({out!r}, "w") as stream:
    json.dump(result, stream)
"""


# Where a fault hits questions about the repository, theirs must be a client that asks them.
THEIRS_WHOLE = """
from huggingface_hub import snapshot_download
repo, _, revision = reference.removeprefix("hf:").partition("@")
folder = snapshot_download(repo, revision=revision or None)
found = {name: folder + "/" + name for name in ("config.json", "model.safetensors")}
"""


@dataclass
class Outcome:
    """What came of one pull, in words, and the seconds it took."""

    words: str
    seconds: float
    memory: int = 0


class Client:
    """One contender in a world of its own."""

    def __init__(self, hub_environment: dict[str, str], body: str, folder: Path) -> None:
        self.folder = folder
        self.body = body
        self.environment = {
            **hub_environment,
            **PATIENCE,
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "KEXUE_HOME": str(folder / "home"),
        }

    def start(self, reference: str, within: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Begin a pull in a process of its own; ``within`` is a command to run it under."""
        code = RUNNER.format(
            environment=self.environment,
            reference=reference,
            body=self.body.strip().replace("\n", "\n    "),
            out=str(self.folder / "out.json"),
        )
        return subprocess.Popen([*within, sys.executable, "-c", code])

    def run(
        self,
        reference: str,
        files: dict[str, bytes],
        limit: float = LIMIT,
        within: tuple[str, ...] = (),
    ) -> Outcome:
        """Pull, hold what was reported as good against ``files``, and say what came of it."""
        (self.folder / "out.json").unlink(missing_ok=True)
        return self.finish(self.start(reference, within), files, limit)

    def finish(
        self, process: subprocess.Popen[bytes], files: dict[str, bytes], limit: float = LIMIT
    ) -> Outcome:
        """Wait for what :meth:`start` began, and check what it reports."""
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return Outcome(f"still at it after {limit:.0f} s", limit)
        result = json.loads((self.folder / "out.json").read_text())
        seconds, memory = result["seconds"], result["memory"]
        if "error" in result:
            return Outcome(result["error"], seconds, memory)
        for name, data in files.items():
            if Path(result["found"][name]).read_bytes() != data:
                return Outcome("**wrong bytes, reported as good**", seconds, memory)
        return Outcome("right bytes", seconds, memory)


def clients(hub: LoopbackHub, root: Path) -> dict[str, Client]:
    """Both contenders, with empty caches."""
    made = {}
    for name, body in (("ours", OURS), ("theirs", THEIRS)):
        folder = Path(tempfile.mkdtemp(dir=root))
        made[name] = Client(hub.environment(), body, folder)
    return made
