"""A small server with as much of the hub's interface as its own client needs to download a model or read a data set.

    with HubServer() as hub:
        hub.add("owner/name", {"config.json": b"{}"})
        ... HF_ENDPOINT=hub.url ...

Model and data set info, file tree, `paths-info`, and `resolve` with HEAD, commit and ETag headers, byte ranges and, where
`moved` is set, the redirect by which the hub sends large files elsewhere. It counts what was asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from web_server import Served


@dataclass
class Repo:
    """One repository at one commit."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False  # answers only to the right token
    license: str = ""  # of its card
    cut: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the connection drops, once

    @property
    def sha(self) -> str:
        """The commit: it follows from the files."""
        return hashlib.sha1(b"".join(k.encode() + v for k, v in sorted(self.files.items()))).hexdigest()


class HubServer(Served):
    """The server, on a free port of 127.0.0.1; `log` holds "METHOD path" of every request."""

    TOKEN = "hf_test"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.ranges: list[str] = []
        self.sent = 0  # bytes of files
        self.moved = False  # `resolve` answers with a redirect to /cdn/...
        self.broken = False  # answers everything with 500
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take_over(self, monkeypatch: Any, home: Path) -> HubServer:
        """Let the hub's own client in this process ask this server, with its cache in `home`."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        return self

    def add(self, name: str, files: dict[str, bytes], **kind: bool | str) -> Repo:
        """Publish a repository; a second time it is a new commit."""
        self.repos[name] = Repo(dict(files), **kind)  # type: ignore[arg-type]
        return self.repos[name]

    def fetched(self, method: str = "GET") -> list[str]:
        """The files that were downloaded, in order of name."""
        found = (re.search(rf"^{method} .*/resolve/[^/]+/(.+)$", line) for line in self.log)
        return sorted(m.group(1) for m in found if m)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self.posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+).*)?", path)
        file = re.fullmatch(r"/(?:datasets/|cdn/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        if self.hub.broken:
            return self._send(500, b"down", body)
        if match is None:
            return self._send(404, b"", body)
        repo = self.hub.repos.get(match[1])
        token = self.headers.get("Authorization") == f"Bearer {self.hub.TOKEN}"
        if repo is None or (repo.private and not token):
            return self._send(401, b"", body, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Not found"})
        revision = match[3] if api else match[2]
        if revision and revision not in ("main", repo.sha):
            return self._send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        if api and match[2] in ("tree", "paths-info"):
            entries = [
                {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                for k, v in sorted(repo.files.items())
            ]
            if match[2] == "paths-info":
                wanted = _posted_paths(self.posted)
                entries = [entry for entry in entries if entry["path"] in wanted]
            return self._json(entries, body)
        if api:
            info: dict[str, object] = {
                "id": match[1],
                "modelId": match[1],
                "sha": repo.sha,
                "gated": repo.gated,
                "tags": [],
                **({"cardData": {"license": repo.license}} if repo.license else {}),
            }
            return self._json({**info, "siblings": [{"rfilename": k} for k in sorted(repo.files)]}, body)
        if repo.gated and not token:
            return self._send(403, b"", body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Gated"})
        if self.hub.moved and not path.startswith("/cdn/"):
            headers = {"X-Repo-Commit": repo.sha, "Location": f"{self.hub.url}/cdn{path.removeprefix('/datasets')}"}
            data = repo.files.get(match[3], b"")
            etag = {"X-Linked-ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            return self._send(302, b"", body, {**headers, **etag})
        self._file(repo, match[3], body)

    def _file(self, repo: Repo, name: str, body: bool) -> None:
        commit = {"X-Repo-Commit": repo.sha}
        data = repo.files.get(name)
        if data is None:
            return self._send(404, b"", body, {**commit, "X-Error-Code": "EntryNotFound"})
        headers = {**commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))) if asked else (0, len(data))
        if asked:
            self.hub.ranges.append(f"{name} from {start}" + (f" to {end}" if asked[2] else ""))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        cut = repo.cut.pop(name, None) if body else None
        self.hub.sent += (end - start) * body
        self._send(206 if asked else 200, data[start:end], body, headers, cut)

    def _json(self, value: object, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), body, {"Content-Type": "application/json"})

    def _send(
        self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


def _posted_paths(posted: bytes) -> set[str]:
    """The paths that a `paths-info` request names, as a form or as JSON."""
    try:
        found = json.loads(posted)["paths"]
    except json.JSONDecodeError:
        found = parse_qs(posted.decode())["paths"]
    return {found} if isinstance(found, str) else set(found)
