"""A Hugging Face Hub on the loopback interface, with faults; standard library only.

The real huggingface_hub client can create repositories on it, upload to them, tag them and download
from them. Large files are served, as by the real Hub, by another host (here: another port). Data
sets are served under ``datasets/owner/name``::

    with LoopbackHub() as hub:
        commit = hub.store.add("owner/name", {"config.json": b"{}", "model.safetensors": data})
        hub.fault(file="model.safetensors", reset_after=1000, times=1)
        subprocess.run(["kexue", "pull", "hf:owner/name"], env={**os.environ, **hub.environment()})
        assert hub.sent("model.safetensors") < 2 * len(data)
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from kexue_core.testing.loopback_api import Question, api_answer
from kexue_core.testing.loopback_faults import Fault, Faults, drain
from kexue_core.testing.loopback_store import Blob, Store

__all__ = ["LoopbackHub", "Seen"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_RESOLVE = re.compile(
    r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)
_PIECE = 64 << 10


@dataclass(slots=True)
class Seen:
    """A request that the server saw.

    Attributes:
        host: ``hub`` or ``storage``.
        method: HTTP method.
        path: Path with query, as sent.
        file: The file that was asked for, empty for questions about a repository.
        headers: Lower-case names.
        status: Status of the answer.
        sent: Bytes of the body that were handed to the network.
    """

    host: str
    method: str
    path: str
    file: str
    headers: Mapping[str, str]
    status: int = 0
    sent: int = 0


class LoopbackHub:
    """The server; use it as a context manager.

    Attributes:
        store: Repositories, tokens, uploaded objects.
        seen: Every request, in the order of arrival.
        url: Address of the Hub.
        storage_url: Address of the host that serves large files.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self._hub = _Server(self, "hub")
        self._storage = _Server(self, "storage")
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://127.0.0.1:{self._storage.server_port}"
        self.mirror_url = f"{self.url}/mirror"

    def __enter__(self) -> LoopbackHub:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def fault(self, **what: Any) -> Fault:
        """Switch a fault on; arguments as for :class:`Fault`."""
        return self.faults.add(Fault(**what))

    def environment(self, *, token: str | None = None) -> dict[str, str]:
        """Variables that send a client process here and nowhere else.

        Xet, which is a service of its own, is off: this server speaks the Hub's plain protocol.
        """
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN_PATH": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }
        return variables if token is None else {**variables, "HF_TOKEN": token}

    def sent(self, file: str) -> int:
        """Bytes of a file's body that were handed to the network, over all requests."""
        return sum(s.sent for s in self.seen if s.file == file and s.method == "GET")

    def count(self, file: str, method: str = "GET") -> int:
        """Requests for a file."""
        return sum(s.file == file and s.method == method for s in self.seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: LoopbackHub, host: str) -> None:
        self.hub = hub
        self.host = host
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Dropped(Exception):  # noqa: N818 - the connection is gone on purpose
    """Nothing more is to be sent on this connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Be quiet."""

    def handle_one_request(self) -> None:
        """Answer one request; a dropped connection ends the thread."""
        try:
            super().handle_one_request()
        except (_Dropped, ConnectionError, TimeoutError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        path = urlsplit(self.path)
        file, serve = self._find(unquote(path.path), path.path, parse_qs(path.query))
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.note = Seen(self.server.host, self.command, self.path, file, headers)
        hub.seen.append(self.note)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        if file:
            fault = hub.faults.hit("HEAD" if self._is_question() else "GET", file)
        else:
            fault = hub.faults.hit("API", path.path)
        if fault.status is not None:
            extra = {"Retry-After": fault.retry_after, "X-Error-Code": fault.error_code}
            self._send_json(fault.status, {"error": "fault"}, extra)
        else:
            serve(fault)

    def _is_question(self) -> bool:
        return self.command == "HEAD"

    def _find(
        self, path: str, raw: str, query: Mapping[str, list[str]]
    ) -> tuple[str, Callable[[Fault], None]]:
        """The file that a path means, and what answers for it."""
        store = self.server.hub.store
        if self.server.host == "storage":
            _, sha256, file = path.split("/", 2)
            blob = next(
                (
                    b
                    for r in list(store.repos.values())
                    for tree in list(r.commits.values())
                    for b in tree.values()
                    if b.sha256 == sha256
                ),
                None,
            )
            if blob is None or "signature" not in query:
                return file, lambda fault: self._send_json(403, {"error": "not signed"})
            return file, lambda fault: self._send_blob(blob, {}, fault)
        if path.startswith("/mirror/"):
            file = path.removeprefix("/mirror/")
            found = store.mirrors.get(file)
            if found is None:
                return file, lambda fault: self._send_json(404, {"error": "no such file"})
            return file, lambda fault: self._send_blob(found, {}, fault)
        if match := _RESOLVE.fullmatch(raw):
            repo, revision = match["repo"], unquote(match["revision"])
            file = unquote(match["file"])
            return file, lambda fault: self._resolve(repo, revision, file, fault)
        return "", lambda fault: self._send_json(
            *api_answer(
                Question(
                    store=store,
                    method=self.command,
                    path=raw,
                    query=query,
                    body=self.body,
                    user=self._user(),
                    base=self.server.hub.url,
                )
            )
        )

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.server.hub.store.tokens.get(token)

    def _resolve(self, name: str, revision: str, file: str, fault: Fault) -> None:
        """Answer for a file of a repository as the Hub does, to HEAD and to GET."""
        hub = self.server.hub
        repo = hub.store.repos.get(name)
        if repo is None or (repo.private and self._user() is None):
            code = 404 if self._user() else 401
            self._send_json(
                code, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
            return
        if repo.gated:
            self._send_json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            return
        commit = repo.resolve(revision)
        if commit is None:
            self._send_json(404, {"error": "revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        blob = repo.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if blob is None:
            headers["X-Error-Code"] = "EntryNotFound"
            self._send_json(404, {"error": "entry"}, headers)
            return
        etag = fault.etag or blob.etag
        if not blob.large:
            self._send_blob(blob, {**headers, "ETag": f'"{etag}"'}, fault)
            return
        size = blob.size if fault.linked_size is None else fault.linked_size
        headers |= {
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(size),
            "Location": f"{hub.storage_url}/{blob.sha256}/{quote(file)}?signature=1",
        }
        self._send_json(302, {}, headers)

    def _send_json(
        self, status: int, content: object, headers: Mapping[str, str | None] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.note.status = status
        self.send_response(status)
        for key, value in (headers or {}).items():
            if value is not None:
                self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_blob(self, blob: Blob, headers: Mapping[str, str], fault: Fault) -> None:
        start, stop, status = 0, blob.size, 200
        match = _RANGE.fullmatch(self.headers.get("Range") or "")
        if match and not fault.ignore_range:
            start = int(match[1])
            stop = min(blob.size, int(match[2]) + 1) if match[2] else blob.size
            status = 206
            if start >= blob.size:
                extra = {"Content-Range": f"bytes */{blob.size}"}
                self._send_json(416, {"error": "range"}, {**headers, **extra})
                return
        self.note.status = status
        stop = max(start, stop - fault.shorten)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{blob.size}")
        if fault.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            length = stop - start
            if self.command == "HEAD" and fault.linked_size is not None:
                length = fault.linked_size
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(blob, start, stop, fault)

    def _send_body(self, blob: Blob, start: int, stop: int, fault: Fault) -> None:
        piece = _PIECE if fault.rate is None else max(1, min(_PIECE, int(fault.rate / 10)))
        limits = [
            x for x in (fault.close_after, fault.reset_after, fault.stall_after) if x is not None
        ]
        end = min([stop, *(start + limit for limit in limits)])
        position = start
        while position < end:
            upto = min(end, position + piece)
            data = bytearray(blob.read(position, upto))
            if fault.flip is not None and position <= fault.flip < upto:
                data[fault.flip - position] ^= 1
            self.note.sent += len(data)  # before: a client that has all bytes may ask at once
            self.wfile.write(data)
            position = upto
            if fault.rate is not None and self.server.hub.closing.wait(len(data) / fault.rate):
                raise _Dropped
        if end == stop and not limits:
            return
        self.wfile.flush()
        if fault.stall_after is not None:
            self.server.hub.closing.wait()
        elif fault.reset_after is not None:
            drain(self.connection)
            # Linger with no time to linger: the kernel answers with RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        elif fault.close_after is not None:
            self.connection.shutdown(socket.SHUT_WR)
        raise _Dropped
