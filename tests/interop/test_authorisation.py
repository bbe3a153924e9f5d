"""Who gets what, cell by cell: user, repository, what is asked for, cold or cached, access mode; before a real registry with tokens.

The registry has a private repository of alice's and a public one for every cell of its own, so that a cold one is cold. `EXPECTED` says
who may read what; a cell passes if those who may get the right bytes, and all others get a refusal without one of them.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop.conftest import short_directory
from tests.interop.harness.guarded import OWNER, Answer, Filled, Site, Stored, behind_passwords, exchange, guarded
from tests.interop.harness.login import Client
from tests.interop.harness.process import call
from tests.interop.harness.proxy import Proxy, registry_proxy
from tests.interop.harness.rights import Rights

CHUNK = 64 << 10
PASSWORDS = {"alice": "wonder-land", "bob": "builder-bob"}
USERS = {
    "nobody": Client(),
    "alice": Client("alice", PASSWORDS["alice"]),
    "bob": Client("bob", PASSWORDS["bob"]),
    "mallory": Client("alice", "guessed"),
    "alice, unasked": Client("alice", PASSWORDS["alice"], unasked=True),
}
KINDS = (
    "manifest by tag", "manifest by digest", "blob", "range", "config", "referrers", "tags", "chunk object", "chunk hashes",
)  # fmt: skip
REFUSED = {401, 403, 404}
CONFIG = """
[store]
chunk_size = {chunk}
[users]
htpasswd = "{users}"
[upstream."{source}"]
urls = ["{url}"]
{more}
"""
SOURCE = "guarded.example"
DIGEST = re.compile(rb"[0-9a-f]{64}")


def with_tokens(work: Path) -> AbstractContextManager[Filled]:
    """A registry where alice may read what is below `private/` and everybody what is below `open/`."""
    rights = Rights(dict(PASSWORDS), {"open/*"})
    rights.allow("alice", "private/*")
    return guarded(work, rights)


def with_passwords(work: Path) -> AbstractContextManager[Filled]:
    """A registry where alice may read everything and others nothing."""
    return behind_passwords(work, "alice", PASSWORDS["alice"])


@dataclass(frozen=True)
class Mode:
    """How the upstream is configured, and who may read a private and a public repository through it; `shared`: whether what is public
    may be given out as chunk objects, which go to clients without names; `site`: the registry behind it; `asked`: whose passwords its
    token server sees."""

    name: str
    config: str
    private: frozenset[str] = frozenset()
    public: frozenset[str] = frozenset(USERS)
    shared: bool = True
    site: Callable[[Path], AbstractContextManager[Filled]] = with_tokens
    asked: frozenset[str] = frozenset()


ACCOUNT = """
account = { username = "alice", password = "wonder-land" }
repositories = ["private/*"]
"""
LOCAL = """
access = "local"
account = { username = "alice", password = "wonder-land" }
readers = { alice = ["private/*"], "*" = ["open/*"] }
"""
HERE, ELSEWHERE = 'networks = ["127.0.0.0/8"]', 'networks = ["192.0.2.0/24", "unix"]'
ALICE, KNOWN = frozenset({"alice", "alice, unasked"}), frozenset({"alice", "alice, unasked", "bob"})
NOBODY: frozenset[str] = frozenset()
OURS = frozenset({"alice"})
PASS = 'access = "pass-through"'
EXPECTED = [
    Mode("open", ""),
    Mode("open with an account", ACCOUNT, frozenset(USERS), asked=OURS),
    Mode("open to other networks", ELSEWHERE, NOBODY, NOBODY, shared=False),
    Mode("local", LOCAL, ALICE, KNOWN, shared=False, asked=OURS),
    Mode("local by networks and users", LOCAL + HERE, ALICE, KNOWN, shared=False, asked=OURS),
    Mode("pass-through, tokens", PASS, ALICE, KNOWN | {"nobody"}, shared=False, asked=frozenset(PASSWORDS)),
    Mode("pass-through, passwords", PASS, ALICE, ALICE, shared=False, site=with_passwords),
]


@dataclass
class Setting:
    """A registry with repositories, and the proxy in front of it. `warm`: repositories that were pulled before, by who may."""

    mode: Mode
    site: Filled
    proxy: Proxy
    stored: dict[str, Stored] = field(default_factory=dict)
    warmed: set[str] = field(default_factory=set)
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def repository(self, visibility: str, name: str) -> Stored:
        """A repository with an image of its own."""
        path = f"{visibility}/{name}"
        if path not in self.stored:
            self.stored[path] = self.site.push(path, next(self.seeds))
        return self.stored[path]

    def warm(self, stored: Stored) -> None:
        """Everything of a repository is pulled once by somebody who may; nothing, if nobody may."""
        allowed = self.mode.public if stored.repository.startswith("open/") else self.mode.private
        users = sorted(allowed, key=lambda user: (user != "nobody", user))[:1]
        for user, kind in itertools.product(users, KINDS) if stored.repository not in self.warmed else ():
            ask(self.proxy, stored, kind, USERS[user])
        self.warmed.add(stored.repository)


@pytest.fixture(scope="module", params=EXPECTED, ids=lambda mode: mode.name)
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """The proxy in this mode, before its registry."""
    with (
        short_directory() as work,
        request.param.site(work) as site,
        registry_proxy(work / "proxy", {}, *configured(work, site, request.param.config)) as proxy,
    ):
        yield Setting(request.param, site, proxy)


def configured(work: Path, site: Filled, more: str) -> tuple[str, Path]:
    """The arguments that name a configuration file with this upstream."""
    users = work / "users"
    for user, password in PASSWORDS.items():
        call("htpasswd", *(["-b", "-B"] if users.exists() else ["-c", "-b", "-B"]), users, user, password)
    file = work / "proxy.toml"
    file.write_text(CONFIG.format(chunk=CHUNK, source=SOURCE, url=site.url, more=more, users=users), encoding="utf-8")
    return ("--config", file)


def ask(proxy: Proxy, stored: Stored, kind: str, client: Client) -> Answer:
    """What somebody is told who asks for this."""
    url, headers = request_for(stored, kind)
    return client.get(f"{proxy.url}{url}", headers)


def request_for(stored: Stored, kind: str) -> tuple[str, dict[str, str]]:
    """The path and headers of a request."""
    base = f"/v2/{SOURCE}/{stored.repository}"
    chunk = f"/chunks/v1/{stored.layer_digest.replace(':', '/')}/{CHUNK}"
    where = {"OCI-Namespace": SOURCE, "OCI-Repository": stored.repository}
    config = json.loads(stored.manifest)["config"]["digest"]
    requests: dict[str, tuple[str, dict[str, str]]] = {
        "manifest by tag": (f"{base}/manifests/latest", {}),
        "manifest by digest": (f"{base}/manifests/{stored.digest}", {}),
        "blob": (f"{base}/blobs/{stored.layer_digest}", {}),
        "range": (f"{base}/blobs/{stored.layer_digest}", {"Range": "bytes=70000-70099"}),
        "config": (f"{base}/blobs/{config}", {}),
        "referrers": (f"{base}/referrers/{stored.digest}", {}),
        "tags": (f"{base}/tags/list", {}),
        "chunk object": (f"{chunk}/0", where),
        "chunk hashes": (f"{chunk}/hashes", where),
    }
    return requests[kind]


def is_right(stored: Stored, kind: str, answer: Answer) -> bool:
    """Whether this is what the repository has."""
    if answer.status not in {200, 206}:
        return False
    match kind:
        case "manifest by tag" | "manifest by digest":
            return answer.body == stored.manifest
        case "blob":
            return answer.body == stored.layer
        case "range":
            return answer.body == stored.layer[70000:70100]
        case "config":
            return answer.body == stored.config
        case "referrers":
            return len(json.loads(answer.body)["manifests"]) == 1
        case "tags":
            return bool("latest" in json.loads(answer.body)["tags"])
        case "chunk object":
            return answer.body == stored.layer[:CHUNK]
        case _:
            return bool(json.loads(answer.body)["size"] == len(stored.layer))


def leaks(stored: Stored, answer: Answer) -> bool:
    """Whether an answer is none of a refusal's, or has 32 bytes in a row of a repository's content (digests apart: its asker has them)."""
    body = DIGEST.sub(b"", answer.body)
    contents = (DIGEST.sub(b"", content) for content in (stored.layer, stored.manifest, stored.config, stored.referrer))
    known = {content[at : at + 32] for content in contents for at in range(len(content) - 31)}
    return answer.status < 400 or any(body[at : at + 32] in known for at in range(len(body)))


def may(mode: Mode, user: str, stored: Stored, kind: str) -> bool:
    """Whether this cell is to be a yes. Chunk objects go to parents' clients, who have no names: public content only."""
    public = stored.repository.startswith("open/")
    if kind.startswith("chunk"):
        return public and mode.shared
    return user in (mode.public if public else mode.private)


def check(setting: Setting, user: str, stored: Stored, kind: str, *, cold: bool) -> None:
    answer = ask(setting.proxy, stored, kind, USERS[user])
    if kind == "chunk hashes" and cold and answer.status == 404:
        return  # nobody has verified this blob yet
    if may(setting.mode, user, stored, kind):
        assert is_right(stored, kind, answer), (answer.status, answer.body[:300])
    else:
        assert answer.status in REFUSED, (answer.status, answer.body[:300])
        assert not leaks(stored, answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("visibility", ["open", "private"])
def test_cold(setting: Setting, visibility: str, user: str, kind: str) -> None:
    """Of what the proxy has never seen, everybody gets what the registry would give them in this mode, and nothing else."""
    name = f"{user}-{kind}".replace(" ", "-").replace(",", "")
    check(setting, user, setting.repository(visibility, name), kind, cold=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("visibility", ["open", "private"])
def test_cached(setting: Setting, visibility: str, user: str, kind: str) -> None:
    """Of what others have pulled before, everybody gets the same as if nobody had."""
    stored = setting.repository(visibility, "cached")
    setting.warm(stored)
    check(setting, user, stored, kind, cold=False)


def test_passwords_go_nowhere(setting: Setting) -> None:
    """No password is in the log, and where the mode asks no client for one, none of theirs was sent to the registry's token server."""
    assert not any(password in setting.proxy.log for password in PASSWORDS.values())
    if isinstance(setting.site, Site):
        assert set(setting.site.tokens.who) <= {None, OWNER} | setting.mode.asked


def test_a_manifest_opens_nothing(setting: Setting) -> None:
    """Who pushes a manifest that names a private blob gets nothing of it, cached or not: what a manifest says is no proof."""
    for warm in (False, True):
        secret = setting.repository("private", f"named-{warm:d}")
        if warm:
            setting.warm(secret)
        thief = f"open/thief-{warm:d}"
        setting.site.claim(thief, secret)
        for user, path in itertools.product(("nobody", "bob", "alice"), (thief, f"open/other-{warm:d}")):
            base = f"{setting.proxy.url}/v2/{SOURCE}/{path}"
            status = USERS[user].get(f"{base}/manifests/latest").status
            assert status == (200 if path == thief else 404) if user in setting.mode.public else status in {401, 403}
            for headers in ({}, {"Range": "bytes=0-99"}):
                answer = USERS[user].get(f"{base}/blobs/{secret.layer_digest}", headers)
                assert answer.status in REFUSED
                assert not leaks(secret, answer)
            answer = USERS[user].get(f"{base}/manifests/{secret.digest}")
            assert answer.status in REFUSED
            chunk = f"{setting.proxy.url}/chunks/v1/{secret.layer_digest.replace(':', '/')}/{CHUNK}/0"
            answer = exchange("GET", chunk, {"OCI-Namespace": SOURCE, "OCI-Repository": path})
            assert answer.status in REFUSED
            assert not leaks(secret, answer)


@pytest.mark.parametrize("kind", ["blob", "range", "manifest by digest"])
def test_a_digest_alone_opens_nothing(setting: Setting, kind: str) -> None:
    """Through another repository, which its asker may read, a private digest is not found; without a source host neither, unless the
    asker may read the repository that has it."""
    secret, public = setting.repository("private", "cached"), setting.repository("open", "cached")
    setting.warm(secret)
    path, headers = request_for(secret, kind)
    for user, other in itertools.product(("nobody", "bob"), (public.repository, "library/alpine")):
        prefixes = [f"/v2/{SOURCE}/{other}"] + ([] if user in setting.mode.private else [f"/v2/{other}"])
        for prefix in prefixes:
            renamed = path.replace(f"/v2/{SOURCE}/{secret.repository}", prefix)
            answer = USERS[user].get(f"{setting.proxy.url}{renamed}", headers)
            assert answer.status >= 400, prefix
            assert not leaks(secret, answer)
