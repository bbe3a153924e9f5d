"""The registry with tokens that other tests rely on does what a real one does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.harness.guarded import Answer, Site, Stored, exchange, guarded
from tests.interop.harness.registries import basic
from tests.interop.harness.rights import Rights


@pytest.fixture
def site(work: Path) -> Iterator[Site]:
    """A registry where alice has `team/secret`, bob has an account only, and `open/image` is for everybody."""
    rights = Rights({"alice": "wonder", "bob": "builder"}, {"open/*"})
    rights.allow("alice", "team/secret")
    with guarded(work, rights) as running:
        yield running


def get(site: Site, stored: Stored, path: str, bearer: str | None) -> Answer:
    """A GET below the repository."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return exchange("GET", f"{site.url}/v2/{stored.repository}/{path}", headers)


def test_a_token_opens_what_its_user_may_read(site: Site) -> None:
    """The registry gives a private manifest for a token of the user who may, and 401 for all others; a public one to all tokens."""
    secret, public = site.push("team/secret", 1), site.push("open/image", 2)
    for stored, allowed in ((secret, {"alice"}), (public, {"alice", "bob", None})):
        for user in ("alice", "bob", None):
            bearer = site.tokens.token(user, f"repository:{stored.repository}:pull")
            answer = get(site, stored, "manifests/latest", bearer)
            assert answer.status == (200 if user in allowed else 401), (stored.repository, user)
        challenge = get(site, stored, "manifests/latest", None)
        assert challenge.status == 401
        assert f'realm="{site.tokens.realm}"' in challenge.headers["Www-Authenticate"]


def test_tokens_are_had_in_every_way(site: Site) -> None:
    """Basic, an OAuth2 password form and a refresh token all give tokens that open the repository; a wrong password gives none."""
    secret = site.push("team/secret", 1)
    scope = "repository:team/secret:pull"
    asked = f"{site.tokens.realm}?service=tests&scope={scope}"
    form = f"service=tests&scope={scope}&client_id=tests"
    alice = {"Authorization": basic("alice", "wonder")}
    first = json.loads(exchange("GET", f"{asked}&offline_token=true", alice).body)
    by_form = f"{form}&grant_type=password&username=alice&password=wonder"
    second = json.loads(exchange("POST", site.tokens.realm, {}, by_form.encode()).body)
    refreshed = f"{form}&grant_type=refresh_token&refresh_token={first['refresh_token']}"
    third = json.loads(exchange("POST", site.tokens.realm, {}, refreshed.encode()).body)
    for bearer in (first["token"], second["access_token"], third["access_token"]):
        assert get(site, secret, f"manifests/{secret.digest}", bearer).body == secret.manifest
    assert exchange("GET", asked, {"Authorization": basic("alice", "wrong")}).status == 401
    site.tokens.rights.dismiss("alice")
    assert exchange("POST", site.tokens.realm, {}, refreshed.encode()).status == 401


def test_a_revoked_user_is_out_when_the_token_ends(site: Site) -> None:
    """A token that is over opens nothing any more, and no new one opens what was taken back."""
    secret = site.push("team/secret", 1)
    site.tokens.exact, site.tokens.lifetime = True, -1
    assert (
        get(site, secret, "manifests/latest", site.tokens.token("alice", "repository:team/secret:pull")).status == 401
    )
    site.tokens.lifetime = 60
    site.tokens.rights.revoke("alice", "team/secret")
    assert (
        get(site, secret, "manifests/latest", site.tokens.token("alice", "repository:team/secret:pull")).status == 401
    )


def test_a_manifest_may_claim_what_its_repository_has_not(site: Site) -> None:
    """The registry takes a manifest that names another repository's blob, and still does not give that blob there."""
    secret = site.push("team/secret", 1)
    claimed = site.claim("open/thief", secret)
    assert json.loads(claimed)["layers"][0]["digest"] in secret.manifest.decode()
    bearer = site.tokens.token(None, "repository:open/thief:pull")
    answer = exchange("GET", f"{site.url}/v2/open/thief/manifests/latest", {"Authorization": f"Bearer {bearer}"})
    assert answer.body == claimed
    digest = json.loads(claimed)["layers"][0]["digest"]
    refused = exchange("GET", f"{site.url}/v2/open/thief/blobs/{digest}", {"Authorization": f"Bearer {bearer}"})
    assert refused.status == 404
