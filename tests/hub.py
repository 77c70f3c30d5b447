"""A hub on loopback: serves folders in hub layout to the real client, which asks ``HF_ENDPOINT``."""

import functools
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

HEAD = "0123456789abcdef0123456789abcdef01234567"  # what every branch resolves to
ACTION = r"(?:/(revision|tree)/([^/]+)/?(.*))?"
API = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)" + ACTION)
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
with socket.socket() as _probe:
    _probe.bind(("127.0.0.1", 0))
    PORT = _probe.getsockname()[1]
# No test reaches the real hub: the clients find nobody at this address unless something is served.
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{PORT}"
os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
DATES = {"lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z"}


@dataclass
class Hub:
    """What a test may change while the server runs."""

    datasets: Path
    models: Path
    # Repository ("" for all) to the HTTP status and X-Error-Code of every answer about it.
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stop: Callable[[], object] = lambda: None  # makes the hub unreachable


@contextmanager
def serving(datasets, models):
    """Serve ``datasets/OWNER/NAME`` and ``models/OWNER/NAME`` until the context ends."""
    hub = Hub(datasets, models)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", PORT), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.stop = functools.cache(lambda: (server.shutdown(), server.server_close(), thread.join()))
    try:
        yield hub
    finally:
        hub.stop()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        """Answer; HEAD alike."""
        url = urlparse(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        if asked := API.fullmatch(path):
            if folder := self._repository(asked[1] == "datasets", asked[2]):
                self._facts(folder, asked, parse_qs(url.query))
        elif asked := FILE.fullmatch(path):
            if folder := self._repository(bool(asked[1]), asked[2]):
                self._file(folder / asked[4], asked[3])
        else:
            self._refuse(404, "")

    do_HEAD = do_GET

    def _repository(self, dataset, name):
        """Return a repository's folder, or answer that there is none for this client."""
        folder = (self.hub.datasets if dataset else self.hub.models) / name
        refused = self.hub.answers.get(name) or self.hub.answers.get("")
        if refused or not folder.is_dir():
            self._refuse(*(refused or (404, "RepoNotFound")))
            return None
        return folder

    def _facts(self, folder, asked, query):
        _, name, action, revision, inside = asked.groups()
        if action == "tree" and not (folder / inside).is_dir():
            self._refuse(404, "EntryNotFound")
        elif action == "tree":
            deep = query.get("recursive", [""])[0].lower() in ("1", "true")
            found = (folder / inside).rglob("*") if deep else (folder / inside).iterdir()
            self._json([_entry(path, folder) for path in sorted(found)])
        else:
            files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            facts = {"id": name, "sha": _commit(revision), "private": False, "gated": False}
            facts |= {"disabled": False, "downloads": 0, "likes": 0, "tags": [], "cardData": {}}
            self._json(facts | DATES | {"siblings": [{"rfilename": file} for file in files]})

    def _file(self, file, revision):
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        body, status = file.read_bytes(), 200
        head = {"ETag": f'"{_tag(file)}"', "X-Repo-Commit": _commit(revision)}
        head |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if part := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            head["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        self._send(status, body, head)

    def _json(self, content, status=200, **head):
        head["Content-Type"] = "application/json"
        self._send(status, json.dumps(content).encode(), head)

    def _refuse(self, status, code):
        head = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._json({"error": code}, status, **head)

    def _send(self, status, body, head):
        self.send_response(status)
        # A kept connection would outlive the server, and the next test would talk to this one's.
        head = {"Content-Length": str(len(body)), "Connection": "close", **head}
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _commit(revision):
    return revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else HEAD


def _tag(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(path, folder):
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": _tag(path), "size": path.stat().st_size}
