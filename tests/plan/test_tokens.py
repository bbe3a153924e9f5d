"""What is read in tokens, and in requests for them."""

import base64
import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.tokens import account, expiry, pulls

HOST = SourceHost("registry.example:5000")
HUB = SourceHost("docker.io")


def jwt(claims: object) -> str:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"Bearer e30.{middle}.c2ln"


@pytest.mark.parametrize(
    ("header", "end"),
    [
        (jwt({"exp": 1700000000, "aud": ["x"]}), 1700000000.0),
        (jwt({"exp": 1700000000.5}).replace("Bearer", "bearer"), 1700000000.5),
        (jwt({"aud": "x"}), None),
        (jwt({"exp": "soon"}), None),
        (jwt([1]), None),
        ("Bearer opaque", None),
        ("Bearer a.b", None),
        ("Bearer a.\xe9.c", None),
        ("Basic e30.eyJleHAiOjF9.c2ln", None),
        ("", None),
        (None, None),
    ],
)
def test_the_end_of_a_token(header: str | None, end: float | None) -> None:
    """A JWT says when it ends, if it does; nothing else says anything."""
    assert expiry(header) == end


@given(st.text(), st.text())
def test_no_header_is_too_strange(scheme: str, token: str) -> None:
    """Whatever a client sends, the end of its token is a number or unknown."""
    for header in (f"{scheme} {token}", f"Bearer {token}", f"Bearer a.{token}.c"):
        assert isinstance(expiry(header), float | None)


def query(*scopes: str) -> str:
    return urlencode([("service", "x"), *(("scope", scope) for scope in scopes)])


@pytest.mark.parametrize(
    ("scopes", "wanted"),
    [
        (["repository:team/app:pull"], ["team/app"]),
        (["repository:registry.example:5000/team/app:pull"], ["team/app"]),
        (["repository:team/app:pull,push", "repository:other:*"], ["team/app", "other"]),
        (["repository:a/b:pull repository:c/d:pull"], ["a/b", "c/d"]),
        (["repository:a/b:pull", "repository:registry.example:5000/a/b:push,pull"], ["a/b"]),
        (["repository:a/b:push", "repository:a/b:delete", "repository:a/b:"], []),
        (["registry:catalog:*", "repository:A/B:pull", "repository:../x:pull", "repository::pull", "pull", ""], []),
        (["repository:other.example/a/b:pull"], ["other.example/a/b"]),
        ([f"repository:a/b{n}:pull" for n in range(40)], [f"a/b{n}" for n in range(16)]),
        ([], []),
    ],
)
def test_a_token_is_asked_for_pulls_alone(scopes: list[str], wanted: list[str]) -> None:
    """Pulls are kept, without the source host that clients put before the name; all else is left out, and so is too much."""
    assert pulls(query(*scopes), HOST) == wanted


def test_names_of_docker_hub() -> None:
    """A name of one component is one of Docker Hub's own images there."""
    assert pulls(query("repository:alpine:pull", "repository:docker.io/alpine:pull"), HUB) == ["library/alpine"]


@given(st.lists(st.text(alphabet="abAB.:/,* pul%&=-_repository"), max_size=5))
def test_nothing_but_a_name_comes_out(scopes: list[str]) -> None:
    """Whatever is asked for, a repository's name has nothing that could be another scope or parameter."""
    for name in pulls(query(*scopes), HOST):
        assert not set(name) & set(" :&=%,*")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("account=alice", "alice"),
        ("account=a%20b", "a b"),
        ("account=a%0Ab", ""),
        (f"account={'x' * 300}", ""),
        ("", ""),
    ],
)
def test_the_account(text: str, name: str) -> None:
    """The account that a request mentions is passed on if it is a name."""
    assert account(text) == name
