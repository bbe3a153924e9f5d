"""Verbs that talk to an instance behind TLS."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from registry_proxy.cli import main
from registry_proxy.cli.clients import mirrors
from registry_proxy.cli.options import server_url
from registry_proxy.config import Config, Server, Store, Tls, Upstream
from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import SourceHost
from tests.cli.conftest import Canned, FakeInstance, _handler
from tests.fakes.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(fake: FakeInstance, authority: Authority) -> Iterator[str]:
    """The URL of the fake instance, behind TLS."""
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake)) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def config(*listen: str, **server: object) -> Config:
    upstreams = {SourceHost("a.example"): Upstream(urls=("https://a.example",), listen=("unix:/a.sock",))}
    return Config(store=Store(path=Path("/store")), upstreams=upstreams, server=Server(listen=listen, **server))  # type: ignore[arg-type]


def test_stats_of_a_private_ca(
    fake: FakeInstance, secure: str, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """--ca names who signs the instance's certificate."""
    fake.put("/stats", Canned(json.dumps({"version": "1"}).encode()))
    assert main.run(["stats", "--server", secure, "--ca", str(authority.ca), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": "1"}


def test_an_unknown_ca_is_told(fake: FakeInstance, secure: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it, the line says that the certificate is not trusted, and nothing is asked."""
    assert main.run(["stats", "--server", secure]) == 1
    error = capsys.readouterr().err
    assert "certificate verify failed" in error
    assert "--ca FILE" in error
    assert not fake.asked


@pytest.mark.parametrize("verb", [("warm",), ("publish", "--to", "tree")])
def test_an_unknown_ca_starts_no_instance_beside_the_running_one(
    verb: tuple[str, ...],
    secure: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the configured instance answers with a certificate that is not trusted, that is told; its store is not touched."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "proxy.toml"
    tls = "[server.tls]\ncertificate = 'a.crt'\nkey = 'a.key'\n"
    file.write_text(f"[server]\nlisten = ['{secure.partition('://')[2]}']\n{tls}[store]\npath = 'store'\n")
    assert main.run([*verb, "alpine", "--config", str(file)]) == 1
    assert "certificate verify failed" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("verb", [("warm",), ("publish", "--to", "tree"), ("lazy", "ls")])
def test_every_verb_that_reads_images_takes_a_ca(
    verb: tuple[str, ...],
    fake: FakeInstance,
    secure: str,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --ca each of them gets through, to be told that there is no such image."""
    monkeypatch.chdir(tmp_path)
    fake.put("/stats", Canned(json.dumps({"chunk_size": 1 << 20}).encode()))
    assert main.run([*verb, "alpine", "--server", secure, "--ca", str(authority.ca)]) == 1
    assert "404" in capsys.readouterr().err
    assert any("/manifests/latest" in path for path, _ in fake.asked)


def test_http_where_https_is_meant(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An instance without TLS that is asked over https is no riddle."""
    assert main.run(["stats", "--server", server.replace("http://", "https://")]) == 1
    assert "does it speak https?" in capsys.readouterr().err


def test_a_ca_that_is_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file that is not there, or holds no certificates, is a mistake on the command line."""
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("hello")
    for path in (tmp_path / "gone", rubbish):
        assert main.run(["stats", "--server", "https://127.0.0.1:1", "--ca", str(path)]) == 2
        assert f"--ca: {path}: " in capsys.readouterr().err


def test_where_the_instance_is() -> None:
    """The configuration says whether it is https; Unix sockets are passed over."""
    tls = Tls(Path("/a.crt"), Path("/a.key"))
    assert server_url(None, config("unix:/x.sock", ":5000")) == "http://127.0.0.1:5000"
    assert server_url(None, config(":5000", tls=tls)) == "https://127.0.0.1:5000"
    with pytest.raises(ConfigInvalid, match="--server"):
        server_url(None, config("unix:/x.sock"))


def test_clients_are_told_https() -> None:
    """A mirror behind TLS is not insecure; an upstream that has only a Unix socket of its own is reached as the others are."""
    [mirror] = mirrors(config(":5000"), "https://cache.example:5000")
    assert (mirror.url, mirror.insecure, mirror.own) == ("https://cache.example:5000", False, False)
