"""The container tools log in at the proxy with a password of its own users, and pull what these may read."""

import contextlib
import json
import shutil
import signal
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.interop.harness.clients import hashes, podman
from tests.interop.harness.containerd import Containerd, containerd_1, containerd_2, missing
from tests.interop.harness.process import Failure, Process, call, free_port, isolated
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import PASSWORD, USER, Image, basic, htpasswd, registry
from tests.setup.programs import program

CONFIG = """
default_upstreams = false
[users]
htpasswd = "{users}"
[upstream."{source}"]
urls = ["{url}"]
access = "local"
readers = {{ alice = ["library/*"], bob = ["elsewhere/*"] }}
account = {{ username = "{user}", password = "{password}" }}
listen = ["{listener}"]
"""
SECURE = """
default_upstreams = false
[server.tls]
certificate = "{certificate}"
key = "{key}"
client_ca = "{ca}"
[upstream."{source}"]
urls = ["{url}"]
access = "local"
readers = {{ alice = ["library/*"] }}
"""
ALICE, BOB = ("alice", "wonder-land"), ("bob", "builder-bob")


@dataclass
class Local:
    """The proxy with users of its own before a registry with accounts. `listener`: the upstream's own host:port."""

    proxy: Proxy
    listener: str
    users: Path
    upstream: contextlib.ExitStack

    def gone(self) -> None:
        """The upstream is down from now on."""
        self.upstream.close()


@pytest.fixture
def local(request: pytest.FixtureRequest, storage: Path, pushed: dict[str, Image], work: Path) -> Iterator[Local]:
    """alice may read what the tests pull, bob something else; with so many processes (one, if a test says nothing)."""
    assert pushed
    users, listener = work / "proxy-users", f"127.0.0.1:{free_port()}"
    for name, password in (ALICE, BOB):
        call("htpasswd", *(["-b", "-B"] if users.exists() else ["-c", "-b", "-B"]), users, name, password)
    with contextlib.ExitStack() as upstream:
        url = "http://" + upstream.enter_context(registry(storage, work, htpasswd(work)))
        file = work / "proxy.toml"
        text = CONFIG.format(users=users, source=SOURCE, url=url, user=USER, password=PASSWORD, listener=listener)
        file.write_text(text, encoding="utf-8")
        with registry_proxy(
            work / "proxy", {}, "--config", file, "--workers", str(getattr(request, "param", 1))
        ) as proxy:
            yield Local(proxy, listener, users, upstream)
            assert not any(password in proxy.log for password in (ALICE[1], BOB[1], PASSWORD))


@pytest.fixture
def secure(upstream: str, pushed: dict[str, Image], work: Path) -> Iterator[tuple[str, Authority]]:
    """Where the proxy speaks https to clients with a certificate, and who signs those; alice may read, whoever she is by her certificate."""
    assert pushed
    authority, listener = Authority(work), f"127.0.0.1:{free_port()}"
    server = authority.issue("server")
    health, file = work / "health.sock", work / "proxy.toml"
    text = SECURE.format(
        source=SOURCE, url=f"http://{upstream}", certificate=server.certificate, key=server.key, ca=authority.ca
    )
    file.write_text(text, encoding="utf-8")
    words = ("serve", "--config", file, "--store", work / "store", "--listen", listener, "--listen", f"unix:{health}")
    with Process("registry-proxy", [sys.executable, "-m", "registry_proxy", *words], work) as process:
        process.ready_when(health.is_socket)
        yield listener, authority


def certificates(directory: Path, authority: Authority, name: str) -> Path:
    """A directory of what a client trusts and shows, as containers-certs.d(5) has it."""
    directory.mkdir()
    pair = authority.issue(name)
    for target, source in (("ca.crt", authority.ca), ("client.cert", pair.certificate), ("client.key", pair.key)):
        shutil.copy(source, directory / target)
    return directory


def auth_file(file: Path, host: str, user: tuple[str, str]) -> Path:
    """A file of credentials as `docker login` leaves it."""
    auth = b64encode(":".join(user).encode()).decode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}), encoding="utf-8")
    return file


def by_containerd(containerd: Containerd, image: Image, *user: str) -> None:
    """A pull with hosts.toml, and with these credentials."""
    shown = ("--user", ":".join(user)) if user else ()
    words = ("--hosts-dir", str(containerd.root / "hosts"), "--platform", "linux/amd64", *shown)
    containerd.call("images", "pull", *words, f"{SOURCE}/{image.repository}:latest")


@pytest.mark.parametrize("version", ["1.6", "2"])
def test_containerd(version: str, local: Local, pushed: dict[str, Image], work: Path) -> None:
    """containerd pulls with the right name and password through the proxy's common listener, cold and, with the upstream down, warm."""
    image, start = pushed["py"], containerd_1 if version == "1.6" else containerd_2
    for temperature in ("cold", "warm"):
        with start(work / temperature, {SOURCE: local.proxy.url}) as containerd:
            for user in ((), BOB, ("alice", "guessed")):
                with pytest.raises(Failure):
                    by_containerd(containerd, image, *user)
            assert not containerd.blobs()
            by_containerd(containerd, image, *ALICE)
            assert missing(containerd.blobs(), image.digests) == "{}"
        if temperature == "cold":
            local.gone()


def test_a_node_with_an_account(local: Local, pushed: dict[str, Image], work: Path) -> None:
    """containerd shows what its hosts.toml has for the proxy, without being asked, whoever pulls on that node."""
    image = pushed["py"]
    with containerd_2(work / "c", {SOURCE: local.proxy.url}) as containerd:
        hosts = work / "c" / "hosts" / SOURCE / "hosts.toml"
        plain = hosts.read_text(encoding="utf-8")
        for user, right in ((BOB, False), (ALICE, True)):
            hosts.write_text(
                f'{plain}[host."{local.proxy.url}".header]\n  Authorization = "{basic(*user)}"\n', encoding="utf-8"
            )
            with contextlib.nullcontext() if right else pytest.raises(Failure):
                by_containerd(containerd, image)
        assert missing(containerd.blobs(), image.digests) == "{}"


def test_podman(local: Local, pushed: dict[str, Image], work: Path) -> None:
    """podman logs in at the upstream's own listener, where `/v2/` asks it to, and pulls through it as a mirror, cold and warm."""
    image = pushed["py"]
    reference = f"{SOURCE}/{image.repository}:latest"
    for temperature in ("cold", "warm"):
        with podman(work / temperature, SOURCE, local.listener, mirror=local.listener) as client:
            file = work / temperature / "auth.json"

            def login(name: str, password: str, file: Path = file) -> None:
                where = ("--authfile", str(file), "--tls-verify=false", local.listener)
                client.call("login", "--username", name, "--password", password, *where)

            with pytest.raises(Failure, match="invalid username/password"):
                login("alice", "guessed")
            with pytest.raises(Failure):
                client.call("pull", "--quiet", reference)
            login(*BOB)
            with pytest.raises(Failure):
                client.call("pull", "--quiet", "--authfile", str(file), reference)
            login(*ALICE)
            client.call("pull", "--quiet", "--authfile", str(file), reference)
            assert client.diff_ids(reference) == image.diff_ids
        if temperature == "cold":
            local.gone()


def test_skopeo(local: Local, pushed: dict[str, Image], work: Path) -> None:
    """skopeo copies with the right credentials, by the upstream's own listener."""
    image = pushed["py"]

    def copy(target: Path, *shown: str) -> None:
        reference = f"docker://{local.listener}/{image.repository}:latest"
        words = ("--insecure-policy", "--quiet", "--preserve-digests", "--src-tls-verify=false", *shown)
        call(*isolated("skopeo", "copy", *words, reference, f"dir:{target}"))

    for shown in ((), ("--src-creds", ":".join(BOB)), ("--src-creds", "alice:guessed")):
        with pytest.raises(Failure):
            copy(work / "none", *shown)
    for temperature in ("cold", "warm"):
        target = work / temperature
        copy(target, "--src-creds", ":".join(ALICE))
        assert missing(hashes(file for file in target.iterdir() if file.name != "version"), image.digests) == "{}"
        local.gone()


def test_certificates(secure: tuple[str, Authority], pushed: dict[str, Image], work: Path) -> None:
    """With the certificate of a user who may read, skopeo copies and no password is asked for; with another's, or none, it gets nothing."""
    image, (listener, authority) = pushed["py"], secure

    def copy(target: Path, shown: Path) -> None:
        reference = f"docker://{listener}/{SOURCE}/{image.repository}:latest"
        words = ("--insecure-policy", "--quiet", "--preserve-digests", "--src-cert-dir", shown)
        call(*isolated("skopeo", "copy", *words, reference, f"dir:{target}"))

    with pytest.raises(Failure, match="bob may not read"):
        copy(work / "none", certificates(work / "bob.d", authority, "bob"))
    nameless = certificates(work / "nobody.d", authority, "nobody")
    (nameless / "client.cert").unlink()
    (nameless / "client.key").unlink()
    with pytest.raises(Failure, match="pinging container registry"):
        copy(work / "none", nameless)
    copy(work / "alice", certificates(work / "alice.d", authority, "alice"))
    assert missing(hashes(file for file in (work / "alice").iterdir() if file.name != "version"), image.digests) == "{}"


@pytest.mark.parametrize("local", [1, 2], ids=["one process", "workers"], indirect=True)
def test_crane(local: Local, pushed: dict[str, Image], work: Path) -> None:
    """crane pulls with what `docker login` has left."""
    image = pushed["py"]

    def pull(user: tuple[str, str], target: Path) -> None:
        auth_file(target.with_suffix(".docker") / "config.json", local.listener, user)
        environment = {"DOCKER_CONFIG": str(target.with_suffix(".docker"))}
        reference = f"{local.listener}/{image.repository}:latest"
        call(program("crane"), "pull", "--insecure", "--format=oci", reference, target, environment=environment)

    with pytest.raises(Failure, match="DENIED"):
        pull(BOB, work / "bob")
    with pytest.raises(Failure, match="UNAUTHORIZED"):
        pull(("alice", "guessed"), work / "guessed")
    pull(ALICE, work / "alice")
    assert missing(hashes((work / "alice" / "blobs" / "sha256").iterdir()), image.digests) == "{}"


@pytest.mark.parametrize("local", [1, 2], ids=["one process", "workers"], indirect=True)
def test_users_change(local: Local, pushed: dict[str, Image], work: Path) -> None:
    """After SIGHUP a changed file holds: who is no longer in it is out. A broken file changes nothing."""
    image = pushed["tiny"]
    process: Process = local.proxy.process

    def pull(user: tuple[str, str], name: str) -> None:
        docker = auth_file(work / name / "config.json", local.listener, user).parent
        reference = f"{local.listener}/{image.repository}:latest"
        call(program("crane"), "manifest", "--insecure", reference, environment={"DOCKER_CONFIG": str(docker)})

    def reload(event: str) -> None:
        before = local.proxy.log.count(event)
        process.signal(signal.SIGHUP)
        process.ready_when(lambda: local.proxy.log.count(event) > before)

    pull(ALICE, "before")
    local.users.write_text(local.users.read_text(encoding="utf-8") + "eve:unsalted\n", encoding="utf-8")
    reload("config.refused")
    pull(ALICE, "broken")
    call("htpasswd", "-c", "-b", "-B", local.users, "bob", "another")
    reload("config.reloaded")

    def is_out() -> bool:
        try:
            pull(ALICE, "out")
        except Failure as failure:
            return "UNAUTHORIZED" in str(failure)
        return False

    process.ready_when(is_out)  # several processes hear of it one after the other
    with pytest.raises(Failure, match="DENIED"):
        pull(("bob", "another"), "bob")
