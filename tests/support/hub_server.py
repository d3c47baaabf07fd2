"""A stand-in for the Hugging Face Hub: enough of its HTTP API for huggingface_hub's own client.

Model repositories with branches and commits in memory; small files inline, *.safetensors through
git LFS with a redirect to another path, as the Hub does it without Xet. One token, ``TOKEN``.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"
OWNER = "someone"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        whole = {**self.commits.get(self.head, {}), **files}
        text = repr((self.head, sorted(whole.items()))).encode()
        self.head = hashlib.sha1(text).hexdigest()
        self.commits[self.head] = whole
        return self.head

    def find(self, revision: str) -> str | None:
        found = self.head if revision == "main" else revision
        return found if found in self.commits else None


@dataclass
class Hub:
    """What the server holds, and every request that it got: (method, path)."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    claimed_bytes: int | None = None
    """What it says that a weights file has, where that is not the truth."""

    def add(self, name: str, files: dict[str, bytes], *, gated: bool = False) -> str:
        """A repository with one commit; its hash."""
        self.repositories[name] = Repository(gated=gated)
        return self.repositories[name].commit(files)

    def served(self) -> set[str]:
        """Names of the files that were asked for."""
        paths = [path for _, path in self.requests if "/resolve/" in path]
        return {path.split("/resolve/")[1].partition("/")[2] for path in paths}


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", body: object = None) -> None:
        self.status, self.code, self.body = status, code, body


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        try:
            body = self._body()
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+?)/([^/]+)", path):
                self._resolve(*found.groups())
            elif path.startswith("/objects/"):
                self._object(path.removeprefix("/objects/"), body)
            else:
                self._send_json(200, self._api(path, body))
        except RefusedError as refused:
            self._send_json(refused.status, refused.body or {}, {"X-Error-Code": refused.code})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._logged_in()):
            raise RefusedError(401, "RepoNotFound")
        if found.gated:
            raise RefusedError(403, "GatedRepo")
        return found

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        commit = repository.find(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound")
        content = repository.commits[commit].get(file)
        if content is None:
            raise RefusedError(404, "EntryNotFound")
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if file.endswith(".safetensors"):
            self.hub.objects[digest] = content
            size = self.hub.claimed_bytes or len(content)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
            # Another host, as the Hub's storage is: the client follows its own to the end.
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{elsewhere}/objects/{digest}"
            self._send(302, b"", headers)
        else:
            self._send(200, content, headers)

    def _object(self, digest: str, body: bytes) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == digest
            self.hub.objects[digest] = body
            self._send(200, b"", {})
        else:
            self._send(200, self.hub.objects[digest], {"ETag": f'"{digest}"'})

    def _api(self, path: str, body: bytes) -> Any:
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            if "license: unheard-of" in text:
                raise RefusedError(400, body={"errors": [{"message": '"license" must be one of'}]})
            return {"errors": [], "warnings": []}
        if not self._logged_in():
            raise RefusedError(401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            if asked["organization"] != OWNER:
                raise RefusedError(403)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                raise RefusedError(409, body={"url": f"{self.hub.url}/{name}"})
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository(private=private)
            return {"url": f"{self.hub.url}/{name}", "id": name}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return {"id": found[1], "sha": self._repository(found[1]).head}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self._repository(found[1])
            return {"files": [_upload_mode(file) for file in json.loads(body)["files"]]}
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return {"transfer": "basic", "objects": list(map(self._place, _objects(body)))}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            commit = self._repository(found[1]).commit(self._files(body))
            return {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{commit}", "commitOid": commit}
        raise AssertionError(f"the stand-in does not know {self.command} {path}")

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/objects/{asked['oid']}"
        return {**asked, "authenticated": True, "actions": {"upload": {"href": href}}}

    def _files(self, body: bytes) -> dict[str, bytes]:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert line["key"] == "header", line
        return files

    def _send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), {**kind, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _upload_mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _objects(body: bytes) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(body)["objects"]
    return objects
