"""[[cvmfs_http]] in the configuration file."""

from pathlib import Path

import pytest

from registry_proxy.config import load
from registry_proxy.errors import ConfigInvalid

TABLE = """
[[cvmfs_http]]
repository = "images.example.org"
servers = ["http://stratum1.example:8000/cvmfs/images.example.org"]
keys = ["example.org.pub"]
"""


def test_tables_in_order(tmp_path: Path) -> None:
    """Each table is a repository; keys lie beside the file; the order is kept."""
    file = tmp_path / "proxy.toml"
    file.write_text(TABLE + TABLE.replace("images.", "more.") + 'patience = "3s"\nblacklist = "bad"')
    one, two = load(file, {}).cvmfs_http
    assert (one.repository, one.keys, one.patience) == ("images.example.org", (tmp_path / "example.org.pub",), 10.0)
    assert (two.repository, two.blacklist, two.patience) == ("more.example.org", tmp_path / "bad", 3.0)


def test_the_machines_forward_proxies_are_meant(tmp_path: Path) -> None:
    """With a repository, CVMFS_HTTP_PROXY stands for forward proxies that nobody has named."""
    file = tmp_path / "proxy.toml"
    file.write_text(TABLE)
    environ = {"CVMFS_HTTP_PROXY": "http://squid.example:3128"}
    assert load(file, environ).forward_proxies.groups == "http://squid.example:3128"
    assert load(None, environ).forward_proxies.groups == "DIRECT"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("images.example.org", "../up"), r"cvmfs_http\[0\]\.repository: '\.\./up' is not"),
        (('servers = ["http', 'servers = ["ftp'), r"cvmfs_http\[0\]\.servers\[0\]: not an http"),
        (('keys = ["example.org.pub"]', "keys = []"), r"cvmfs_http\[0\]\.keys: at least one"),
        (("keys =", "key ="), r"cvmfs_http\[0\]\."),
        (("keys =", 'patience = "0s"\nkeys ='), r"cvmfs_http\[0\]\.patience: more than 0"),
        (("keys =", 'forward_proxies = "auto"\nkeys ='), r"cvmfs_http\[0\]\.forward_proxies: auto"),
        (("[[cvmfs_http]]", "[cvmfs_http]"), r"cvmfs_http: expected tables"),
    ],
)
def test_complaints_name_the_key(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    """What is wrong is said with the table's number and the key."""
    file = tmp_path / "proxy.toml"
    file.write_text(TABLE.replace(*change))
    with pytest.raises(ConfigInvalid, match=complaint):
        load(file, {})
