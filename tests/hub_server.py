"""A stand-in for the hub's server: on the loopback, from folders, answering as huggingface.co does.

What `huggingface_hub` asks when it downloads a snapshot: the commit of a revision, the tree of a
commit, the head of each file with its ETag, and its content, which for large files is a redirect to
another address. `Trouble` makes it behave as a bad line or a bad day does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = (".safetensors", ".parquet")        # stored as large files, under their SHA-256


@dataclass
class Trouble:
    """status, headers: for every request whose path holds `path`. cut: so many bytes of a content
    are sent before the line is cut. times: how often, then all is well."""

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    times: int = 10**6


class HubServer:
    """with HubServer() as hub: hub.add(...), and `hub.url` is what HF_ENDPOINT wants.

    commits: {(type, id): {commit: {path: content}}}; branches: {(type, id): commit of main}.
    requests: (method, path) of all that was asked.
    """

    def __init__(self):
        self.commits, self.branches, self.requests = {}, {}, []
        self.contents: dict[str, bytes] = {}
        self.trouble: list[Trouble] = []

    def add(self, repository, folder: Path, commit: str) -> None:
        """A folder's files at a commit, which is main from now on."""
        key = repository.repo_type, repository.repo_id
        files = {path.relative_to(folder).as_posix(): path.read_bytes()
                 for path in sorted(folder.rglob("*")) if path.is_file()}
        self.commits.setdefault(key, {})[commit] = files
        self.branches[key] = commit

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_of = hub

        # Two, as large files come from another host: the library follows redirects to that only
        # when it downloads, and not when it asks for a file's head.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.url, self.large = (f"http://127.0.0.1:{each.server_port}" for each in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            # It looks that often whether it is to end; by default each test waits half a second.
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: HubServer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *arguments) -> None:
        """Tests look at `requests`; nothing is printed."""

    def _answer(self, body: bool) -> None:
        hub, path = self.server_of, self.path.partition("?")[0]
        hub.requests.append((self.command, path))
        trouble = next((t for t in hub.trouble if t.path in path and t.times > 0
                        and (t.status or body)), None)
        if trouble is not None:
            trouble.times -= 1
            if trouble.status:
                self._send(trouble.status, b"{}", body, trouble.headers)
                return
        cut = trouble.cut if trouble else None
        if match := re.fullmatch("/cdn/([0-9a-f]{64})", path):
            self._send_content(hub.contents[match[1]], body, cut)
        elif match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(revision|tree)/([^/]+)",
                                   path):
            self._send_api(*match.groups(), body)
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file("dataset" if match[1] else "model", *match.groups()[1:], body, cut)
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _files(self, kind: str, name: str, revision: str, body: bool) -> tuple | None:
        """The commit and the files of a revision; None, and the refusal is sent."""
        hub, key = self.server_of, (kind, name)
        if key not in hub.commits:      # so the hub answers whoever is not logged in
            self._send(401, b"{}", body, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = hub.branches[key] if revision == "main" else revision
        if commit not in hub.commits[key]:
            self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, hub.commits[key][commit]

    def _send_api(self, kind: str, name: str, what: str, revision: str, body: bool) -> None:
        found = self._files(kind, name, revision, body)
        if found is None:
            return
        commit, files = found
        if what == "revision":
            answer = {"_id": "1", "id": name, "sha": commit, "private": False, "gated": False,
                      "tags": [], "downloads": 0, "likes": 0,
                      "siblings": [{"rfilename": path} for path in files]}
        else:
            answer = [{"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
                      | ({"lfs": {"oid": _sha256(content), "size": len(content),
                                  "pointerSize": 130}} if path.endswith(LARGE) else {})
                      for path, content in files.items()]
        self._send(200, json.dumps(answer).encode(), body, {"Content-Type": "application/json"})

    def _send_file(self, kind: str, name: str, revision: str, path: str, body: bool,
                   cut: int | None) -> None:
        found = self._files(kind, name, revision, body)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content, headers = files[path], {"X-Repo-Commit": commit}
        if path.endswith(LARGE):
            digest = _sha256(content)
            self.server_of.contents.setdefault(digest, content)
            self._send(302, b"", body, headers | {
                "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)),
                "Location": f"{self.server_of.large}/cdn/{digest}?signature=of-the-day"})
        else:
            self._send_content(content, body, cut, headers | {"ETag": f'"{_git_id(content)}"'})

    def _send_content(self, content: bytes, body: bool, cut: int | None,
                      headers: dict | None = None) -> None:
        """A content, or the rest of it that a Range asks for; cut: the line breaks after so many
        bytes of what was promised."""
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        last = len(content) - 1
        more = {"Content-Range": f"bytes {start}-{last}/{len(content)}"} if start else {}
        part = content[start:]
        self.send_response(206 if start else 200)
        for name, value in ({"Content-Length": str(len(part)), "Accept-Ranges": "bytes"} | more
                            | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(part if cut is None else part[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _send(self, status: int, content: bytes, body: bool, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
