"""The proxy's own account at an upstream: from the configuration, docker's config.json, or docker's credential helpers."""

import asyncio
import base64
import binascii
import re
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiofiles
import msgspec

from registry_proxy.config import Account
from registry_proxy.errors import AccountRefused

_HELPER_TIMEOUT = 15.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_MAX_ANSWER = 64 * 1024
_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A name and password, or an identity token (which only a token server takes). Never shown."""

    username: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


async def load_credential(account: Account, host: str) -> Credential | None:
    """The credential of an account for a registry at ``host`` (``host[:port]``); None if docker's files have none for it.

    Raises AccountRefused if a file or helper cannot be used.
    """
    try:
        if account.docker_config is not None:
            return await _from_docker(account.docker_config, host)
        password = account.password
        if account.password_file is not None:
            password = (await _read(account.password_file)).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, binascii.Error) as error:
        raise AccountRefused(f"the account for {host} cannot be read: {error}") from error
    return Credential(account.username, password)


async def _from_docker(path: Path, host: str) -> Credential | None:
    config = msgspec.json.decode(await _read(path), type=_DockerConfig)
    for key in _keys(host):
        helper = config.cred_helpers.get(key)
        if helper:
            return await _ask_helper(helper, key)
    for key in _keys(host):
        if key in config.auths and (credential := _decode(config.auths[key])):
            return credential
    return await _ask_helper(config.creds_store, _keys(host)[0]) if config.creds_store else None


def _keys(host: str) -> list[str]:
    """The names under which docker login files a registry, likeliest first."""
    hosts = ["https://index.docker.io/v1/", *sorted(_HUB)] if host in _HUB else [host]
    return [
        *hosts,
        *(f"https://{each}{end}" for each in hosts if "//" not in each for end in ("", "/", "/v1/", "/v2/")),
    ]


def _decode(auth: _Auth) -> Credential | None:
    username, password = auth.username, auth.password
    if auth.auth:
        username, _, password = base64.b64decode(auth.auth, validate=True).decode().partition(":")
        password = password.rstrip("\0")
    if not (username or auth.identitytoken):
        return None
    return Credential(username, password, auth.identitytoken or None)


async def _ask_helper(name: str, server: str) -> Credential | None:
    """What ``docker-credential-NAME get`` says about a server; None if it knows none."""
    if not _HELPER_NAME.match(name):
        raise AccountRefused(f"no credential helper can be named {name[:80]!r}")
    try:
        process = await asyncio.create_subprocess_exec(
            f"docker-credential-{name}", "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_MAX_ANSWER
        )
    except OSError as error:
        raise AccountRefused(f"docker-credential-{name} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(_HELPER_TIMEOUT):
            output, _ = await process.communicate(server.encode())
    except TimeoutError as error:
        raise AccountRefused(f"docker-credential-{name} gave no answer within {_HELPER_TIMEOUT:g} s") from error
    finally:
        await _reap(process)
    if process.returncode != 0:
        if b"credentials not found" in output:  # what docker's own helpers print for a server they do not know
            return None
        raise AccountRefused(f"docker-credential-{name} failed with status {process.returncode}")
    answer = msgspec.json.decode(output[:_MAX_ANSWER], type=_HelperAnswer)
    if answer.username == "<token>":
        return Credential("", "", answer.secret)
    return Credential(answer.username, answer.secret)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Leave no process behind."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read(path: Path) -> bytes:
    async with aiofiles.open(path, "rb") as file:
        return await file.read(1 << 20)
