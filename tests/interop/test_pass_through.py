"""Container tools log in through the proxy with their credentials at a real registry, and pull what it gives them."""

import contextlib
import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.harness.clients import dockerd, hashes, podman
from tests.interop.harness.containerd import Containerd, containerd_1, containerd_2, lazy_containerd, missing
from tests.interop.harness.front import front, redirecting
from tests.interop.harness.guarded import exchange, guarded
from tests.interop.harness.login import Client
from tests.interop.harness.process import Failure, call, free_port, isolated, wait_for
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image, accounts, htpasswd, registry, token
from tests.interop.harness.rights import Rights
from tests.interop.harness.tokens import token_server
from tests.setup.programs import program

CONFIG = """
default_upstreams = false
[policy]
verdict = "{verdict}"
[upstream."{source}"]
urls = ["{url}"]
access = "pass-through"
listen = ["{listener}"]
redirect_hosts = ["127.0.0.2"]
"""
ALICE, BOB, GUESS = ("alice", "wonder-land"), ("bob", "builder-bob"), ("alice", "guessed")
OVERHEAD = 1.02
NUMPY = ("/usr/bin/python3", "-c", "import numpy; print(int(numpy.arange(10).sum()))")


@dataclass
class Passing:
    """The proxy before a registry that asks its clients to log in. `listener`: the upstream's own host:port; `url`: of the registry;
    `strangers`: who is refused there."""

    proxy: Proxy
    listener: str
    url: str
    strangers: list[tuple[str, str]]


def with_tokens(storage: Path, work: Path, stack: ExitStack) -> str:
    """The host:port of a registry with a token server, where alice may pull what the tests pull, and bob something else."""
    rights = Rights(dict([ALICE, BOB]))
    rights.allow("alice", "library/*")
    rights.allow("bob", "elsewhere/*")
    tokens = stack.enter_context(token_server(work, rights))
    return stack.enter_context(registry(storage, work, token(work, tokens.realm)))


def with_passwords(storage: Path, work: Path, stack: ExitStack) -> str:
    """The host:port of a registry that wants alice's password."""
    return stack.enter_context(registry(storage, work, htpasswd(work, *ALICE)))


@contextlib.contextmanager
def proxy_before(url: str, work: Path, verdict: str = "60s", *more: str) -> Iterator[tuple[Proxy, str]]:
    """The proxy, and where the upstream's own listener is."""
    listener, file = f"127.0.0.1:{free_port()}", work / "proxy.toml"
    file.write_text(CONFIG.format(source=SOURCE, url=url, listener=listener, verdict=verdict), encoding="utf-8")
    with registry_proxy(work / "proxy", {}, "--config", file, *more) as proxy:
        yield proxy, listener


@pytest.fixture(params=[with_tokens, with_passwords], ids=["tokens", "passwords"])
def passing(request: pytest.FixtureRequest, storage: Path, pushed: dict[str, Image], work: Path) -> Iterator[Passing]:
    """The proxy before a registry of each kind, with a counter between; at the end no password is in its log or its store."""
    assert pushed
    with ExitStack() as stack:
        site = stack.enter_context(front(request.param(storage, work, stack), work))
        proxy, listener = stack.enter_context(proxy_before(site.url, work))
        yield Passing(proxy, listener, site.url, [BOB, GUESS])
        assert site.sent() <= OVERHEAD * pushed["py"].size + 50_000  # two pulls, one download
        kept = b"".join(
            file.read_bytes() for file in proxy.store.rglob("*") if file.is_file() and file.stat().st_size < 1 << 24
        )
        for name, password in (ALICE, BOB):
            secret = b64encode(f"{name}:{password}".encode()).decode()
            assert not any(each in proxy.log or each.encode() in kept for each in (password, secret))


def by_containerd(containerd: Containerd, reference: str, user: tuple[str, str] | None = None) -> None:
    """A pull with hosts.toml, and with these credentials."""
    shown = ("--user", ":".join(user)) if user else ()
    words = ("--hosts-dir", str(containerd.root / "hosts"), "--platform", "linux/amd64", *shown)
    containerd.call("images", "pull", *words, reference)


@pytest.mark.parametrize("version", ["1.6", "2"])
def test_containerd(version: str, passing: Passing, pushed: dict[str, Image], work: Path) -> None:
    """containerd pulls with credentials of the upstream through hosts.toml, cold and warm; with others', or none, it gets nothing."""
    image, start = pushed["py"], containerd_1 if version == "1.6" else containerd_2
    reference = f"{SOURCE}/{image.repository}:latest"
    for temperature in ("cold", "warm"):
        with start(work / temperature, {SOURCE: passing.proxy.url}) as containerd:
            for user in (None, *passing.strangers):
                with pytest.raises(Failure):
                    by_containerd(containerd, reference, user)
            assert not containerd.blobs()
            by_containerd(containerd, reference, ALICE)
            assert missing(containerd.blobs(), image.digests) == "{}"


def test_containerd_by_path(passing: Passing, pushed: dict[str, Image], work: Path) -> None:
    """containerd pulls under the proxy's own name, with the source host as the start of the path."""
    image = pushed["py"]
    with containerd_2(work / "one", {}) as containerd:
        reference = f"{passing.proxy.address}/{SOURCE}/{image.repository}:latest"
        for user in (None, *passing.strangers):
            with pytest.raises(Failure):
                containerd.call("images", "pull", "--plain-http", "--platform", "linux/amd64", *_shown(user), reference)
        containerd.call("images", "pull", "--plain-http", "--platform", "linux/amd64", *_shown(ALICE), reference)
        assert missing(containerd.blobs(), image.digests) == "{}"


def test_podman(passing: Passing, pushed: dict[str, Image], work: Path) -> None:
    """podman logs in at the upstream's own listener and pulls through it as a mirror, cold and warm."""
    image = pushed["py"]
    reference = f"{SOURCE}/{image.repository}:latest"
    for temperature in ("cold", "warm"):
        with podman(work / temperature, SOURCE, passing.listener, mirror=passing.listener) as client:
            file = work / temperature / "auth.json"

            def login(user: tuple[str, str], file: Path = file) -> None:
                where = ("--authfile", str(file), "--tls-verify=false", passing.listener)
                client.call("login", "--username", user[0], "--password", user[1], *where)

            with pytest.raises(Failure):
                login(GUESS)
            with pytest.raises(Failure):
                client.call("pull", "--quiet", reference)
            login(ALICE)
            client.call("pull", "--quiet", "--authfile", str(file), reference)
            assert client.diff_ids(reference) == image.diff_ids


def test_skopeo_and_crane(passing: Passing, pushed: dict[str, Image], work: Path) -> None:
    """skopeo with --src-creds, and crane with what `docker login` leaves, copy by the upstream's own listener."""
    image = pushed["py"]
    reference = f"{passing.listener}/{image.repository}:latest"

    def skopeo(target: Path, user: tuple[str, str] | None) -> None:
        shown = ("--src-creds", ":".join(user)) if user else ()
        words = ("--insecure-policy", "--quiet", "--preserve-digests", "--src-tls-verify=false", *shown)
        call(*isolated("skopeo", "copy", *words, f"docker://{reference}", f"dir:{target}"))

    def crane(target: Path, user: tuple[str, str] | None) -> None:
        docker = docker_config(target.with_suffix(".docker"), passing.listener, user)
        words = ("pull", "--insecure", "--format=oci", reference, target)
        call(program("crane"), *words, environment={"DOCKER_CONFIG": str(docker)})

    for tool in (skopeo, crane):
        for user in (None, *passing.strangers):
            with pytest.raises(Failure):
                tool(work / "none", user)
    skopeo(work / "skopeo", ALICE)
    assert (
        missing(hashes(file for file in (work / "skopeo").iterdir() if file.name != "version"), image.digests) == "{}"
    )
    crane(work / "crane", ALICE)
    assert missing(hashes((work / "crane" / "blobs" / "sha256").iterdir()), image.digests) == "{}"


def test_docker(passing: Passing, pushed: dict[str, Image], work: Path) -> None:
    """dockerd pulls under the name of the upstream's own listener, after `docker login` there."""
    image = pushed["py"]
    reference = f"{passing.listener}/{image.repository}:latest"
    with dockerd(work / "docker", passing.proxy.url) as docker:
        settings = ("--config", str(work / "config"))
        for user in (None, *passing.strangers):
            docker_config(work / "config", passing.listener, user)
            with pytest.raises(Failure):
                docker.call(*settings, "pull", "--quiet", reference)
        docker_config(work / "config", passing.listener, None)
        with pytest.raises(Failure):
            docker.call(*settings, "login", "--username", GUESS[0], "--password", GUESS[1], passing.listener)
        docker.call(*settings, "login", "--username", ALICE[0], "--password", ALICE[1], passing.listener)
        docker.call(*settings, "pull", "--quiet", reference)
        assert docker.inspect(reference)["RootFS"]["Layers"] == image.diff_ids


def test_workers(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """Where several processes serve, crane pulls by its own credentials, again and again, and others' get nothing from any of them."""
    image = pushed["tiny"]
    with ExitStack() as stack:
        url = "http://" + with_tokens(storage, work, stack)
        proxy, listener = stack.enter_context(proxy_before(url, work, "60s", "--workers", "2"))
        configs = {user: docker_config(work / user[1], listener, user) for user in (ALICE, BOB)}

        def manifest(user: tuple[str, str]) -> str:
            words = ("manifest", "--insecure", f"{listener}/{image.repository}:latest")
            return call(program("crane"), *words, environment={"DOCKER_CONFIG": str(configs[user])})

        for _ in range(6):
            assert json.loads(manifest(ALICE))["layers"]
            with pytest.raises(Failure):
                manifest(BOB)
        assert not any(user[1] in proxy.log for user in configs)


def _shown(user: tuple[str, str] | None) -> tuple[str, ...]:
    return ("--user", ":".join(user)) if user else ()


def docker_config(directory: Path, host: str, user: tuple[str, str] | None) -> Path:
    """A directory as `docker login` leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    auths = {host: {"auth": b64encode(":".join(user).encode()).decode()}} if user else {}
    (directory / "config.json").write_text(json.dumps({"auths": auths}), encoding="utf-8")
    return directory


def test_stargz(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """The stargz snapshotter starts a container lazily with the credentials in its docker configuration."""
    image = pushed["py-esgz"]
    reference = f"{SOURCE}/{image.repository}:latest"
    with ExitStack() as stack:
        proxy, _ = stack.enter_context(proxy_before("http://" + with_tokens(storage, work, stack), work))
        docker = docker_config(work / "docker", proxy.address, ALICE)
        lazy = stack.enter_context(lazy_containerd(work / "one", SOURCE, proxy.address, docker=docker))
        words = ("--hosts-dir", str(lazy.root / "hosts"), "--snapshotter", "stargz", "--platform", "linux/amd64")
        lazy.call("images", "pull", *words, *_shown(ALICE), reference)
        assert len(lazy.remote_mounts()) == len(image.layer_digests)
        assert lazy.run(reference, "numpy", *NUMPY).split() == ["45"]


def test_redirects_show_nothing(upstream: str, pushed: dict[str, Image], work: Path) -> None:
    """Storage that blobs are redirected to, and that refuses credentials, is shown none: the pull succeeds."""
    image = pushed["tiny"]
    with (
        redirecting(upstream, work, accounts(work, *ALICE)) as site,
        proxy_before(site.url, work) as (_, listener),
    ):
        docker = docker_config(work / "docker", listener, ALICE)
        words = ("pull", "--insecure", "--format=oci", f"{listener}/{image.repository}:latest", work / "crane")
        call(program("crane"), *words, environment={"DOCKER_CONFIG": str(docker)})
        assert missing(hashes((work / "crane" / "blobs" / "sha256").iterdir()), image.digests) == "{}"
        assert 307 in {request.status for request in site.requests()}
        assert 400 not in {request.status for request in site.requests()}


# --- what holds how long -------------------------------------------------------------------------------------------------


def test_a_revoked_user_is_out_when_the_token_ends(work: Path) -> None:
    """Of a token that lives four seconds no yes lives longer, whatever the policy allows; until then it serves what is here."""
    rights = Rights(dict([ALICE]))
    rights.allow("alice", "private/*")
    with guarded(work, rights) as site, proxy_before(site.url, work, "5m") as (proxy, _):
        secret = site.push("private/secret", 1)
        path = f"{proxy.url}/v2/{SOURCE}/private/secret/blobs/{secret.layer_digest}"
        site.tokens.lifetime, site.tokens.exact = 4, True
        client = Client(*ALICE)
        shown = client.login(exchange("GET", path))
        until = time.monotonic() + 4
        assert exchange("GET", path, shown).body == secret.layer
        rights.revoke("alice", "private/*")
        asked = len(site.tokens.asked)
        while (answer := exchange("GET", path, shown)).status == 200:
            assert answer.body == secret.layer
            assert time.monotonic() < until + 2
        assert answer.status == 401
        assert len(site.tokens.asked) == asked
        assert client.get(path).status == 401
        assert client.get(f"{proxy.url}/v2/{SOURCE}/private/secret/manifests/latest").status == 401


def test_a_revoked_password_is_out_within_the_policys_limit(
    work: Path, storage: Path, pushed: dict[str, Image]
) -> None:
    """Where the upstream wants passwords, who is struck from its list is out when the last yes ends."""
    digest = next(iter(pushed["tiny"].layer_digests))
    with (
        registry(storage, work, htpasswd(work, *ALICE)) as address,
        proxy_before(f"http://{address}", work, "3s") as (proxy, _),
    ):
        path = f"{proxy.url}/v2/{SOURCE}/library/tiny/blobs/{digest}"
        client = Client(*ALICE)
        assert client.get(path).status == 200
        accounts(work, "somebody", "else")
        wait_for(
            "the registry to read its list", lambda: exchange("GET", f"http://{address}/v2/", client.own).status == 401
        )
        until = time.monotonic() + 3
        while client.get(path).status == 200:
            assert time.monotonic() < until + 1
        assert client.get(path).status == 401


def test_without_the_registry(work: Path) -> None:
    """While the registry is away, a yes that lives serves what is here; whoever has none gets 503, and so does everybody after a restart."""
    rights = Rights(dict([ALICE, BOB]))
    rights.allow("alice", "private/*")
    with ExitStack() as away:
        site = away.enter_context(guarded(work, rights))
        with proxy_before(site.url, work) as (proxy, _):
            secret = site.push("private/secret", 1)
            path = f"{proxy.url}/v2/{SOURCE}/private/secret/blobs/{secret.layer_digest}"
            shown, later, bob = (Client(*user).login(exchange("GET", path)) for user in (ALICE, ALICE, BOB))
            assert exchange("GET", path, shown).body == secret.layer
            proxy.process.stop()
            proxy.start()
            assert exchange("GET", path, bob).status == 401
            assert exchange("GET", path, shown).body == secret.layer
            away.close()
            assert exchange("GET", path, shown).body == secret.layer
            for user in (later, {}):
                refused = exchange("GET", path, user)
                assert (refused.status, secret.layer[:32] in refused.body) == (503, False)
            proxy.process.stop()
            proxy.start()
            assert exchange("GET", path, shown).status == 503
