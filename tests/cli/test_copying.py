"""lazy convert --to: the image in an OCI layout, or pushed to a registry that may want a login."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_proxy.cli import main
from registry_proxy.oci.content import OCI_INDEX
from registry_proxy.oci.digest import Digest
from tests.cli.conftest import Canned, FakeInstance

REPOSITORY = "library/alpine"
LAYER = b"lazy layer" * 100_000
SHARED = b"of both platforms" * 1000


class Registry:
    """A registry that takes pushes, in the way of distribution: an upload is opened, then filled."""

    def __init__(self) -> None:
        self.url = ""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.log: list[tuple[str, str]] = []
        self.password: str | None = None
        self.bearer = False
        self.realm = ""
        self.lives = 1000
        self.says: tuple[int, bytes] | None = None

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        self.log.append((method, path))
        if (wanted := self._wanted(headers.get("Authorization"))) is not None:
            return 401, {"WWW-Authenticate": wanted}
        if method == "PUT" and self.says is not None:
            return self.says[0], {}
        repository, _, rest = path.removeprefix("/v2/").partition("/blobs/" if "/blobs/" in path else "/manifests/")
        if method == "HEAD":
            return (200 if rest in self.blobs else 404), {}
        if method == "POST":
            return 202, {"Location": f"/v2/{repository}/blobs/uploads/one?state=x"}
        if "/blobs/" in path:
            [digest] = query["digest"]
            assert query["state"] == ["x"]
            assert str(Digest.of(body)) == digest
            self.blobs[digest] = body
            return 201, {}
        parts = json.loads(body)
        for one in (*parts.get("manifests", ()), *parts.get("layers", ())):
            assert one["digest"] in self.blobs or one["digest"] in self.manifests
        self.manifests[rest] = (headers["Content-Type"], body)
        self.manifests[str(Digest.of(body))] = (headers["Content-Type"], body)
        return 201, {}

    def _wanted(self, shown: str | None) -> str | None:
        """The challenge, unless what was shown will do; a token is good for so many requests."""
        if self.password is None:
            return None
        if not self.bearer:
            return None if shown == basic("me", self.password) else 'Basic realm="tests"'
        if shown == "Bearer token" and self.lives:
            self.lives -= 1
            return None
        return f'Bearer realm="{self.realm}",service="tests"'


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that listens, and its own token server."""
    taken = Registry()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/token"):
                taken.log.append(("token", urlsplit(self.path).query))
                allowed = self.headers["Authorization"] == basic("me", taken.password or "")
                taken.lives = 3
                return self._say(200 if allowed else 401, {}, b'{"token": "token"}')
            status, headers = taken.answer(self.command, self.path, dict(self.headers), body)
            return self._say(status, headers, taken.says[1] if taken.says and self.command == "PUT" else b"")

        do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815 - the base class names them so

        def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        taken.url = f"http://127.0.0.1:{listening.server_port}"
        taken.realm = f"{taken.url}/token"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield taken
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def made(fake: FakeInstance) -> FakeInstance:
    """An instance whose image is lazy already, in two platforms that share a layer."""
    fake.put("/stats", Canned(json.dumps({"lazy": {"jobs": []}}).encode()))
    fake.image(REPOSITORY, "docker.io", [b"original"], "latest")
    images = {
        "linux/amd64": fake.image(REPOSITORY, "docker.io", [LAYER, SHARED]),
        "linux/arm64": fake.image(REPOSITORY, "docker.io", [SHARED, b"arm64"]),
    }
    fake.index(REPOSITORY, "docker.io", images, "latest-esgz")
    return fake


def copied(capsys: pytest.CaptureFixture[str], server: str, to: str) -> dict[str, object]:
    code = main.run(["lazy", "convert", "alpine", "--server", server, "--to", to, "--json"])
    [image] = json.loads(capsys.readouterr().out)["images"]
    assert code == (1 if image["error"] else 0)
    return image


def login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, password: str) -> None:
    auth = base64.b64encode(f"me:{password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}), encoding="utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def test_all_of_it_is_pushed_what_names_others_last(
    made: FakeInstance, server: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every platform, each blob once; the tag is set by the last request; a second time only manifests are pushed."""
    image = copied(capsys, server, registry.url)
    assert image["error"] is None
    assert image["bytes"] == sum(map(len, registry.blobs.values()))
    media_type, body = registry.manifests["latest-esgz"]
    assert (media_type, str(Digest.of(body))) == (OCI_INDEX, image["digest"])
    assert registry.log[-1] == ("PUT", f"/v2/{REPOSITORY}/manifests/latest-esgz")
    assert made.paths("blobs").count(str(Digest.of(SHARED))) == 1
    assert copied(capsys, server, registry.url)["bytes"] == 0


def test_a_repository_of_another_name(
    made: FakeInstance, server: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path of --to is the repository to push to."""
    assert copied(capsys, server, f"{registry.url}/mine/lazy")["error"] is None
    assert registry.log[-1] == ("PUT", "/v2/mine/lazy/manifests/latest-esgz")


@pytest.mark.parametrize("bearer", [False, True])
def test_the_login_of_docker(
    made: FakeInstance,
    server: str,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bearer: bool,
) -> None:
    """Basic credentials go to the registry, or to its token server for the right to push; a token that runs out is had anew."""
    registry.password, registry.bearer = "open", bearer
    login(monkeypatch, tmp_path, urlsplit(registry.url).netloc, "open")
    assert copied(capsys, server, registry.url)["error"] is None
    asked = [parse_qs(query) for kind, query in registry.log if kind == "token"]
    assert all(one == {"service": ["tests"], "scope": [f"repository:{REPOSITORY}:pull,push"]} for one in asked)
    assert len(asked) > 1 if bearer else not asked


@pytest.mark.parametrize("bearer", [False, True])
def test_a_wrong_password_is_told(
    made: FakeInstance,
    server: str,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bearer: bool,
) -> None:
    """Nothing is pushed, and who refused is said; the password is not."""
    registry.password, registry.bearer = "open", bearer
    login(monkeypatch, tmp_path, urlsplit(registry.url).netloc, "sesame")
    error = str(copied(capsys, server, registry.url)["error"])
    assert registry.url in error
    assert "refuses" in error
    assert "sesame" not in error
    assert not registry.manifests


def test_no_login_at_all(
    made: FakeInstance, server: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A registry that wants one is named, with the place where it is looked for."""
    registry.password = "open"
    assert "wants a login, and docker's configuration has none" in str(copied(capsys, server, registry.url)["error"])


def test_a_password_goes_to_no_strange_token_server(
    made: FakeInstance,
    server: str,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A registry that names a realm of another host gets no answer to its challenge."""
    registry.password, registry.bearer = "open", True
    registry.realm = registry.realm.replace("127.0.0.1", "127.0.0.2")
    login(monkeypatch, tmp_path, urlsplit(registry.url).netloc, "open")
    assert "another domain" in str(copied(capsys, server, registry.url)["error"])
    assert not [kind for kind, _ in registry.log if kind == "token"]


def test_what_the_registry_says_is_repeated(
    made: FakeInstance, server: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused blob is named with the registry's own reason; so is a registry that nobody runs."""
    registry.says = 413, json.dumps({"errors": [{"code": "SIZE_INVALID", "message": "quota"}]}).encode()
    error = str(copied(capsys, server, registry.url)["error"])
    assert "413 SIZE_INVALID: quota" in error
    assert "sha256:" in error
    assert "127.0.0.1:1" in str(copied(capsys, server, "http://127.0.0.1:1")["error"])


def test_a_layout_others_can_read(
    made: FakeInstance, server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every document and blob lies under its digest, the index under its tag; other tags stay, the same one is replaced."""
    root = tmp_path / "layout"
    image = copied(capsys, server, str(root))
    other = {"mediaType": OCI_INDEX, "digest": f"sha256:{'1' * 64}", "size": 2,
             "annotations": {"org.opencontainers.image.ref.name": "other"}}  # fmt: skip
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"].append(other)
    (root / "index.json").write_text(json.dumps(index), encoding="utf-8")
    assert copied(capsys, server, str(root))["bytes"] == 0
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    found = {
        one["annotations"]["org.opencontainers.image.ref.name"]: one
        for one in json.loads((root / "index.json").read_bytes())["manifests"]
    }
    assert found.keys() == {"latest-esgz", "other"}
    assert found["latest-esgz"]["digest"] == image["digest"]
    files = list((root / "blobs" / "sha256").iterdir())
    assert len(files) == 3 + 4  # index and two manifests; a config that both share, three layers
    assert all(Digest.of(file.read_bytes()).hex == file.name for file in files)


def test_a_directory_of_something_else_is_left_alone(
    made: FakeInstance, server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--to names a layout or nothing yet; a blob that came wrong is not kept."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_bytes(b"mine")
    words = ["lazy", "convert", "alpine", "--server", server, "--to"]
    assert main.run([*words, str(tmp_path / "thesis")]) == 1
    assert "neither empty nor an OCI layout" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["text"]
    path = f"/v2/{REPOSITORY}/blobs/{Digest.of(LAYER)}?ns=docker.io"
    made.put(path, Canned(LAYER[::-1]))
    assert "what came is not" in str(copied(capsys, server, str(tmp_path / "new"))["error"])
    assert not (tmp_path / "new" / "blobs" / "sha256" / Digest.of(LAYER).hex).exists()
    assert not list((tmp_path / "new").rglob(".new-*"))
