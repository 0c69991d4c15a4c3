"""A small hub on loopback: as much of the Hugging Face hub as ``HfApi.upload_folder`` uses.

Large files go through Git LFS, as from clients without Xet. ``hub.cut = "PUT /lfs"`` hangs up in
the middle of each such request.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret-of-the-tests"
_LARGE = (".safetensors", ".onnx", ".png")


@dataclass
class Repository:
    name: str
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    titles: list[str] = field(default_factory=lambda: ["initial commit"])
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        self.server.requests.append(request)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.cut and self.server.cut in request:
            self.close_connection = True
            return
        status, content = self.route(request, body)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = handle_request  # noqa: N815

    def route(self, request: str, body: bytes) -> tuple[int, object]:
        if match := re.fullmatch(r"PUT /lfs/(\w+)", request):  # as to S3: the address is the secret
            self.server.large[match[1]] = body
            return (200 if hashlib.sha256(body).hexdigest() == match[1] else 400), {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if request == "POST /api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if request == "POST /api/repos/create":
            return self.create(json.loads(body))
        match = re.match(r"\w+ (?:/api/models)?/([\w.-]+/[\w-]+)(?:\.git/info)?(/.*)?", request)
        repository = self.server.repositories[match[1]]
        action, _, rest = (match[2] or "/revision").lstrip("/").partition("/")
        return getattr(self, action)(repository, rest or "main", body)

    def create(self, wanted: dict) -> tuple[int, object]:
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if name in self.server.repositories else 200
        private = wanted.get("visibility") == "private"
        self.server.repositories.setdefault(name, Repository(name, private))
        return status, {"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}

    # --- what is asked of a repository: each returns status and content ---

    def revision(self, repository: Repository, rev: str, body: bytes) -> tuple[int, object]:
        number = repository.branches[rev]
        siblings = [{"rfilename": name} for name in repository.commits[number]]
        described = {"id": repository.name, "sha": f"{number:040x}", "private": repository.private}
        return 200, described | {"siblings": siblings}

    def tree(self, repository: Repository, rev: str, body: bytes) -> tuple[int, object]:
        files = repository.commits[repository.branches[rev]]
        return 200, [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(name, content)}
            for name, content in files.items()
        ]

    def branch(self, repository: Repository, name: str, body: bytes) -> tuple[int, object]:
        status = 409 if name in repository.branches else 200
        repository.branches.setdefault(name, repository.branches["main"])
        return status, {}

    def preupload(self, repository: Repository, rev: str, body: bytes) -> tuple[int, object]:
        present = repository.commits[repository.branches[rev]]
        files = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            mode = "lfs" if path.endswith(_LARGE) else "regular"
            oid = _oid(path, present[path]) if path in present else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}

    def lfs(self, repository: Repository, rest: str, body: bytes) -> tuple[int, object]:
        objects = []
        for wanted in json.loads(body)["objects"]:
            place = {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}", "header": {}}
            known = wanted["oid"] in self.server.large
            objects.append(wanted if known else wanted | {"actions": {"upload": place}})
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, repository: Repository, rev: str, body: bytes) -> tuple[int, object]:
        files = dict(repository.commits[repository.branches[rev]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.titles.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                del files[value["path"]]
        repository.branches[rev] = len(repository.commits)
        repository.commits.append(files)
        oid = f"{repository.branches[rev]:040x}"
        url = f"{self.server.endpoint}/{repository.name}/commit/{oid}"
        return 200, {"commitOid": oid, "commitUrl": url}


def _oid(name: str, content: bytes) -> str:
    if name.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
