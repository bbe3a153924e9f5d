"""``registry-proxy check``: is this configuration right, and what do its upstreams offer."""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from registry_proxy.cli.findings import Probed, SourceFound, StoreFound, TierFound
from registry_proxy.cli.options import NO_FLAGS, Json, Setup, image_name
from registry_proxy.cli.output import counted, print_json, print_table, waiting
from registry_proxy.config import Config, Logging
from registry_proxy.config.units import size_text
from registry_proxy.config.users import with_users
from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import ImageName, SourceHost


def check(
    *,
    image: Annotated[
        tuple[str, ...],
        Parameter(
            negative="", show_default=False, help="An image to try ranges on, HOST/REPOSITORY[:TAG]; one per upstream."
        ),
    ] = (),
    json: Json = False,
    setup: Setup = NO_FLAGS,
) -> int:
    """Validate a configuration and try each upstream, tier, source and forward proxy.

    Exit code 0 if the store can be used and every upstream answers, 1 if not, 2 if the configuration is wrong. What fails of the
    tiers and sources is told, and does not count: the proxy works without them.

    For example:

    - `registry-proxy check`
    - `registry-proxy check --config /etc/registry-proxy/proxy.toml --image quay.io/centos/centos:stream9`
    - `registry-proxy check --upstream gitlab.example=http://127.0.0.1:5001 --json`
    """
    from registry_proxy.cli.advice import look_at_store, warnings
    from registry_proxy.cli.probe import look_at_tiers, probe_all
    from registry_proxy.cli.sources import look_at_sources
    from registry_proxy.net.trust import check_authorities
    from registry_proxy.telemetry import logs

    config = setup.load()
    if config.users.htpasswd is not None and os.access(config.users.htpasswd, os.R_OK):
        with_users(config)
    check_authorities(config)
    images = _by_upstream(config, [image_name(text) for text in image])
    store = look_at_store(config, Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    advice = list(warnings(config, store))
    logs.configure(Logging(level="error"))  # a retry is no news here
    with waiting(f"trying {counted(len(config.upstreams), 'upstream')}; one that is silent takes its time"):
        probes = asyncio.run(probe_all(config, images))
        tiers = asyncio.run(look_at_tiers(config))
        sources = asyncio.run(look_at_sources(config))
    good = store.error is None and not any(one.error for one in probes)
    if json:
        found = {
            "upstreams": [asdict(one) for one in probes],
            "store": asdict(store),
            "tiers": [asdict(one) for one in tiers],
            "sources": [asdict(one) for one in sources],
        }
        print_json({"ok": good, **found, "warnings": advice})
    else:
        _show(probes, store, tiers, sources, advice)
    return 0 if good else 1


def _by_upstream(config: Config, images: list[ImageName]) -> dict[SourceHost, ImageName]:
    for image in images:
        if image.host not in config.upstreams:
            raise ConfigInvalid(f"--image: {image.host} is not a configured upstream")
    return {image.host: image for image in images}


def _show(
    probes: list[Probed],
    store: StoreFound,
    tiers: list[TierFound],
    sources: list[SourceFound],
    advice: list[str],
) -> None:
    columns = ("upstream", "url", "answers", "authorization", "ranges", "multi-range", "time")
    print_table("upstreams", columns, (_row(one) for one in probes))
    for one in probes:
        if one.error:
            print(f"upstream {one.upstream}: no: {one.error}")
    if any(one.status == 401 for one in probes):
        print("401: without credentials, some repositories may be public and others not")
    if any(one.ranges == "unknown" and not one.error for one in probes):
        print("ranges are known once an image is tried: --image HOST/REPOSITORY:TAG")
    verdict = f"no: {store.error}" if store.error else "usable"
    print(
        f"store {store.path}: {verdict}; {store.file_system}, {size_text(store.free)} free, limit {size_text(store.limit)}"
    )
    for tier in tiers:
        print(f"cvmfs {tier.path}: {'no: ' + tier.error if tier.error else 'answers'}")
    for source in sources:
        print(f"{source.kind} {source.name}: {'no: ' + source.error if source.error else source.told}")
    for line in advice:
        print(f"warning: {line}")
    print(_verdict(probes, store))


def _verdict(probes: list[Probed], store: StoreFound) -> str:
    """What the exit code says, in words."""
    dead = [one.upstream for one in probes if one.error]
    wrong = [f"{len(dead)} of {counted(len(probes), 'upstream URL')} failed"] * bool(dead)
    wrong += ["the store cannot be used"] * bool(store.error)
    return f"not ok: {' and '.join(wrong)}" if wrong else "ok: every upstream answers, the store can be used"


def _row(one: Probed) -> tuple[str, ...]:
    if one.error:
        return (one.upstream, one.url, "no", "", "", "", "")
    answers = "yes" if one.status == 200 else f"yes, {one.status}"
    authorization = f"{one.authorization}, with an account" if one.account else one.authorization
    time = "" if one.seconds is None else f"{one.seconds * 1000:.0f} ms"
    return (one.upstream, one.url, answers, authorization, one.ranges, one.multi_range, time)
