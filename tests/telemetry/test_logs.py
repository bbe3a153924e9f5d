"""Logs: one line per event, with its request, without secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from registry_proxy.config import Logging
from registry_proxy.telemetry import logs


@pytest.fixture
def out() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.BytesIO()
    structlog.reset_defaults()
    logs._line = None
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line(out: io.BytesIO) -> None:
    """An event is one JSON object with level, time and the id of the request on whose behalf it is logged."""
    logs.configure(Logging(format="json"), out)
    token = logs.REQUEST.set("abc-1")
    structlog.get_logger().info("blob.served", bytes=7, digest=object, note="one\ntwo")
    logs.REQUEST.reset(token)
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["request"], event["bytes"]) == ("blob.served", "info", "abc-1", 7)
    assert event["timestamp"].endswith("Z")


def test_secrets_are_blanked(out: io.BytesIO) -> None:
    """What is called a secret is not written, whoever logged it."""
    logs.configure(Logging(format="json"), out)
    structlog.get_logger().warning("auth.failed", token="hunter2", password="hunter2", user="me")
    assert b"hunter2" not in out.getvalue()
    assert b"me" in out.getvalue()


def test_levels_filter(out: io.BytesIO) -> None:
    """Events below the configured level are not written."""
    logs.configure(Logging(level="warning", format="json"), out)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_text_for_people(out: io.BytesIO) -> None:
    """The text format is no JSON, and has what matters first, as it was said."""
    logs.configure(Logging(format="text"), out)
    structlog.get_logger().info("request.answered", method="GET", path="/v2/", bytes=2)
    line = out.getvalue().decode()
    assert not line.startswith("{")
    assert line.index("request.answered") < line.index("method=") < line.index("path=") < line.index("bytes=")


@pytest.mark.parametrize("format_", ["json", "text"])
def test_what_is_no_text_is_spelt_out(out: io.BytesIO, format_: str) -> None:
    """Bytes of a stranger's header that are no text cost no line: they are written as escapes."""
    logs.configure(Logging(format=format_), out)  # type: ignore[arg-type]
    structlog.get_logger().info("upstream.said", error="a\udcffb", words=["\udcff"])
    assert b"upstream.said" in out.getvalue()
    assert b"udcffb" in out.getvalue()


def test_library_warnings_and_tracebacks(out: io.BytesIO) -> None:
    """What libraries log comes out the same way, with the traceback in the line."""
    logs.configure(Logging(format="json"), out)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("some.library").exception("it %s", "broke")
    logging.getLogger("some.library").info("chatter")
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert (event["logger"], event["text"], event["level"]) == ("some.library", "it broke", "error")
    assert "ValueError: inner" in event["exception"]
