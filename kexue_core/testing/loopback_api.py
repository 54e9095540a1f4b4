"""The Hub's questions and uploads: what the loopback Hub answers beside the files themselves."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from kexue_core.testing.loopback_store import Blob, Repo, Store

__all__ = ["Question", "api_answer"]

#: Status, JSON content, headers.
Answer = tuple[int, object, dict[str, str | None]]

# The real Hub gives 1000 entries of a tree a page.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is about no file's bytes.

    Attributes:
        store: What is served.
        method: HTTP method.
        path: Path without query, still quoted.
        query: Parsed query.
        body: Body of the request.
        user: Whose token came with it, or ``None``.
        base: Address of the Hub.
    """

    store: Store
    method: str
    path: str
    query: Mapping[str, list[str]]
    body: bytes
    user: str | None
    base: str


def api_answer(question: Question) -> Answer:
    """Answer a question about repositories, or take an upload."""
    for verb, pattern, answer in _ROUTES:
        if verb == question.method and (match := re.fullmatch(pattern, question.path)):
            return answer(question, *(unquote(g) for g in match.groups() if g is not None))
    return 404, {"error": f"no such path {question.path}"}, {}


def _not_found(code: str, status: int = 404) -> Answer:
    return status, {"error": code}, {"X-Error-Code": code}


def _repo(request: Question, name: str) -> Repo | None:
    repo = request.store.repos.get(name)
    return None if repo is None or (repo.private and request.user is None) else repo


def _whoami(request: Question) -> Answer:
    if request.user is None:
        return 401, {"error": "Invalid credentials in Authorization header"}, {}
    return 200, {"type": "user", "name": request.user, "orgs": [], "auth": {}}, {}


def _create(request: Question) -> Answer:
    if request.user is None:
        return 401, {"error": "Log in"}, {}
    asked = json.loads(request.body)
    name = f"{asked.get('organization') or request.user}/{asked['name']}"
    url = {"url": f"{request.base}/{name}", "name": name}
    if name in request.store.repos:
        return 409, {"error": "You already created this model repo", **url}, {}
    repo = request.store.repos[name] = Repo(name, private=asked.get("visibility") == "private")
    repo.commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n", large=False)})
    return 200, url, {}


def _info(request: Question, name: str, revision: str = "main") -> Answer:
    repo = _repo(request, name)
    if repo is None:
        return _not_found("RepoNotFound", 404 if request.user else 401)
    commit = repo.resolve(revision)
    if commit is None:
        return _not_found("RevisionNotFound")
    full = "blobs" in request.query
    siblings = [
        blob.sibling(path) if full else {"rfilename": path}
        for path, blob in repo.commits[commit].items()
    ]
    plain = name.removeprefix("datasets/")
    content = {
        "id": plain,
        "sha": commit,
        "private": repo.private,
        "siblings": siblings,
        "tags": [],
    }
    return 200, content, {"X-Repo-Commit": commit}


def _tree(request: Question, name: str, revision: str, folder: str = "") -> Answer:
    repo = _repo(request, name)
    commit = repo.resolve(revision) if repo else None
    if repo is None or commit is None:
        return _not_found("RevisionNotFound" if repo else "RepoNotFound")
    deep = request.query.get("recursive", ["false"])[0].lower() == "true"
    entries = _entries(repo.commits[commit], f"{folder}/" if folder else "", deep=deep)
    if folder and not entries:
        return _not_found("EntryNotFound")
    start = int(request.query.get("cursor", ["0"])[0])
    headers: dict[str, str | None] = {}
    if start + _PAGE < len(entries):
        url = f"{request.base}{request.path}?recursive={deep}&cursor={start + _PAGE}"
        headers["Link"] = f'<{url}>; rel="next"'
    return 200, entries[start : start + _PAGE], headers


def _entries(tree: Mapping[str, Blob], prefix: str, *, deep: bool) -> list[dict[str, object]]:
    """Files below ``prefix``, and folders in place of their content unless ``deep``."""
    entries: dict[str, dict[str, object]] = {}
    for path, blob in tree.items():
        if path.startswith(prefix):
            top, slash, _ = path.removeprefix(prefix).partition("/")
            if deep or not slash:
                entries[path] = blob.listed(path)
            else:
                place = prefix + top
                oid = hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()
                entries[place] = {"type": "directory", "path": place, "oid": oid, "size": 0}
    return list(entries.values())


def _paths(request: Question, name: str, revision: str) -> Answer:
    from urllib.parse import parse_qs

    repo = _repo(request, name)
    commit = repo.resolve(revision) if repo else None
    if repo is None or commit is None:
        return _not_found("RevisionNotFound" if repo else "RepoNotFound")
    wanted = parse_qs(request.body.decode()).get("paths", [])
    tree = repo.commits[commit]
    return 200, [tree[path].listed(path) for path in wanted if path in tree], {}


def _preupload(request: Question, name: str, revision: str) -> Answer:
    if _repo(request, name) is None:
        return _not_found("RepoNotFound")
    files = [
        {
            "path": f["path"],
            "uploadMode": "lfs" if Store.blob(f["path"], b"").large else "regular",
            "shouldIgnore": False,
            "oid": None,
        }
        for f in json.loads(request.body)["files"]
    ]
    return 200, {"files": files}, {}


def _batch(request: Question, name: str) -> Answer:
    objects = []
    for wanted in json.loads(request.body)["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in request.store.objects:
            entry["actions"] = {"upload": {"href": f"{request.base}/upload/{wanted['oid']}"}}
        objects.append(entry)
    return 200, {"transfer": "basic", "objects": objects}, {}


def _upload(request: Question, oid: str) -> Answer:
    blob = Blob(request.body, large=True)
    if blob.sha256 != oid:
        return 400, {"error": f"content has sha256 {blob.sha256}"}, {}
    request.store.objects[oid] = request.body
    return 200, {}, {}


def _commit(request: Question, name: str, branch: str) -> Answer:
    repo = _repo(request, name)
    if repo is None or request.user is None:
        return _not_found("RepoNotFound")
    files: dict[str, Blob | None] = {}
    for line in request.body.splitlines():
        item = json.loads(line)
        value: dict[str, Any] = item["value"]
        if item["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), large=False)
        elif item["key"] == "lfsFile":
            if value["oid"] not in request.store.objects:
                return 400, {"error": f"{value['oid']} was not uploaded"}, {}
            files[value["path"]] = Blob(request.store.objects[value["oid"]], large=True)
        elif item["key"] == "deletedFile":
            files[value["path"]] = None
    with request.store.lock:
        commit = repo.commit(files, branch=branch)
    url = f"{request.base}/{name}/commit/{commit}"
    return 200, {"commitUrl": url, "commitOid": commit, "pullRequestUrl": None}, {}


def _tag(request: Question, name: str, revision: str) -> Answer:
    repo = _repo(request, name)
    commit = repo.resolve(revision) if repo else None
    if repo is None or commit is None:
        return _not_found("RevisionNotFound")
    tag = json.loads(request.body)["tag"]
    if tag in repo.refs:
        return 409, {"error": f"the tag {tag} exists"}, {}
    repo.refs[tag] = commit
    return 200, {}, {}


def _validate(request: Question) -> Answer:
    return 200, {"errors": [], "warnings": []}, {}


_NAME = r"([^/]+/[^/]+)"
#: A model, or a data set: the name of the latter keeps its prefix.
_REPO = rf"/api/(?:models/{_NAME}|(datasets/[^/]+/[^/]+))"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", r"/api/whoami-v2", _whoami),
    ("POST", r"/api/repos/create", _create),
    ("POST", r"/api/validate-yaml", _validate),
    ("GET", _REPO, _info),
    ("GET", rf"{_REPO}/revision/([^/]+)", _info),
    ("GET", rf"{_REPO}/tree/([^/]+)(?:/(.+))?", _tree),
    ("POST", rf"{_REPO}/paths-info/([^/]+)", _paths),
    ("POST", rf"{_REPO}/preupload/([^/]+)", _preupload),
    ("POST", rf"{_REPO}/commit/([^/]+)", _commit),
    ("POST", rf"{_REPO}/tag/([^/]+)", _tag),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/upload/([0-9a-f]{64})", _upload),
)
