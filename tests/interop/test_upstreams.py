"""Upstreams that want tokens or accounts, or send their blobs from elsewhere: clients pull through the proxy as from any."""

from pathlib import Path

from tests.interop.harness.clients import crane_pull
from tests.interop.harness.containerd import containerd_2, missing
from tests.interop.harness.front import redirecting
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import PASSWORD, USER, Image, accounts, htpasswd, registry, token
from tests.interop.harness.rights import everybody
from tests.interop.harness.tokens import token_server

ACCOUNT = """
[upstream."{source}"]
urls = ["{url}"]
repositories = ["library/*"]
redirect_hosts = ["127.0.0.2"]
realms = ["127.0.0.1"]
account = {{ username = "{user}", password = "{password}" }}
"""


def with_account(file: Path, url: str) -> tuple[str, Path]:
    """The arguments that give the proxy its own account at an upstream."""
    file.write_text(ACCOUNT.format(source=SOURCE, url=url, user=USER, password=PASSWORD), encoding="utf-8")
    return ("--config", file)


def pull_both_ways(address: str, image: Image, work: Path) -> None:
    """Pulls by path prefix with crane and through hosts.toml with containerd, and compares every blob."""
    copied = crane_pull(f"{address}/{SOURCE}/{image.repository}:latest", work / "crane")
    assert missing(copied, image.digests) == "{}"
    with containerd_2(work / "c", {SOURCE: f"http://{address}"}) as containerd:
        containerd.pull(f"{SOURCE}/{image.repository}:latest")
        assert missing(containerd.blobs(), image.digests) == "{}"


def test_anonymous_tokens(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """A registry that wants anonymous tokens, as Docker Hub does, is pulled from; tokens are asked for its own names."""
    with (
        token_server(work, everybody({USER: PASSWORD}, anonymous=True)) as tokens,
        registry(storage, work, token(work, tokens.realm)) as address,
        registry_proxy(work / "proxy", {SOURCE: f"http://{address}"}) as proxy,
    ):
        pull_both_ways(proxy.address, pushed["py"], work)
        scopes = {scope for query in tokens.asked for scope in query.get("scope", [])}
        assert scopes == {"repository:library/py:pull"}
        assert len(tokens.asked) <= 2  # one, and perhaps one more for a second connection at the start


def test_tokens_for_an_account(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """The proxy's own account is used to get tokens, and no client needs to know it."""
    with (
        token_server(work, everybody({USER: PASSWORD}, anonymous=False)) as tokens,
        registry(storage, work, token(work, tokens.realm)) as address,
        registry_proxy(work / "proxy", {}, *with_account(work / "p.toml", f"http://{address}")) as proxy,
    ):
        pull_both_ways(proxy.address, pushed["tiny"], work)
        assert PASSWORD not in proxy.log


def test_basic_account(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """The proxy's own account is used at a registry with Basic authentication."""
    with (
        registry(storage, work, htpasswd(work)) as address,
        registry_proxy(work / "proxy", {}, *with_account(work / "p.toml", f"http://{address}")) as proxy,
    ):
        pull_both_ways(proxy.address, pushed["tiny"], work)
        assert PASSWORD not in proxy.log


def test_blobs_on_another_host(upstream: str, pushed: dict[str, Image], work: Path) -> None:
    """Blobs are followed to the host they are redirected to, which never sees the account."""
    image = pushed["py"]
    with (
        redirecting(upstream, work, accounts(work)) as site,
        registry_proxy(work / "proxy", {}, *with_account(work / "p.toml", site.url)) as proxy,
    ):
        pull_both_ways(proxy.address, image, work)
        followed = [request for request in site.requests() if "signature=" in request.uri]
        assert {request.status for request in followed} <= {200, 206}
        assert {
            digest for digest in image.layer_digests if any(digest in seen.uri for seen in followed)
        } == image.layer_digests
