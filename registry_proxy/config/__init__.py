"""Configuration: the values (``values``), the TOML file that makes them (``loader``), the public registries known without one."""

from registry_proxy.config.loader import Flags, load
from registry_proxy.config.values import (
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
)

__all__ = [
    "Account",
    "Config",
    "Cvmfs",
    "CvmfsHttp",
    "Flags",
    "Forwarding",
    "Lazy",
    "LazyRule",
    "Logging",
    "Parent",
    "Policy",
    "Server",
    "Store",
    "Timeouts",
    "Tls",
    "Upstream",
    "Users",
    "load",
]
