"""A small hub on loopback: as much of the Hugging Face hub as its clients use here.

It keeps repositories in memory, and can be made to fail as a network does:

    hub.fail("PUT /lfs", "503", "cut")  # the next two such requests

``503`` answers that, ``cut`` hangs up in the middle of the body, ``lost`` does what was asked and
hangs up without an answer. Uploads of large files go through Git LFS, as in clients without Xet.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret-of-the-tests"
_LARGE = (".safetensors", ".onnx", ".png")


@dataclass
class Blob:
    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> str:
        oid = hashlib.sha1(f"{len(self.titles)} {title}".encode()).hexdigest()
        self.titles.append(title)
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        known = self.branches | self.tags | {oid: oid for oid in self.commits}
        return known.get(revision)


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def fail(self, request: str, *how: str) -> None:
        self.failures += [(request, kind) for kind in how]

    def failure(self, request: str) -> str | None:
        for n, (pattern, kind) in enumerate(self.failures):
            if re.search(pattern, request):
                del self.failures[n]
                return kind
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        with self.server.lock:
            self.server.requests.append(request)
            failure = self.server.failure(request)
        if failure == "cut":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return
        body = self.body()
        if failure == "503":
            self.answer(503, {"error": "the hub is busy"})
            return
        with self.server.lock:
            status, content, headers = self.route(path, body)
        if failure == "lost":
            self.close_connection = True
        else:
            self.answer(status, content, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        for pattern, action, needs_token in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                repository = self.server.repositories.get(match.groupdict().get("repo", ""))
                if not known and (needs_token or (repository and repository.private)):
                    message = "Invalid username or password."
                    return 401, {"error": message}, {"X-Error-Message": message}
                if "repo" in match.groupdict():
                    if repository is None:
                        return 404, {"error": "gone"}, {"X-Error-Code": "RepoNotFound"}
                    return action(self, repository, match, body)
                return action(self, match, body)
        return 404, {"error": f"no such route: {self.command} {path}"}, {}

    # --- routes: each returns status, content, headers ---

    def create(self, match: re.Match, body: bytes):
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        described = {"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}
        if name in self.server.repositories:
            return 409, described | {"error": "You already created this model repo"}, {}
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit("main", {".gitattributes": Blob(b"* text\n", False)}, "initial commit")
        self.server.repositories[name] = repository
        return 200, described, {}

    def validate(self, match: re.Match, body: bytes):
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        errors = [] if front else [{"message": "no metadata"}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}, {}

    def info(self, repository: Repository, match: re.Match, body: bytes):
        oid = repository.resolve(match["rev"] or "main")
        if oid is None:
            return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
        files = repository.commits[oid]
        siblings = [{"rfilename": name} for name in files]
        info = {"id": match["repo"], "sha": oid, "private": repository.private}
        return 200, info | {"siblings": siblings}, {}

    def tree(self, repository: Repository, match: re.Match, body: bytes):
        files = repository.commits[repository.resolve(match["rev"])]
        entries = [
            {"type": "file", "path": name, "size": len(blob.content), "oid": blob.oid}
            for name, blob in files.items()
        ]
        return 200, entries, {}

    def branch(self, repository: Repository, match: re.Match, body: bytes):
        if match["name"] in repository.branches:
            return 409, {"error": "it exists"}, {}
        repository.branches[match["name"]] = repository.branches["main"]
        return 200, {}, {}

    def refs(self, repository: Repository, match: re.Match, body: bytes):
        def described(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": o} for n, o in refs.items()
            ]

        return (
            200,
            {
                "branches": described("heads", repository.branches),
                "tags": described("tags", repository.tags),
                "converts": [],
            },
            {},
        )

    def tag(self, repository: Repository, match: re.Match, body: bytes):
        name = json.loads(body)["tag"]
        if name in repository.tags:
            return 409, {"error": "the tag exists"}, {}
        repository.tags[name] = repository.resolve(match["rev"])
        return 200, {}, {}

    def preupload(self, repository: Repository, match: re.Match, body: bytes):
        present = repository.commits[repository.resolve(match["rev"])]
        files = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(_LARGE)
            blob = present.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": blob.oid if blob else None,
                }
            )
        return 200, {"files": files}, {}

    def batch(self, repository: Repository, match: re.Match, body: bytes):
        objects = []
        for wanted in json.loads(body)["objects"]:
            place = {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}", "header": {}}
            known = wanted["oid"] in self.server.large
            objects.append(wanted if known else wanted | {"actions": {"upload": place}})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def upload(self, match: re.Match, body: bytes):
        if hashlib.sha256(body).hexdigest() != match["oid"]:
            return 400, {"error": "the content is another"}, {}
        self.server.large[match["oid"]] = body
        return 200, b"", {}

    def commit(self, repository: Repository, match: re.Match, body: bytes):
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repository.commits[repository.branches[match["rev"]]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(self.server.large[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        title = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        oid = repository.commit(match["rev"], files, title)
        url = f"{self.server.endpoint}/{match['repo']}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url}, {}

    def file(self, repository: Repository, match: re.Match, body: bytes):
        oid = repository.resolve(match["rev"])
        if oid is None:
            return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
        blob = repository.commits[oid].get(match["path"])
        headers = {"X-Repo-Commit": oid}
        if blob is None:
            return 404, {"error": "no such file"}, headers | {"X-Error-Code": "EntryNotFound"}
        headers |= {"ETag": f'"{blob.oid}"', "Content-Type": "application/octet-stream"}
        return 200, blob.content, headers


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [  # request, what it does, whether it needs a token
    (r"POST /api/repos/create", Handler.create, True),
    (r"POST /api/validate-yaml", Handler.validate, False),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.upload, False),  # as to S3: the address is the secret
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.batch, True),
    (rf"POST /api/models/{_REPO}/preupload/(?P<rev>.+)", Handler.preupload, True),
    (rf"POST /api/models/{_REPO}/commit/(?P<rev>.+)", Handler.commit, True),
    (rf"POST /api/models/{_REPO}/branch/(?P<name>.+)", Handler.branch, True),
    (rf"POST /api/models/{_REPO}/tag/(?P<rev>.+)", Handler.tag, True),
    (rf"GET /api/models/{_REPO}/refs", Handler.refs, False),
    (rf"GET /api/models/{_REPO}/tree/(?P<rev>[^/]+)", Handler.tree, False),
    (rf"GET /api/models/{_REPO}(/revision/(?P<rev>.+))?", Handler.info, False),
    (rf"(GET|HEAD) /{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Handler.file, False),
]
