"""What a client is told when something failed (distribution-spec, "Error Codes")."""

import math

import msgspec

from registry_proxy.errors import (
    LoginNeeded,
    NotSoon,
    NoVerdict,
    Overloaded,
    RangeUnsatisfiable,
    RegistryProxyError,
    TooManyRequests,
    UpstreamBusy,
    WriteRefused,
    answer,
)
from registry_proxy.oci.foreign import printable
from registry_proxy.web import challenges
from registry_proxy.web.answer import Answer
from registry_proxy.web.exchange import Exchange


def response(exchange: Exchange, error: RegistryProxyError) -> Answer:
    """The answer that ``errors.ANSWERS`` has for this failure, with the headers that belong to it."""
    row = answer(error)
    text = printable(str(error))
    if row.code is None:
        return exchange.answer(
            row.status, ("Content-Type", "text/plain; charset=utf-8"), *_own(exchange, error), body=f"{text}\n".encode()
        )
    body = oci_body(row.code, text)
    return exchange.answer(row.status, ("Content-Type", "application/json"), *_own(exchange, error), body=body)


def oci_body(code: str, message: str) -> bytes:
    """The JSON body of one error."""
    return msgspec.json.encode({"errors": [{"code": code, "message": message}]})


def _own(exchange: Exchange, error: RegistryProxyError) -> tuple[tuple[str, str], ...]:
    match error:
        case RangeUnsatisfiable(size=size):
            return (("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes"))
        case (
            UpstreamBusy(retry_after=seconds)
            | NotSoon(retry_after=seconds)
            | TooManyRequests(retry_after=seconds)
            | Overloaded(retry_after=seconds)
            | NoVerdict(retry_after=seconds)
        ):
            return (("Retry-After", str(max(1, math.ceil(seconds)))),)
        case LoginNeeded():
            return (("WWW-Authenticate", challenges.challenge(exchange, error)),)
        case WriteRefused():
            return (("Allow", "GET, HEAD"),)
    return ()
