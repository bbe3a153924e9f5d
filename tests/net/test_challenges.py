import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.challenges import Challenge, parse_challenges


def test_two_challenges_in_one_header() -> None:
    """The example of RFC 9110 §11.6.1 is two challenges, and a quoted comma, equals sign or escaped quote ends nothing."""
    header = r'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\", a=b"'
    assert parse_challenges([header]) == [
        Challenge("basic", {"realm": "simple"}),
        Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps", a=b'}),
    ]


def test_bearer_of_a_registry() -> None:
    """A registry's challenge gives realm, service and scope."""
    header = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"'
    assert parse_challenges([header])[0].parameters == {
        "realm": "https://auth.example/token",
        "service": "registry.example",
        "scope": "repository:a/b:pull",
    }


@pytest.mark.parametrize(
    ("header", "schemes"),
    [
        ("Negotiate, Basic realm=x", ["negotiate", "basic"]),
        ("Negotiate dG9rZW4=, Bearer realm=y", ["negotiate", "bearer"]),
        (",, Basic realm=x ,, Digest nonce=1 ,", ["basic", "digest"]),
        ("BASIC", ["basic"]),
        ("", []),
        (" , ", []),
    ],
)
def test_schemes(header: str, schemes: list[str]) -> None:
    """Schemes without parameters, with a token68 and between empty list elements are all seen."""
    assert [each.scheme for each in parse_challenges([header])] == schemes


def test_several_headers() -> None:
    """Challenges of several headers come in their order."""
    assert [each.scheme for each in parse_challenges(["Bearer realm=a", "Basic realm=b"])] == ["bearer", "basic"]


def test_unquoted_url() -> None:
    """A URL that a server forgot to quote is read all the same."""
    assert (
        parse_challenges(["Bearer realm=https://a.example/t,service=s"])[0].parameters["realm"] == "https://a.example/t"
    )


def test_first_of_repeated_parameters_counts() -> None:
    """A second realm does not replace the first."""
    assert parse_challenges(['Bearer realm="a", realm="b"'])[0].parameters == {"realm": "a"}


def test_garbage_is_the_upstreams_fault() -> None:
    """What is no challenge raises UpstreamBroken."""
    with pytest.raises(UpstreamBroken):
        parse_challenges(['Basic realm="x" "y"'])


@given(st.text(alphabet=st.sampled_from('aB1 =,"\\/\t;é-') | st.characters(), max_size=60))
def test_any_header_is_read_or_refused(header: str) -> None:
    """No text whatever raises anything but UpstreamBroken."""
    try:
        challenges = parse_challenges([header])
    except UpstreamBroken:
        return
    assert all(each.scheme for each in challenges)


_words = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,6}", fullmatch=True)
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.lists(st.tuples(_words, st.dictionaries(_words.map(str.lower), _values, min_size=1, max_size=3)), max_size=3))
def test_what_is_written_is_read(wanted: list[tuple[str, dict[str, str]]]) -> None:
    """Challenges written with quoted strings are read as they were."""
    parts = []
    for scheme, parameters in wanted:
        quoted = [
            f'{name}="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for name, value in parameters.items()
        ]
        parts.append(f"{scheme} {', '.join(quoted)}")
    assert parse_challenges([", ".join(parts)]) == [Challenge(scheme.lower(), given) for scheme, given in wanted]
