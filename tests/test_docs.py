"""What the documentation and the examples say is true: commands parse, TOML loads, keys and options are all there."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
import yaml

from registry_proxy.cli.clients import CLIENTS, mirrors
from registry_proxy.cli.main import app
from registry_proxy.config import (
    Account,
    Config,
    Cvmfs,
    CvmfsHttp,
    Forwarding,
    Lazy,
    LazyRule,
    Logging,
    Parent,
    Policy,
    Server,
    Store,
    Timeouts,
    Tls,
    Upstream,
    Users,
    load,
)
from registry_proxy.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
ENVIRON = {"XDG_CACHE_HOME": "/cache"}
PAGES = [*sorted(ROOT.glob("[RST]*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS: dict[str, type] = {
    "server": Server,
    "server.tls": Tls,
    "users": Users,
    "store": Store,
    "policy": Policy,
    "parent": Parent,
    "forward_proxies": Forwarding,
    "log": Logging,
    'upstream."HOST"': Upstream,
    'upstream."HOST".timeouts': Timeouts,
    'upstream."HOST".account': Account,
    "[cvmfs]": Cvmfs,
    "[cvmfs_http]": CvmfsHttp,
    "lazy": Lazy,
    "[lazy.rules]": LazyRule,
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text()) if found == language]


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours, with where it stands."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                if line.startswith("registry-proxy "):
                    yield page.name, line
    unit = (ROOT / "conf/systemd/registry-proxy.service").read_text()
    yield "registry-proxy.service", "registry-proxy" + unit.partition("bin/registry-proxy")[2].splitlines()[0]
    for line in re.findall(
        r"^#   (registry-proxy .+?)(?:   .*)?$", (ROOT / "conf/proxy.toml").read_text(), re.MULTILINE
    ):
        yield "proxy.toml", line


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_every_command_shown_parses(page: str, line: str) -> None:
    """A command line in the documentation is one that the program takes."""
    command, _, _ = app.parse_args(shlex.split(line)[1:], print_error=False, exit_on_error=False)
    assert command.__name__ in shlex.split(line)[1:3], page


def test_inline_commands_name_verbs() -> None:
    """A command named in running text is a verb of the program."""
    verbs = {*app} | {"COMMAND"}
    for page in PAGES:
        for verb in re.findall(r"`registry-proxy ([\w-]+)", BLOCK.sub("", page.read_text())):
            assert verb in verbs, page


def toml_blocks() -> list[tuple[str, str]]:
    return [(page.name, text) for page in PAGES for text in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "text"), toml_blocks())
def test_every_toml_shown_is_right(page: str, text: str, tmp_path: Path) -> None:
    """A block of our own configuration loads; one of a client's is what `hosts` prints for that file."""
    heading = text.splitlines()[0]
    if heading == "# config":
        file = tmp_path / "proxy.toml"
        file.write_text(text)
        load(file, ENVIRON)
        return
    path = heading.removeprefix("# file: ")
    assert path.startswith("/"), f"{page}: say what this block is: {heading}"
    shown = tomllib.loads(text)
    printed = {
        file.path: file.text
        for server in ("http://127.0.0.1:5000", "http://cache.example:5000")
        for file in all_files(server)
        if server in text or server[7:] in text
    }
    if path in printed:
        assert_within(shown, tomllib.loads(printed[path]))


def all_files(server: str) -> Iterator[Any]:
    config = load(None, ENVIRON)
    for template in CLIENTS.values():
        yield from template(mirrors(config, server))


def assert_within(shown: Any, printed: Any) -> None:
    """Everything shown is printed, at the same place."""
    if isinstance(shown, dict):
        for key, value in shown.items():
            assert_within(value, printed[key])
    else:
        assert shown == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the project."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def proofs() -> list[tuple[str, str]]:
    """The tests that THREAT_MODEL.md names."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "THREAT_MODEL.md").read_text())


@pytest.mark.parametrize(("file", "name"), proofs())
def test_what_proves_it_exists(file: str, name: str) -> None:
    """Each test that the threat model names is there under that name."""
    assert re.search(rf"def {name}\(", (ROOT / file).read_text())


def test_every_threat_is_proved() -> None:
    """Each row of the threat model's tables of threats ends with a test, and every asset and attacker is in them."""
    text = (ROOT / "THREAT_MODEL.md").read_text()
    stops = text.partition("## What stops whom")[2].partition("## What is not stopped")[0]
    rows = [line for line in stops.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "| ---"))]
    assert len(rows) > 30
    assert not [row for row in rows if not row.rstrip(" |").endswith("`") or "::" not in row]
    for asset in re.findall(r"^\| (A\d) \|", text, re.MULTILINE):
        assert re.search(rf"\([^)]*{asset}[^)]*\)", stops), asset
    for attacker in "CUNISL":
        assert re.search(rf"^### .*\b{attacker}\b.*\)$", stops, re.MULTILINE), attacker


def keys(kind: type) -> set[str]:
    """The keys of a section that are not sections themselves."""
    hints = get_type_hints(kind)
    return {key for key, hint in hints.items() if not any(is_struct(part) for part in (hint, *get_args(hint)))}


def documented() -> dict[str, dict[str, str]]:
    """Section → key → default, as docs/configuration.md has them."""
    found: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in (ROOT / "docs/configuration.md").read_text().splitlines():
        if heading := re.match(r"#+ `\[(.+)\]`", line):
            rows = found.setdefault(heading[1], {})
        elif row := re.match(r"\| `(\w+)` \|([^|]*)\|", line):
            rows[row[1]] = row[2].strip()
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented(section: str) -> None:
    """docs/configuration.md has a row for each key, and none for keys that are gone."""
    assert set(documented()[section]) == keys(SECTIONS[section])


@pytest.mark.parametrize("section", ["server", "store", "policy", "parent", "forward_proxies", "log", "lazy"])
def test_documented_defaults_are_the_defaults(section: str, tmp_path: Path) -> None:
    """A default in the table, written into a file, changes nothing."""
    lines = [
        f"{key} = {literal(text[1:-1])}"
        for key, text in documented()[section].items()
        if re.fullmatch(r"`[^`]+`", text)
    ]
    assert lines
    file = tmp_path / "proxy.toml"
    file.write_text(f"[{section}]\n" + "\n".join(lines))
    assert load(file, ENVIRON) == load(None, ENVIRON)


def literal(text: str) -> str:
    """A TOML value: text is quoted unless it is a number, a boolean or a list."""
    return text if re.fullmatch(r"\d+|true|false|\[.*\]", text) else f'"{text}"'


class TestCompleteFile:
    FILE = ROOT / "conf/proxy.toml"

    def test_it_is_all_defaults(self) -> None:
        """conf/proxy.toml loads and changes nothing."""
        assert load(self.FILE, ENVIRON) == load(None, ENVIRON)

    @pytest.mark.parametrize("section", SECTIONS)
    def test_it_has_every_key(self, section: str) -> None:
        """Every key stands in its section, commented out where it has no fixed default."""
        name = section.replace("HOST", "docker.io")
        text = self.FILE.read_text()
        body = re.search(rf"^(?:# )?\[{re.escape(name)}\]\n(.*?)(?=^(?:# )?\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert body is not None
        assert set(re.findall(r"^(?:# )?(\w+) = ", body[1], re.MULTILINE)) == keys(SECTIONS[section])

    def test_what_is_commented_out_loads_too(self, tmp_path: Path) -> None:
        """Each commented key, uncommented, is accepted (of the account's three ways, one; readers in the mode that has some)."""
        text = re.sub(
            r"^# (?=(\w+ = |\[server|\[upstream|\[\[cvmfs|\[\[lazy))", "", self.FILE.read_text(), flags=re.MULTILINE
        )
        text = re.sub(r"^password(_file)? = .*\n", "", text, flags=re.MULTILINE)
        text = text.replace('access = "open"', 'access = "local"')
        file = tmp_path / "proxy.toml"
        file.write_text(text)
        config = load(file, ENVIRON)
        assert config.upstreams["docker.io"].account is not None
        assert config.store.limit == 500 << 30

    def test_every_section_is_known_here(self) -> None:
        """A new section of the configuration must join these tests."""
        structs = {
            kind for hint in get_type_hints(Config).values() for kind in (hint, *get_args(hint)) if is_struct(kind)
        }
        nested = {
            kind
            for section in (Server, Upstream, Lazy)
            for hint in get_type_hints(section).values()
            for kind in (hint, *get_args(hint))
            if is_struct(kind)
        }
        assert structs | nested == set(SECTIONS.values())


def is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@pytest.mark.parametrize(
    ("client", "strip"),
    [
        ("containerd", "/etc/containerd"),
        ("podman", "/etc/containers/registries.conf.d"),
        ("stargz", "/etc/containerd-stargz-grpc"),
    ],
)
def test_examples_are_what_hosts_prints(client: str, strip: str) -> None:
    """conf/CLIENT holds the files that `hosts CLIENT` prints for the default configuration, and no others."""
    wanted = {
        file.path.removeprefix(f"{strip}/"): file.text
        for file in CLIENTS[client](mirrors(load(None, ENVIRON), "http://127.0.0.1:5000"))
    }
    folder = ROOT / "conf" / client
    assert {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()} == wanted


def test_every_option_is_in_the_page_about_the_command_line() -> None:
    """docs/cli.md has a section per verb and names each option."""
    text = (ROOT / "docs/cli.md").read_text()
    for verb in app:
        if verb.startswith("-"):
            continue
        assert f"\n## {verb}\n" in text
        below = [app[verb][name] for name in app[verb] if not name.startswith("-")]
        for command in below or [app[verb]]:
            for argument in command.assemble_argument_collection():
                for name in argument.names:
                    assert name in text or not name.startswith("--"), f"{verb} {name}"


def test_alerts_watch_metrics_that_exist() -> None:
    """Each metric in the Prometheus rules is one that an instance exposes."""
    metrics = Metrics(["docker.io"])
    metrics.watch_store(_Store)
    exposed = set(re.findall(r"^# TYPE (\S+)", metrics.exposition().decode(), re.MULTILINE))
    rules = yaml.safe_load((ROOT / "conf/prometheus/registry-proxy-alerts.yml").read_text())
    used = {
        name
        for group in rules["groups"]
        for rule in group["rules"]
        for name in re.findall(r"registry_proxy_\w+", rule["expr"])
    }
    assert used
    assert used <= exposed
    assert yaml.safe_load((ROOT / "conf/prometheus/scrape.yml").read_text())["scrape_configs"]


def test_every_metric_and_alert_is_explained() -> None:
    """docs/monitoring.md has each metric, docs/operations.md each alert, and neither has one that is gone."""
    metrics = Metrics(["docker.io"])
    metrics.watch_store(_Store)
    exposed = set(re.findall(r"^# TYPE (\S+)", metrics.exposition().decode(), re.MULTILINE))
    told = set(re.findall(r"^\| (`registry_proxy_.+?) \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE))
    named = {name for row in told for name in re.findall(r"`(\w+)`", row)}
    assert named - {"registry_proxy_process_restarts_total"} == {
        name for name in exposed if not name.endswith("_created")
    }
    rules = yaml.safe_load((ROOT / "conf/prometheus/registry-proxy-alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert (
        set(re.findall(r"^\| `(RegistryProxy\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)) == alerts
    )


class _Store:
    bytes = limit = chunks = evictions = writable = 0


def test_log_events_that_pages_name_exist() -> None:
    """Who greps the log for what a page says finds it."""
    code = "".join(file.read_text() for file in (ROOT / "registry_proxy").rglob("*.py"))
    events = set(re.findall(r'"([a-z]+\.[a-z_]+)"', code))
    sections = {section.strip("[]").partition(".")[0] for section in SECTIONS}
    kinds = {event.partition(".")[0] for event in events} - sections
    for page in PAGES:
        for named in re.findall(r"`([a-z]+\.[a-z_]+)`", BLOCK.sub("", page.read_text())):
            assert named in events or named.partition(".")[0] not in kinds, f"{page.name}: {named}"


def test_the_table_of_limits_has_the_defaults() -> None:
    """What docs/security.md says a client may do is what the configuration lets it do."""
    text, limits = (ROOT / "docs/security.md").read_text(), Server()
    for words, value in {
        "open connections per client": limits.connections_per_client,
        "open connections, all together": limits.connections,
        "requests per second and client, over two seconds": limits.requests_per_client,
        r"answers with content \(blobs and chunks\) at the same time": limits.bodies,
        "ranges in one request": limits.max_ranges,
    }.items():
        assert re.search(rf"^\| {words} \| {value:,}[ ,]", text, re.MULTILINE), words


def test_the_start_script_is_a_shell_script() -> None:
    """scripts/serve parses as POSIX shell and is executable."""
    script = ROOT / "scripts/serve"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", script]).returncode == 0
