"""What the fake registry answers while nothing goes wrong."""

import json
from typing import TYPE_CHECKING

from aiohttp import web

from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from tests.fakes import auth, body
from tests.fakes.auth import error

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream


SEPARATORS = {"manifest": "/manifests/", "blob": "/blobs/", "tags": "/tags/", "referrers": "/referrers/"}


async def answer(upstream: "FakeUpstream", request: web.Request, server: str, kind: str) -> web.StreamResponse:
    """The answer of one of the three servers to a request of this kind."""
    if server == "token":
        return await auth.token(upstream, request)
    if server == "storage":
        return await storage(upstream, request)
    if request.method not in {"GET", "HEAD"}:
        return error(405, "UNSUPPORTED")
    repository, _, rest = request.path.removeprefix("/v2/").rpartition(SEPARATORS.get(kind, "/"))
    challenge = auth.challenge(upstream, request, repository)
    if challenge is not None:
        return challenge
    match kind:
        case "manifest":
            response: web.StreamResponse = manifest(upstream, request, repository, rest)
        case "blob":
            return await blob(upstream, request, repository, rest)
        case "tags":
            response = tags(upstream, request, repository)
        case "referrers":
            response = referrers(upstream, repository, rest)
        case "catalog":
            response = web.json_response({"repositories": sorted({name for name, _ in upstream.members})})
        case "ping":
            response = web.json_response({})
        case _:
            response = error(404, "UNSUPPORTED")
    response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
    return response


def manifest(upstream: "FakeUpstream", request: web.Request, repository: str, reference: str) -> web.Response:
    """The manifest, by tag or digest."""
    digest = digest_in(reference) or upstream.tags.get((repository, reference))
    if digest is None or (repository, digest) not in upstream.members or digest not in upstream.media_types:
        known = any(name == repository for name, _ in upstream.members)
        return error(404, "MANIFEST_UNKNOWN" if known else "NAME_UNKNOWN")
    data = upstream.content[digest]
    headers = {"Content-Type": upstream.media_types[digest]}
    if upstream.digest_header:
        headers["Docker-Content-Digest"] = str(digest)
    if upstream.rate_limit is not None:
        headers["ratelimit-limit"], headers["ratelimit-remaining"] = upstream.rate_limit
    if request.method == "HEAD":
        return web.Response(headers=headers | {"Content-Length": str(len(data))})
    return web.Response(body=data, headers=headers)


def tags(upstream: "FakeUpstream", request: web.Request, repository: str) -> web.Response:
    """One page of tags, linked to the next."""
    names = sorted(tag for name, tag in upstream.tags if name == repository)
    if not names:
        return error(404, "NAME_UNKNOWN")
    after = request.query.get("last", "")
    count = min(int(request.query.get("n", upstream.tag_page)), upstream.tag_page)
    left = [name for name in names if name > after]
    response = web.json_response({"name": repository, "tags": left[:count]})
    if left[count:] and count:
        response.headers["Link"] = f'</v2/{repository}/tags/list?n={count}&last={left[count - 1]}>; rel="next"'
    return response


def referrers(upstream: "FakeUpstream", repository: str, text: str) -> web.Response:
    """An index of the manifests whose subject this is."""
    if not upstream.referrers_api:
        return web.Response(status=404, text="404 page not found")
    entries = []
    for name, digest in sorted(upstream.members, key=str):
        if name != repository or digest not in upstream.media_types:
            continue
        fields = json.loads(upstream.content[digest])
        if (fields.get("subject") or {}).get("digest") == text:
            entry = {"mediaType": fields["mediaType"], "digest": str(digest), "size": len(upstream.content[digest])}
            extra = {key: fields[key] for key in ("artifactType", "annotations") if key in fields}
            entries.append(entry | extra)
    index = {"schemaVersion": 2, "mediaType": content.OCI_INDEX, "manifests": entries}
    return web.json_response(index, content_type=content.OCI_INDEX)


async def blob(upstream: "FakeUpstream", request: web.Request, repository: str, text: str) -> web.StreamResponse:
    """The blob, or the way to the storage server."""
    digest = digest_in(text)
    if digest is None or (repository, digest) not in upstream.members:
        return error(404, "BLOB_UNKNOWN")
    if request.method == "HEAD" and not upstream.head_blob:
        return error(405, "UNSUPPORTED")
    if upstream.redirect:
        target = f"{upstream.url_of('storage')}/{digest}?signature={upstream.signature}"
        return web.Response(status=307, headers={"Location": target})
    return await body.send_blob(upstream, request, digest)


async def storage(upstream: "FakeUpstream", request: web.Request) -> web.StreamResponse:
    """The blob, to whoever has a valid signature and shows no other credential (as S3 wants it)."""
    digest = digest_in(request.path.removeprefix("/"))
    if "Authorization" in request.headers:
        return web.Response(status=400, text="Only one auth mechanism allowed")
    if request.query.get("signature") != upstream.signature:
        return web.Response(status=403, text="Request has expired")
    if upstream.fleeting:
        upstream.expire_signatures()
    if digest is None or digest not in upstream.content:
        return web.Response(status=404, text="NoSuchKey")
    return await body.send_blob(upstream, request, digest)


def digest_in(text: str) -> Digest | None:
    """The digest that a reference is, unless it is a tag."""
    return Digest.parse(text) if ":" in text else None
