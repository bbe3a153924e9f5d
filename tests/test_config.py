"""The configuration: what a file may say, and the one line that answers what it may not."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.config import Account, Config, Flags, load
from registry_proxy.config.address import Address
from registry_proxy.config.defaults import PUBLIC
from registry_proxy.config.units import Seconds, Size, parse_duration, parse_share, parse_size, size_text
from registry_proxy.errors import BadRequest, ConfigInvalid

NO_FLAGS = Flags()
ENVIRON = {"XDG_CACHE_HOME": "/var/cache/of-a-user"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "proxy.toml"


def read(file: Path, text: str, flags: Flags = NO_FLAGS) -> Config:
    file.write_text(text)
    return load(file, ENVIRON, flags)


def complaint(file: Path, text: str, flags: Flags = NO_FLAGS) -> str:
    """The line that a wrong file is answered with, without the file's name."""
    with pytest.raises(ConfigInvalid) as caught:
        read(file, text, flags)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{file}: ")


class TestDefaults:
    def test_a_newcomer_needs_no_file(self) -> None:
        """Without a file the public registries are known, loopback is listened on, the user's cache directory holds the store."""
        config = load(None, ENVIRON)
        assert config.server.listen == ("127.0.0.1:5000",)
        assert config.store.path == Path("/var/cache/of-a-user/registry-proxy")
        assert set(config.upstreams) == set(PUBLIC)
        assert config.upstreams["docker.io"].urls == ("https://registry-1.docker.io",)
        assert config.upstreams["quay.io"].urls == ("https://quay.io",)

    @pytest.mark.parametrize("cache", ["", "relative/cache"])
    def test_the_home_directory_is_the_fallback(self, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An unset or relative XDG_CACHE_HOME means ~/.cache."""
        monkeypatch.setenv("HOME", "/home/somebody")
        assert load(None, {"XDG_CACHE_HOME": cache}).store.path == Path("/home/somebody/.cache/registry-proxy")

    def test_an_empty_file_changes_nothing(self, file: Path) -> None:
        """An empty file means the defaults."""
        assert read(file, "") == load(None, ENVIRON)

    def test_the_environment_names_the_file(self, file: Path) -> None:
        """REGISTRY_PROXY_CONFIG stands for --config, which wins over it."""
        file.write_text("[log]\nlevel = 'debug'\n")
        environ = {**ENVIRON, "REGISTRY_PROXY_CONFIG": str(file)}
        assert load(None, environ).log.level == "debug"
        other = file.with_name("other.toml")
        other.write_text("")
        assert load(other, environ).log.level == "info"


class TestFile:
    def test_sizes_durations_and_paths_are_read_from_text(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sizes, durations and paths are written as people write them."""
        monkeypatch.setenv("HOME", "/home/somebody")
        config = read(
            file,
            """
            [store]
            path = "~/chunks"
            limit = "500GiB"
            chunk_size = "256KiB"
            [policy]
            tag_fresh = "5m"
            patience = 12.5
            """,
        )
        assert config.store.path == Path("/home/somebody/chunks")
        assert (config.store.limit, config.store.chunk_size) == (500 << 30, 256 << 10)
        assert (config.policy.tag_fresh, config.policy.patience) == (300.0, 12.5)

    def test_a_relative_path_is_meant_from_the_file(self, file: Path) -> None:
        """A relative path is looked up beside the configuration file, wherever the program was started."""
        config = read(file, '[store]\npath = "chunks"\n[upstream."a.example"]\nca = "ca.pem"')
        assert config.store.path == file.parent / "chunks"
        assert config.upstreams["a.example"].ca == file.parent / "ca.pem"

    def test_a_limit_may_be_a_share_of_the_file_system(self, file: Path) -> None:
        """20% is that share of the file system the store will lie on, even before its directory is there."""
        whole = read(file, '[store]\npath = "not/there/yet"\nlimit = "100%"').store.limit
        fifth = read(file, '[store]\npath = "not/there/yet"\nlimit = "20%"').store.limit
        assert whole is not None
        assert fifth == pytest.approx(whole / 5, abs=1)

    def test_an_upstream_of_the_file_joins_the_public_ones(self, file: Path) -> None:
        """A table adds to the public registries or refines one, and its URL follows from its name."""
        config = read(file, '[upstream."registry.example:5001"]\n[upstream."docker.io"]\nconnections = 2')
        assert config.upstreams["registry.example:5001"].urls == ("https://registry.example:5001",)
        assert config.upstreams["docker.io"].connections == 2
        assert config.upstreams["docker.io"].urls == ("https://registry-1.docker.io",)
        assert "quay.io" in config.upstreams

    def test_the_public_registries_can_be_left_out(self, file: Path) -> None:
        """default_upstreams = false leaves only the file's own."""
        config = read(file, 'default_upstreams = false\n[upstream."A.example"]\nurls = ["http://127.0.0.1:1/"]')
        assert list(config.upstreams) == ["a.example"]
        assert config.upstreams["a.example"].urls == ("http://127.0.0.1:1",)

    def test_an_account_on_loopback_needs_no_patterns(self, file: Path) -> None:
        """An account is read from its sub-table; on loopback it may serve every repository."""
        config = read(file, '[upstream."a.example".account]\nusername = "robot"\npassword_file = "secret"')
        account = config.upstreams["a.example"].account
        assert account == Account(username="robot", password_file=file.parent / "secret")

    def test_an_account_never_shows_its_password(self) -> None:
        """A configuration can be logged: its repr holds no password."""
        assert "hunter2" not in repr(Account(username="robot", password="hunter2"))


PASSING = "[upstream.'a.example']\naccess = 'pass-through'\n"
READERS = "[users]\nhtpasswd = 'u'\n[upstream.'a.example']\naccess = 'local'\nreaders = "
WRONG = [
    ("[server", "Expected"),
    ("flavour = 1", "flavour: unknown key"),
    ("[sever]", "sever: unknown key (did you mean server?)"),
    ("[server]\nlisten_on = []", "server.listen_on: unknown key (did you mean listen?)"),
    ("server = 1", "server: expected a table, got int"),
    ("store = 1", "store: expected a table, got int"),
    ("[server]\nlisten = ['localhost']", "server.listen[0]: 'localhost' is not an address"),
    ("[server]\nlisten = '127.0.0.1:5000'", "server.listen: expected array, got str"),
    ("[server]\nlisten = []", "server.listen: at least one address"),
    ("[server]\nmax_ranges = 0", "server.max_ranges: more than 0"),
    ("[server]\nbodies = 0", "server.bodies: more than 0"),
    ("[server]\nqueue = -1", "server.queue: not less than 0"),
    ("[server]\nmax_url = '64KiB'", "server.max_header: between 4KiB and 1MiB, and more than max_url"),
    ("[server]\nlisten = ['unix:x.sock']", "server.listen[0]: 'unix:x.sock' is not an address"),
    ("[server]\ntls = true", "server.tls: expected a table | null, got bool"),
    ("[server.tls]\ncertificate = 'a'", "server.tls: object missing required field key"),
    ("[server.tls]\ncertificat = 'a'", "server.tls.certificat: unknown key (did you mean certificate?)"),
    ("[server.tls]\ncertificate='a'\nkey='b'\nminimum='1.1'", "server.tls.minimum: one of 1.2, 1.3"),
    ("[policy]\nsources = ['squid']", "policy.sources[0]: one of parent, cvmfs-http, upstream"),
    ("[store]\nlimit = '12 apples'", "store.limit: '12 apples' is not a size"),
    ("[store]\nlimit = '120%'", "store.limit: '120%' is not between"),
    ("[store]\nlimit = '1MiB'", "store.limit: a store holds at least 16 chunks"),
    ("[store]\nlimit = true", "store.limit: true is not a size"),
    ("[store]\npath = 1", "store.path: expected text, got int"),
    ("[store]\nchunk_size = '1MB'", "store.chunk_size: a power of two"),
    ("[store]\nchunk_size = '32KiB'", "store.chunk_size: a power of two"),
    ("[store]\nchunk_size = '32MiB'", "store.chunk_size: a power of two"),
    ("[policy]\npatience = 'long'", "policy.patience: 'long' is not a duration"),
    ("[policy]\npatience = -1", "policy.patience: more than 0"),
    ("[policy]\nslow = nan", "policy.slow: nan is not a duration"),
    ("[policy]\nslow = inf", "policy.slow: inf is not a duration"),
    ("[policy]\nmiss_remembered = '1m'", "policy.miss_remembered: at most 5s"),
    ("[policy]\noffline = 'yes'", "policy.offline: expected bool, got str"),
    ("[log]\nlevel = 'loud'", "log.level: one of debug, info, warning, error"),
    ("default_upstreams = 1", "default_upstreams: expected true or false"),
    ("default_upstreams = false", "upstream: no upstream is configured"),
    ("upstream = []", "upstream: expected tables"),
    ("[upstream]\n'docker.io' = 1", 'upstream."docker.io": expected a table, got int'),
    ("[upstream.'no host']", 'upstream."no host": not a registry host'),
    ("[upstream.'a.example']\nurls = []", 'upstream."a.example".urls: at least one URL'),
    ("[upstream.'a.example']\nurls = ['ftp://a']", 'upstream."a.example".urls[0]: not an http:// or https:// URL'),
    (
        "[upstream.'a.example']\nurls = ['https://a', 'https://a?x']",
        'upstream."a.example".urls[1]: a URL of a registry',
    ),
    ("[upstream.'a.example']\nurls = ['https://a/v2/']", 'upstream."a.example".urls[0]: leave out the /v2'),
    ("[upstream.'a.example']\nurls = ['https://a:99999']", 'upstream."a.example".urls[0]: the host, the port'),
    ("[upstream.'a.example']\nurl = 'https://a'", 'upstream."a.example".url: unknown key (did you mean urls?)'),
    ("[upstream.'a.example'.timeouts]\nheader = 0", 'upstream."a.example".timeouts.header: more than 0'),
    ("[upstream.'a.example'.timeouts]\nhaeder = 1", 'upstream."a.example".timeouts.haeder: unknown key'),
    ("[upstream.'a.example'.account]\nusername = 'u'", 'upstream."a.example".account.password: an account has one of'),
    ("[upstream.'a.example'.account]\npassword = 'p'", 'upstream."a.example".account.username: missing'),
    ("[upstream.'a.example']\nrepositories = ['/a']", "upstream.\"a.example\".repositories[0]: '/a' is not a pattern"),
    ("[upstream.'a.example']\nlisten = [':x']", "upstream.\"a.example\".listen[0]: ':x' is not an address"),
    (PASSING + "urls = ['https://a', 'https://b']", 'upstream."a.example".urls: one URL'),
    (
        PASSING + "urls = ['http://a.example']\nforward_proxy = 'http://squid:3128'",
        'upstream."a.example".forward_proxy: what clients show',
    ),
    (PASSING + "account = {username = 'u', password = 'p'}", 'upstream."a.example".account: a pass-through upstream'),
    (PASSING + "catalog = true", 'upstream."a.example".catalog: each user of a pass-through upstream'),
    (PASSING + "readers = {a = ['*']}", 'upstream."a.example".readers: these are the proxy\'s own users'),
    ("[policy]\nverdict = '6m'", "policy.verdict: at most 5m"),
    ("[policy]\nverdict = 0", "policy.verdict: more than 0"),
    ("[users]\nhtpaswd = 'x'", "users.htpaswd: unknown key (did you mean htpasswd?)"),
    ("[upstream.'a.example']\naccess = 'closed'", 'upstream."a.example".access: one of open, pass-through, local'),
    ("[upstream.'a.example']\naccess = 'local'", 'upstream."a.example".access: local needs readers or networks'),
    ("[upstream.'a.example']\nreaders = {a = ['*']}", 'upstream."a.example".readers: these are the proxy\'s own users'),
    ("[upstream.'a.example']\naccess = 'local'\nreaders = {a = ['*']}", 'upstream."a.example".readers: nobody can say'),
    (READERS + "{'a:b' = ['*']}", 'upstream."a.example".readers."a:b": \'a:b\' is no name of a user'),
    (READERS + "{alice = []}", 'upstream."a.example".readers."alice": at least one pattern'),
    (READERS + "{alice = ['Team/*']}", 'upstream."a.example".readers."alice"[0]: \'Team/*\' is not a pattern'),
    (READERS + "{alice = 'team/*'}", 'upstream."a.example".readers[...]: expected array, got str'),
    (
        "[upstream.'a.example']\nnetworks = ['10.0.0.1/8']",
        "upstream.\"a.example\".networks[0]: '10.0.0.1/8' is an address",
    ),
    ("[upstream.'a.example']\nnetworks = ['unix', 'x']", "upstream.\"a.example\".networks[1]: 'x' is not a network"),
    (
        "[upstream.'a.example']\nlisten = ['127.0.0.1:5000']",
        'upstream."a.example".listen: 127.0.0.1:5000 is already taken',
    ),
]


class TestWrong:
    @pytest.mark.parametrize(("text", "line"), WRONG, ids=[line for _, line in WRONG])
    def test_a_mistake_is_one_line_that_names_the_key(self, file: Path, text: str, line: str) -> None:
        """A wrong file is answered by one line: the file, the key, the problem."""
        assert complaint(file, text).startswith(line)

    def test_every_complaint_names_the_file(self, file: Path) -> None:
        """The line begins with the file's own path."""
        with pytest.raises(ConfigInvalid, match=f"^{file}: "):
            read(file, "[sever]")

    def test_a_missing_file_is_named(self, file: Path) -> None:
        """A file that is not there is one line too."""
        with pytest.raises(ConfigInvalid, match=f"^{file}: No such file or directory$"):
            load(file, ENVIRON)

    def test_a_file_that_is_no_text_is_named(self, file: Path) -> None:
        """A binary file is one line too."""
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigInvalid, match=f"^{file}: not UTF-8 text$"):
            load(file, ENVIRON)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a = " + "[" * 50_000, "nested too deeply"),
            ("a = " + "{ a = " * 50_000, "nested too deeply"),
            ("a = " + "9" * 5_000, ""),
        ],
        ids=["arrays", "tables", "digits"],
    )
    def test_what_the_parser_cannot_bear(self, file: Path, text: str, why: str) -> None:
        """What is beyond the parser's own limits is one line like any other mistake."""
        with pytest.raises(ConfigInvalid, match=f"^{file}: .*{why}"):
            read(file, text)

    @pytest.mark.parametrize(
        "text",
        [
            "[upstream.'a.example']\nurls = ['https://robot:hunter2@a.example']",
            "[upstream.'a.example']\nforward_proxy = 'http://robot:hunter2@squid:3128'",
            "[upstream.'a.example'.account]\nusername = 'robot'\npassword = ['hunter2']",
            "[upstream.'a.example'.account]\nusername = 'robot'\npassword = 'hunter2'\npassword_file = 'x'",
            "[upstream.'a.example'.account]\npassword = 'hunter2'",
            "[upstream.'a.example'.account]\npassword = 'hunter2",
        ],
    )
    def test_a_complaint_repeats_no_secret(self, file: Path, text: str) -> None:
        """Whatever is wrong around a password, the line does not show it."""
        assert "hunter2" not in complaint(file, text)

    @pytest.mark.parametrize("address", ["0.0.0.0:5000", ":5000", "[::]:5000", "192.0.2.1:5000", "cache.example:5000"])
    def test_an_account_beyond_loopback_needs_patterns(self, file: Path, address: str) -> None:
        """An account that other machines could read through must name its repositories; then it may."""
        account = "[upstream.'a.example'.account]\nusername = 'u'\npassword = 'p'\n"
        listen = f"[server]\nlisten = ['127.0.0.1:1', '{address}']\n"
        assert complaint(file, listen + account).startswith('upstream."a.example".repositories: name the repositories')
        patterns = "[upstream.'a.example']\nrepositories = ['atlas/*']\n"
        assert read(file, listen + patterns + account).upstreams["a.example"].repositories == ("atlas/*",)

    def test_a_guarded_upstream_lends_its_account_to_nobody_unknown(self, file: Path) -> None:
        """With users of the proxy's own, an account needs no patterns beyond loopback: readers have theirs."""
        text = READERS + "{alice = ['*']}\nlisten = [':5001']\naccount = {username = 'u', password = 'p'}\n"
        upstream = read(file, text).upstreams["a.example"]
        assert upstream.guarded
        assert upstream.readers == {"alice": ("*",)}

    def test_certificates_name_users_too(self, file: Path) -> None:
        """Readers need some way to say who they are: certificates are one."""
        tls = "[server.tls]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n"
        text = tls + "[upstream.'a.example']\naccess = 'local'\nreaders = {alice = ['*']}\n"
        assert read(file, text).upstreams["a.example"].access == "local"

    def test_a_listener_of_the_upstream_counts_as_exposure(self, file: Path) -> None:
        """The upstream's own listener beyond loopback opens its account as the general one does."""
        text = "[upstream.'a.example']\nlisten = [':5001']\naccount = {username = 'u', password = 'p'}\n"
        assert "name the repositories" in complaint(file, text)


class TestFlags:
    def test_flags_win_over_the_file(self, file: Path) -> None:
        """Every flag replaces what the file says and leaves the rest."""
        config = read(
            file,
            "[server]\nlisten = ['127.0.0.1:1']\ndrain = 3\n[store]\npath = '/a'\nlimit = '1TiB'\n",
            Flags(("127.0.0.1:2", "[::1]:2"), Path("/b"), "2TiB"),
        )
        assert config.server.listen == ("127.0.0.1:2", "[::1]:2")
        assert config.server.drain == 3
        assert (config.store.path, config.store.limit) == (Path("/b"), 2 << 40)

    def test_an_upstream_flag_replaces_the_whole_table(self, file: Path) -> None:
        """An account of the file is never sent to a URL of the command line; the same name again is a mirror."""
        config = read(
            file,
            "[upstream.'a.example']\nurls = ['https://a.example']\naccount = {username = 'u', password = 'p'}\n",
            Flags(
                upstreams=(
                    "a.example=http://127.0.0.1:1",
                    "a.example=http://127.0.0.1:2/",
                    "b.example=http://127.0.0.1:3",
                )
            ),
        )
        assert config.upstreams["a.example"].urls == ("http://127.0.0.1:1", "http://127.0.0.1:2")
        assert config.upstreams["a.example"].account is None
        assert config.upstreams["b.example"].urls == ("http://127.0.0.1:3",)

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            (Flags(listen=("nonsense",)), "--listen: 'nonsense' is not an address"),
            (Flags(store_limit="many"), "--store-limit: 'many' is not a size"),
            (Flags(upstreams=("a.example",)), "--upstream: write NAME=URL"),
            (Flags(upstreams=("a b=http://x",)), "--upstream: not a registry host"),
            (Flags(upstreams=("a.example=http://u:hunter2@x",)), "--upstream: a.example: a URL carries no user name"),
        ],
    )
    def test_a_wrong_flag_is_named_instead_of_the_file(self, flags: Flags, line: str) -> None:
        """A mistake on the command line names the flag, and no secret."""
        with pytest.raises(ConfigInvalid) as caught:
            load(None, ENVIRON, flags)
        assert str(caught.value).startswith(line)
        assert "hunter2" not in str(caught.value)


class TestUnits:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("0", 0),
            ("1KiB", 1024),
            ("1.5 MiB", 1536 << 10),
            ("2GB", 2_000_000_000),
            ("1tib", 1 << 40),
            (7, 7),
            ("9 B", 9),
        ],
    )
    def test_sizes(self, text: object, size: int) -> None:
        """Binary and decimal units, in any case, with or without a space."""
        assert parse_size(text) == size

    @pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1e3", None, True, [], "20%", "1GiBx"])
    def test_no_sizes(self, text: object) -> None:
        """What is no size raises ValueError."""
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("250ms", 0.25), ("60s", 60), ("5m", 300), ("2h", 7200), ("1d", 86400), (2.5, 2.5), ("3", 3)],
    )
    def test_durations(self, text: object, seconds: float) -> None:
        """From milliseconds to days; a bare number is seconds."""
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize("text", ["", "s", "5 weeks", None, False, "M"])
    def test_no_durations(self, text: object) -> None:
        """What is no duration raises ValueError."""
        with pytest.raises(ValueError, match="is not a duration"):
            parse_duration(text)

    @given(st.integers(1, 100))
    def test_shares(self, percent: int) -> None:
        """A percentage is a fraction."""
        assert parse_share(f"{percent}%") == percent / 100

    @given(st.integers(0, 1 << 60))
    def test_any_size_has_a_short_text(self, count: int) -> None:
        """A size shown to a person is short and reads back to about itself."""
        text = size_text(count)
        assert len(text) <= 10
        assert parse_size(text) == pytest.approx(count, rel=0.06, abs=1)

    def test_values_stay_numbers(self) -> None:
        """Sizes and durations are ints and floats to every room that uses them."""
        assert Size(3) + 1 == 4
        assert Seconds(0.5) * 2 == 1.0
        assert msgspec.json.encode([int(Size(3))]) == b"[3]"


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "host", "port", "netloc", "loopback"),
        [
            ("127.0.0.1:5000", "127.0.0.1", 5000, "127.0.0.1:5000", True),
            ("127.8.9.1:1", "127.8.9.1", 1, "127.8.9.1:1", True),
            ("localhost:0", "localhost", 0, "localhost:0", True),
            ("[::1]:5000", "::1", 5000, "[::1]:5000", True),
            (":5000", "", 5000, "127.0.0.1:5000", False),
            ("0.0.0.0:5000", "0.0.0.0", 5000, "127.0.0.1:5000", False),
            ("[::]:5000", "::", 5000, "[::1]:5000", False),
            ("cache.example:80", "cache.example", 80, "cache.example:80", False),
            ("unix:/run/x.sock", "", 0, "127.0.0.1:0", True),
        ],
    )
    def test_addresses(self, text: str, host: str, port: int, netloc: str, loopback: bool) -> None:
        """A listen address gives host, port, how a local client reaches it, and whether only local clients can."""
        address = Address.parse(text)
        assert (address.host, address.port, address.netloc, address.is_loopback) == (host, port, netloc, loopback)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "5000",
            "::1:5000",
            "[::1]",
            "a:b",
            "a:123456",
            "a:70000",
            "[g::]:1",
            "http://a:1",
            "a b:1",
            "unix:",
            "unix:x.sock",
            "unix:/" + 107 * "x",
        ],
    )
    def test_no_addresses(self, text: str) -> None:
        """What is no address is refused."""
        with pytest.raises((ValueError, BadRequest)):
            Address.parse(text)


class TestForwardProxies:
    """The site's forward proxies, and parents behind them."""

    PARENT = "[parent]\nurls = ['http://parent.example:5000']\n"
    CVMFS = {
        **ENVIRON,
        "CVMFS_HTTP_PROXY": "http://a:3128|http://b:3128;DIRECT",
        "CVMFS_FALLBACK_PROXY": "http://c:3128",
    }

    def loaded(self, file: Path, text: str) -> tuple[str, str]:
        file.write_text(text)
        settings = load(file, self.CVMFS).forward_proxies
        return settings.groups, settings.fallback

    def test_those_of_the_cvmfs_client_are_used_where_none_are_named(self, file: Path) -> None:
        """CVMFS_HTTP_PROXY and CVMFS_FALLBACK_PROXY count where something goes through forward proxies and none are named."""
        assert self.loaded(file, self.PARENT) == (self.CVMFS["CVMFS_HTTP_PROXY"], "http://c:3128")
        assert self.loaded(file, "") == ("DIRECT", "")
        assert self.loaded(file, self.PARENT + "[forward_proxies]\ngroups = 'DIRECT'") == ("DIRECT", "")

    def test_an_unusable_list_of_the_environment_matters_only_if_it_is_used(self, file: Path) -> None:
        """A PAC file is refused by name, but not where nothing goes through forward proxies."""
        environ = {**ENVIRON, "CVMFS_HTTP_PROXY": "auto;DIRECT"}
        assert load(None, environ) == load(None, ENVIRON)
        file.write_text(self.PARENT)
        with pytest.raises(ConfigInvalid, match="CVMFS_HTTP_PROXY: auto"):
            load(file, environ)

    def test_flags(self, file: Path) -> None:
        """--parent and --forward-proxies win over the file and the environment."""
        file.write_text(self.PARENT)
        flags = Flags(parents=("http://other.example:5000/",), forward_proxies="http://squid:3128")
        config = load(file, self.CVMFS, flags)
        assert config.parent.urls == ("http://other.example:5000",)
        assert (config.forward_proxies.groups, config.forward_proxies.fallback) == ("http://squid:3128", "")

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            (Flags(parents=("parent.example",)), "--parent: not an http"),
            (Flags(forward_proxies="http://squid"), "--forward-proxies: http://squid: name the port"),
        ],
    )
    def test_wrong_flags(self, flags: Flags, line: str) -> None:
        """A mistake names its flag."""
        with pytest.raises(ConfigInvalid, match=line):
            load(None, ENVIRON, flags)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("[parent]\nurls = ['ftp://x']", "parent.urls[0]: not an http"),
            ("[parent]\nconnections = 0", "parent.connections: more than 0"),
            ("[forward_proxies]\ngroups = ''", "forward_proxies.groups: names no forward proxy"),
            ("[forward_proxies]\nfallback = 'auto'", "forward_proxies.groups: auto"),
            ("[forward_proxies]\ntimeout = 0", "forward_proxies.timeout: more than 0"),
            (
                "[upstream.'a.example']\nforward_proxy = 'http://squid:3128;auto'",
                'upstream."a.example".forward_proxy: auto',
            ),
        ],
    )
    def test_mistakes_in_the_file(self, text: str, line: str, file: Path) -> None:
        """A mistake names its key."""
        assert complaint(file, text).startswith(line)
