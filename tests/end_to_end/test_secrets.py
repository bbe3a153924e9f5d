"""No password, token or signature of anybody's comes out anywhere, whatever goes wrong: log, figures, metrics, page, answers, store."""

import asyncio
import re
import sys
from pathlib import Path

import bcrypt
import pytest

from tests.end_to_end.test_pass_through import ALICE, BOB, LAYER, MALLORY, basic, login
from tests.fakes.instance import HOST
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Answer, Wire
from tests.interop.harness.process import Process, answers, free_port

USERS = (ALICE, BOB, MALLORY)
SECRETS = [secret for user in USERS for secret in (user[1], basic(user).rpartition(" ")[2])]
CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
[log]
level = "debug"
format = "{format}"
[store]
path = "{directory}/store"
[users]
htpasswd = "{directory}/users"
[upstream."{host}"]
urls = ["{url}"]
{access}
"""
ACCESS = {
    "pass-through": 'access = "pass-through"',
    "local": """access = "local"
readers = {{ robot = ["*"] }}
account = {{ username = "robot", password_file = "{directory}/password" }}""",
}
MISTAKES = {
    "pass-through": ["access.pass_through:PassThrough._ask", "access.questions:ask", "net.upstream:UpstreamClient._walk",
                     "access.token_relay:TokenRelay._relayed", "access.pass_through:PassThrough._admitted"],
    "local": ["access.users:Users.check", "net.upstream:UpstreamClient._walk", "net.auth:Authenticator._credential",
              "net.auth:Authenticator._fetch_token"],
}  # fmt: skip
"""Where a mistake of ours has credentials at hand."""

MISTAKEN = """
import functools, importlib, itertools, sys
from registry_proxy.cli import main

def mistaken(where, name):
    real, calls = getattr(where, name), itertools.count(1)

    def call(*arguments, **named):
        if next(calls) % 3 == 1:
            raise RuntimeError("a mistake in " + name)
        return real(*arguments, **named)

    setattr(where, name, call)

for path in sys.argv[1].split():
    module, _, rest = path.partition(":")
    *classes, name = rest.split(".")
    mistaken(functools.reduce(getattr, classes, importlib.import_module("registry_proxy." + module)), name)
sys.exit(main.run(sys.argv[2:]))
"""


def config(directory: Path, port: int, url: str, access: str, format_: str) -> Path:
    """The file of an instance before a registry that knows Alice; as whom it is asked, is the mode's business."""
    hashed = (
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n" for user, password in USERS[:2]
    )
    (directory / "users").write_text("".join(hashed))
    password = directory / "password"
    password.touch(0o600)
    password.write_text(ALICE[1])
    mode = ACCESS[access].format(directory=directory)
    file = directory / "config.toml"
    file.write_text(CONFIG.format(port=port, format=format_, directory=directory, host=HOST, url=url, access=mode))
    return file


async def said(port: int, paths: list[str]) -> list[Answer]:
    """Everything that an instance answers to three users, each of whom asks for everything twice, and to an onlooker."""
    found = []
    async with Wire(("127.0.0.1", port)) as wire:
        for user in USERS * 2:
            for path in paths:
                found.append(first := await wire.ask(path))
                shown = await login(wire, first.headers["WWW-Authenticate"], user) if first.status == 401 else None
                found += [await wire.ask(path, shown)] if shown else []
        return found + [await wire.ask(path) for path in ("/", "/stats", "/metrics", "/readyz", "/v2/")]


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize("access", ["pass-through", "local"])
async def test_nothing_secret_comes_out(upstream: FakeUpstream, access: str, format_: str, tmp_path: Path) -> None:
    """Right and wrong logins, blobs by signed URLs, refusals, and mistakes of ours whose tracebacks go to the log, at the level that says most."""
    upstream.auth, upstream.public_pull, upstream.strangers, upstream.redirect = "bearer", False, dict([BOB]), True
    upstream.add_image(layers=[LAYER], tag="v1", repository="private/app")
    blob = upstream.add_blob(LAYER, repository="private/app")
    paths = [f"/v2/private/app/{path}?ns={HOST}" for path in ("manifests/v1", "manifests/gone", f"blobs/{blob}")]
    port = free_port()
    serve = ("serve", "--config", config(tmp_path, port, upstream.url, access, format_))
    with Process(
        "registry-proxy", (sys.executable, "-c", MISTAKEN, " ".join(MISTAKES[access]), *serve), tmp_path
    ) as it:
        await asyncio.to_thread(it.ready_when, lambda: answers(f"http://127.0.0.1:{port}/v2/", 200, 401))
        shown = [answer.body + repr(answer.headers).encode() for answer in await said(port, paths)]
        await asyncio.to_thread(it.stop)
    log, names = it.log.read_bytes(), [re.split("[.:]", path)[-1] for path in MISTAKES[access]]
    assert [name for name in names if b"a mistake in " + name.encode() in log] == names
    kept = [file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert kept
    for secret in [*SECRETS, *upstream.tokens, upstream.signature]:
        assert not any(secret.encode() in each for each in (log, *kept, *shown)), secret
