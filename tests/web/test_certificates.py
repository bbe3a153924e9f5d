"""Users who are named by their certificates."""

from base64 import b64encode
from pathlib import Path

import pytest

from registry_proxy.access.gates import gates
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.users import Users
from registry_proxy.config import Tls, Upstream
from registry_proxy.oci.names import SourceHost
from tests.fakes.certificates import Authority
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import MemoryHeart, memory_blob

HOST = SourceHost("registry.test")
UPSTREAM = Upstream(("https://x.example",), access="local", readers={"alice": ("private/*",)})
PASSWORD = "Authorization: Basic " + b64encode(b"alice:guess").decode()


@pytest.mark.parametrize(("name", "status"), [("alice", 200), ("bob", 403)])
async def test_the_common_name_is_the_user(
    start: StartFace, heart: MemoryHeart, tmp_path: Path, name: str, status: int
) -> None:
    """What the certificate of the handshake says is believed for each request; a password that is sent besides must be right."""
    authority = Authority(tmp_path)
    server = authority.issue("server")
    blob = memory_blob(b"layer")
    heart.blobs[HOST, "private/app", str(blob.digest)] = blob
    passwords = Passwords(Users({}), 60, lambda: None)
    guard = gates({HOST: UPSTREAM}, passwords, {})
    face = await start(guard=guard, tls=Tls(server.certificate, server.key, authority.ca))
    path = f"/v2/private/app/blobs/{blob.digest}?ns={HOST}"
    async with Wire(face.addresses[0], authority.trust(authority.issue(name))) as wire:
        for _ in range(2):
            assert (await wire.ask(path)).status == status
            answer = await wire.ask(path, PASSWORD)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="registry-proxy"')
    await passwords.close()
