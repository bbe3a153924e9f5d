"""Who the fake registry lets in, and its token server."""

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream


def challenge(upstream: "FakeUpstream", request: web.Request, repository: str) -> web.Response | None:
    """The 401 that a request earns; None if it may pass."""
    given = request.headers.get("Authorization", "")
    if upstream.auth is None or (upstream.auth == "basic" and given == upstream.basic):
        return None
    if upstream.auth == "basic" and upstream.is_stranger(given):
        return error(403, "DENIED") if repository else None
    scope = f"repository:{repository}:pull" if repository else ""
    if upstream.auth == "bearer" and upstream.tokens.get(given.removeprefix("Bearer ")) == scope:
        return None
    realm = upstream.realm or f"{upstream.url_of('token')}/token"
    header = (
        f'Bearer realm="{realm}",service="fake",scope="{scope}"' if upstream.auth == "bearer" else 'Basic realm="fake"'
    )
    return error(401, "UNAUTHORIZED", {"WWW-Authenticate": header})


async def token(upstream: "FakeUpstream", request: web.Request) -> web.Response:
    """A token for the scope asked for, or a refusal."""
    if request.method == "POST":
        form = await request.post()
        allowed = form.get("grant_type") == "refresh_token" and form.get("refresh_token") == upstream.identity_token
        scope = str(form.get("scope", ""))
    else:
        given = request.headers.get("Authorization")
        stranger = upstream.is_stranger(given)
        allowed = given == upstream.basic or stranger or (given is None and upstream.public_pull)
        scope = request.query.get("scope", "") if not stranger else "nothing"
    if not allowed:
        return error(401, "UNAUTHORIZED")
    token = secrets.token_hex(8)
    upstream.tokens[token] = scope
    fields = {"token": token} if request.method == "GET" else {"access_token": token}
    if "offline_token" in request.query:
        fields["refresh_token"] = "for-long"
    return web.json_response(fields | ({"expires_in": upstream.expires_in} if upstream.expires_in is not None else {}))


def error(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with an OCI error body."""
    return web.json_response({"errors": [{"code": code, "message": code.lower()}]}, status=status, headers=headers)
