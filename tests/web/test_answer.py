"""Answers as they go on the wire."""

from dataclasses import dataclass

import pytest
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11

from registry_proxy.web.answer import Answer, lines


@dataclass
class Request:
    """As much of a request as an answer looks at."""

    method: str = "GET"
    version: HttpVersion = HttpVersion11
    keep_alive: bool = True


def wire(answer: Answer, request: Request) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body."""
    head, _, body = answer.wire(request).partition(b"\r\n\r\n")  # type: ignore[arg-type]
    first, *lines = head.decode().split("\r\n")
    assert len(lines) == len({line.partition(":")[0] for line in lines})
    return first, dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("answer", "request_", "length", "body"),
    [
        (Answer(200, "", 3, b"abc"), Request(), "3", b"abc"),
        (Answer(200, "", 3, b"abc"), Request(method="HEAD"), "3", b""),
        (Answer(200, "", 900), Request(), "900", b""),
        (Answer(404, "", 0, b""), Request(), "0", b""),
        (Answer(304, "", None), Request(), None, b""),
    ],
)
def test_the_length_is_the_one_stated(answer: Answer, request_: Request, length: str | None, body: bytes) -> None:
    """A client knows where the answer ends; 304 says nothing of a length."""
    _, headers, sent = wire(answer, request_)
    assert (headers.get("Content-Length"), sent) == (length, body)


@pytest.mark.parametrize(
    ("version", "keep_alive", "said"),
    [
        (HttpVersion11, True, None),
        (HttpVersion11, False, "close"),
        (HttpVersion10, True, "keep-alive"),
        (HttpVersion10, False, None),
    ],
)
def test_what_is_said_about_the_connection(version: HttpVersion, keep_alive: bool, said: str | None) -> None:
    """Only what differs from the version's default (RFC 9112 §9.3)."""
    _, headers, _ = wire(Answer(200, "", 0, b""), Request(version=version, keep_alive=keep_alive))
    assert headers.get("Connection") == said


def test_status_lines_and_dates() -> None:
    """Known statuses have their phrase, others none; every answer has a date."""
    first, headers, _ = wire(Answer(206, "X-Thing: 1\r\n", 0), Request())
    assert first == "HTTP/1.1 206 Partial Content"
    assert headers["Date"].endswith(" GMT")
    assert wire(Answer(599, "", 0), Request())[0] == "HTTP/1.1 599 "


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "a\rb"])
def test_a_header_never_becomes_two(value: str) -> None:
    """A line break in a value is a mistake of ours, and is not sent."""
    assert lines(("A", "1"), ("B", "2")) == "A: 1\r\nB: 2\r\n"
    with pytest.raises(ValueError, match="line break"):
        lines(("X-Thing", value))
