"""A repository of a registry as a target of copies (distribution-spec, "Push"; token login as in docker's registry protocol)."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from registry_proxy.cli.copying import CopyFailed, Pour
from registry_proxy.cli.http import refusal
from registry_proxy.net.accounts import Credential
from registry_proxy.oci.content import HintedBlob
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.challenges import parse_challenges
from registry_proxy.plan.origins import Origin
from registry_proxy.plan.realms import check_realm

_TIMEOUT: Final = 300.0
"""Seconds of silence: a registry may move a blob of many GB to its storage before it answers."""

_ANSWER: Final = 1 << 20
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class _Answer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> str:
        """Status and reason, for a person."""
        return refusal(self.status, self.body) or str(self.status)


class PushedRepository:
    """A repository of the registry at ``url``. ``credential``: for the registry or its token server; shown to nobody else."""

    def __init__(self, url: str, repository: str, credential: Credential | None) -> None:
        self._url = url
        self._repository = repository
        self._credential = credential
        self._authorization: str | None = None

    def has(self, blob: HintedBlob) -> bool:
        """See ``Target``."""
        answer = self._ask("HEAD", self._path(f"blobs/{blob.digest}"))
        if answer.status not in (200, 404):
            raise CopyFailed(f"{self._name} does not say whether it has {blob.digest}: {answer.said}")
        return answer.status == 200

    def put_blob(self, blob: HintedBlob, pour: Pour) -> None:
        """See ``Target``: one upload in one piece."""
        opened = self._ask("POST", self._path("blobs/uploads/"), {"Content-Length": "0"})
        if opened.status != 202 or "location" not in opened.headers:
            raise CopyFailed(f"{self._name} takes no upload: {opened.said}")
        place = urljoin(f"{self._url}/", opened.headers["location"])
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": str(blob.digest)})
        given = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        answer = self._ask("PUT", place, given, pour)
        if answer.status != 201:
            raise CopyFailed(f"{self._name} does not take {blob.digest}: {answer.said}")

    def put_manifest(self, body: bytes, media_type: str, tag: str | None) -> None:
        """See ``Target``."""
        reference = tag or str(Digest.of(body))
        given = {"Content-Length": str(len(body)), "Content-Type": media_type}
        answer = self._ask("PUT", self._path(f"manifests/{reference}"), given, lambda receive: receive(body))
        if answer.status != 201:
            raise CopyFailed(f"{self._name} does not take the manifest {reference}: {answer.said}")

    @property
    def _name(self) -> str:
        return f"{self._url}/{self._repository}"

    def _path(self, rest: str) -> str:
        return f"{self._url}/v2/{quote(self._repository)}/{rest}"

    def _ask(self, method: str, url: str, headers: Mapping[str, str] = {}, pour: Pour | None = None) -> _Answer:
        """One exchange; a challenge (the first one, or one for a token that has run out meanwhile) is answered once."""
        answer = self._exchange(method, url, {**self._shown(url), **headers}, pour)
        if answer.status == 401 and Origin.of(url) == Origin.of(self._url):
            self._authorization = self._log_in(answer)
            answer = self._exchange(method, url, {**self._shown(url), **headers}, pour)
        if answer.status in (401, 403):
            account = "the account of docker's configuration" if self._credential else "a client without an account"
            raise CopyFailed(f"{self._name} refuses {account}: {answer.said}")
        return answer

    def _shown(self, url: str) -> dict[str, str]:
        """The authorization, for the registry itself only: uploads may go elsewhere."""
        is_ours = Origin.of(url) == Origin.of(self._url)
        return {"Authorization": self._authorization} if self._authorization and is_ours else {}

    def _log_in(self, answer: _Answer) -> str:
        """The Authorization header that a 401 asks for; raises CopyFailed, or UpstreamBroken for a challenge that is none."""
        for challenge in parse_challenges([answer.headers.get("www-authenticate", "")]):
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return f"Bearer {self._token(challenge.parameters)}"
            if challenge.scheme == "basic" and self._credential is not None:
                return self._credential.basic
        raise CopyFailed(f"{self._url} wants a login, and docker's configuration has none for it")

    def _token(self, wanted: Mapping[str, str]) -> str:
        """A token to pull and push, from the registry's own token server."""
        realm = wanted["realm"]
        check_realm(Origin.of(self._url), realm, ())
        fields = {"service": wanted.get("service", ""), "scope": f"repository:{self._repository}:pull,push"}
        if self._credential is not None and self._credential.identity_token is not None:
            token = {"grant_type": "refresh_token", "refresh_token": self._credential.identity_token}
            body = urlencode({**fields, **token, "client_id": "registry-proxy"}).encode()
            given = {"Content-Length": str(len(body)), "Content-Type": _FORM}
            answer = self._exchange("POST", realm, given, lambda receive: receive(body))
        else:
            headers = {"Authorization": self._credential.basic} if self._credential else {}
            answer = self._exchange("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}", headers)
        if answer.status != 200:
            raise CopyFailed(f"the token server of {self._url} refuses: {answer.said}")
        try:
            document = json.loads(answer.body)
            return str(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise CopyFailed(f"the token server of {self._url} gave no token") from error

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], pour: Pour | None = None) -> _Answer:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=_TIMEOUT)
        try:
            connection.putrequest(method, parts.path + (f"?{parts.query}" if parts.query else ""))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            if pour is not None:
                pour(connection.send)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return _Answer(answer.status, found, answer.read(_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise CopyFailed(f"{parts.scheme}://{parts.netloc}: {error or type(error).__name__}") from error
        finally:
            connection.close()
