"""From a TOML file and the flags of the command line to a ``Config``, or to one line that names the file and the key."""

import difflib
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from registry_proxy.config import defaults
from registry_proxy.config.address import Address
from registry_proxy.config.rules import check_registry_url, problems
from registry_proxy.config.units import Seconds, Size, parse_duration, parse_share, parse_size
from registry_proxy.config.values import (
    Config,
    Cvmfs,
    CvmfsHttp,
    Forwarding,
    Lazy,
    Logging,
    Parent,
    Policy,
    Server,
    Store,
    Upstream,
    Users,
)
from registry_proxy.errors import BadRequest, ConfigInvalid
from registry_proxy.oci.names import SourceHost, source_host
from registry_proxy.plan import forward_proxies

Table = dict[str, Any]
T = TypeVar("T")

_TOP = {
    "server",
    "users",
    "store",
    "policy",
    "parent",
    "forward_proxies",
    "log",
    "upstream",
    "default_upstreams",
    "cvmfs",
    "cvmfs_http",
    "lazy",
}
_AT = re.compile(r" - at `\$([^`]*)`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`\Z")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; it wins over the file. ``upstreams``: ``NAME=URL``, the same name again adds a mirror."""

    listen: tuple[str, ...] = ()
    store: Path | None = None
    store_limit: str | None = None
    upstreams: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    forward_proxies: str | None = None
    cvmfs: tuple[Path, ...] = ()
    workers: int | None = None


def load(path: Path | None, environ: Mapping[str, str], flags: Flags = Flags()) -> Config:
    """The configuration of a file (None: the one that ``REGISTRY_PROXY_CONFIG`` names, else none) and the flags.

    Raises ConfigInvalid with one line that names the file (or the flag) and the key.
    """
    if path is None and environ.get("REGISTRY_PROXY_CONFIG"):
        path = Path(environ["REGISTRY_PROXY_CONFIG"])
    table = _read(path) if path else {}
    _apply(flags, table)
    _apply_cvmfs(environ, table)
    try:
        return _convert(table, path.parent if path else Path(), environ)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error}" if path else str(error)) from None


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: not UTF-8 text") from None
    except RecursionError:
        raise ConfigInvalid(f"{path}: nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits
        raise ConfigInvalid(f"{path}: {error}") from None


# --- flags ------------------------------------------------------------------------------------------------------------


def _apply(flags: Flags, table: Table) -> None:
    """Put the flags into the table where the file's own words would stand; each is checked under its own name first."""
    if flags.listen:
        for address in flags.listen:
            _flag("--listen", Address.parse, address)
        _section(table, "server")["listen"] = list(flags.listen)
    if flags.workers is not None:
        _section(table, "server")["workers"] = flags.workers
    if flags.store is not None:
        _section(table, "store")["path"] = str(flags.store.absolute())
    if flags.store_limit is not None:
        _flag("--store-limit", lambda text: parse_share(text) or parse_size(text), flags.store_limit)
        _section(table, "store")["limit"] = flags.store_limit
    if flags.parents:
        _section(table, "parent")["urls"] = [_flag("--parent", check_registry_url, url) for url in flags.parents]
    if flags.cvmfs:
        table["cvmfs"] = [{"path": str(path.absolute())} for path in flags.cvmfs]
    if flags.forward_proxies is not None:
        _flag("--forward-proxies", forward_proxies.parse, flags.forward_proxies)
        _section(table, "forward_proxies")["groups"] = flags.forward_proxies
    named: dict[str, list[str]] = {}
    for text in flags.upstreams:
        name, url = _flag("--upstream", _named_url, text)
        named.setdefault(name, []).append(url)
    for name, urls in named.items():
        _section(table, "upstream")[name] = {"urls": urls}


def _apply_cvmfs(environ: Mapping[str, str], table: Table) -> None:
    """Where forward proxies would be used and nobody has named any, those of the machine's CVMFS client are meant."""
    own = _section(table, "forward_proxies") if {"parent", "cvmfs_http"} & table.keys() else {"groups": ""}
    groups, fallback = environ.get("CVMFS_HTTP_PROXY", ""), environ.get("CVMFS_FALLBACK_PROXY", "")
    if groups and "groups" not in own:
        _flag("CVMFS_HTTP_PROXY", lambda text: forward_proxies.parse(text, fallback), groups)
        own |= {"groups": groups, "fallback": fallback}


def _named_url(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals:
        raise ValueError("write NAME=URL, such as gitlab.example=http://127.0.0.1:5001")
    host = source_host(name)
    try:
        return host, check_registry_url(url)
    except ValueError as error:
        raise ValueError(f"{host}: {error}") from None


def _flag(flag: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except (ValueError, BadRequest) as error:
        raise ConfigInvalid(f"{flag}: {error}") from None


def _section(table: Table, name: str) -> Table:
    """The sub-table of this name, made if need be; one of another type is left for ``_convert`` to complain about."""
    section = table.setdefault(name, {})
    return section if isinstance(section, dict) else {}


# --- tables to values -------------------------------------------------------------------------------------------------


def _convert(table: Table, base: Path, environ: Mapping[str, str]) -> Config:
    for key in table:
        if key not in _TOP:
            raise ConfigInvalid(_unknown("", key, _TOP))
    config = Config(
        store=_store(table.get("store", {}), base, environ),
        upstreams=_upstreams(table, base),
        server=_struct(Server, table.get("server", {}), "server", base),
        users=_struct(Users, table.get("users", {}), "users", base),
        policy=_struct(Policy, table.get("policy", {}), "policy", base),
        parent=_struct(Parent, table.get("parent", {}), "parent", base),
        forward_proxies=_struct(Forwarding, table.get("forward_proxies", {}), "forward_proxies", base),
        log=_struct(Logging, table.get("log", {}), "log", base),
        cvmfs=_tables(Cvmfs, table.get("cvmfs", []), "cvmfs", base),
        cvmfs_http=_tables(CvmfsHttp, table.get("cvmfs_http", []), "cvmfs_http", base),
        lazy=_struct(Lazy, table.get("lazy", {}), "lazy", base),
    )
    for key, problem in problems(config):
        raise ConfigInvalid(f"{key}: {problem}")
    return config


def _store(table: object, base: Path, environ: Mapping[str, str]) -> Store:
    """The store's section; a limit such as ``20%`` is that share of the file system that the store lies on."""
    if not isinstance(table, dict):
        return _struct(Store, table, "store", base)
    try:
        share = parse_share(table.get("limit"))
    except ValueError as error:
        raise ConfigInvalid(f"store.limit: {error}") from None
    own = {key: value for key, value in table.items() if key != "limit" or share is None}
    store = _struct(Store, own if "path" in own else {"path": str(defaults.store_path(environ)), **own}, "store", base)
    if share is None:
        return store
    return msgspec.structs.replace(store, limit=Size(share * shutil.disk_usage(_existing(store.path)).total))


def _upstreams(table: Table, base: Path) -> dict[SourceHost, Upstream]:
    public = table.get("default_upstreams", True)
    named = table.get("upstream", {})
    if not isinstance(public, bool):
        raise ConfigInvalid("default_upstreams: expected true or false")
    if not isinstance(named, dict):
        raise ConfigInvalid('upstream: expected tables such as [upstream."docker.io"]')
    tables: dict[SourceHost, object] = {host: {} for host in defaults.PUBLIC} if public else {}
    for name, own in named.items():
        try:
            tables[source_host(name)] = own
        except BadRequest:
            raise ConfigInvalid(f'upstream."{name[:80]}": not a registry host such as "docker.io"') from None
    return {host: _upstream(host, own, base) for host, own in tables.items()}


def _upstream(host: SourceHost, table: object, base: Path) -> Upstream:
    if isinstance(table, dict):
        table = {"urls": list(defaults.registry_urls(host)), **table}
    upstream = _struct(Upstream, table, f'upstream."{host}"', base)
    return msgspec.structs.replace(upstream, urls=tuple(url.rstrip("/") for url in upstream.urls))


def _tables(kind: type[T], tables: object, key: str, base: Path) -> tuple[T, ...]:
    if not isinstance(tables, list):
        raise ConfigInvalid(f"{key}: expected tables under [[{key}]]")
    return tuple(_struct(kind, table, f"{key}[{number}]", base) for number, table in enumerate(tables))


def _struct(kind: type[T], table: object, key: str, base: Path) -> T:
    """A section as its struct; raises ConfigInvalid in our own words."""

    def leaf(wanted: type, value: object) -> object:
        if wanted is Size:
            return parse_size(value)
        if wanted is Seconds:
            return parse_duration(value)
        if wanted is Path and isinstance(value, str):
            return _path(value, base)
        raise ValueError(f"expected text, got {type(value).__name__}")

    try:
        return msgspec.convert(table, kind, dec_hook=leaf)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(_explain(str(error), kind, key)) from None


def _path(value: str, base: Path) -> Path:
    """A path with ``~`` expanded; a relative one is meant from where the file lies."""
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("not a path in a home directory that exists") from None
    return path if path.is_absolute() else (base / path).absolute()


def _existing(path: Path) -> Path:
    """The nearest directory that is there: its file system is where the path will lie."""
    return next((parent for parent in (path, *path.parents) if parent.is_dir()), Path("/"))


# --- words for a person -----------------------------------------------------------------------------------------------


def _explain(message: str, kind: type, key: str) -> str:
    """msgspec's message as ``key: problem``; names keys, never values of secrets."""
    at = _AT.search(message)
    path = at[1] if at else ""
    problem = _AT.sub("", message)
    where = key + path
    unknown = _UNKNOWN.match(problem)
    if unknown:
        return _unknown(where + ".", unknown[1], set(_fields(kind, path)))
    if problem.startswith("Invalid enum value"):
        section, _, name = path.rpartition(".")
        problem = "one of " + ", ".join(_choices(_fields(kind, section)[name.partition("[")[0]]))
    problem = problem.replace("`", "").replace("object", "a table")
    return f"{where}: {problem[0].lower()}{problem[1:]}"


def _fields(kind: type, path: str) -> dict[str, Any]:
    """The keys of a section, or of the one at ``path`` within it (``.tls``), and their types."""
    for name in path.split(".")[1:]:
        hint = get_type_hints(kind)[name]
        kind = next(part for part in (hint, *get_args(hint)) if isinstance(part, type))
    return get_type_hints(kind)


def _choices(hint: object) -> tuple[str, ...]:
    """What a ``Literal``, or each item of a tuple of them, may be."""
    return get_args(hint) if get_origin(hint) is Literal else get_args(get_args(hint)[0])


def _unknown(prefix: str, key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"{prefix}{key}: unknown key" + (f" (did you mean {close[0]}?)" if close else "")
