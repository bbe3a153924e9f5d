"""The composition root: builds everything once and owns lifetimes. No logic."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from registry_proxy.access.proofs import Proofs
from registry_proxy.config import Config
from registry_proxy.net.client import Client
from registry_proxy.pull.blobs import Blobs
from registry_proxy.pull.discovery import Discovery
from registry_proxy.pull.manifests import Manifests
from registry_proxy.sources.registry import Registry
from registry_proxy.sources.upstream import UpstreamSource
from registry_proxy.stats import Stats
from registry_proxy.telemetry import logs
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.store import ChunkStore
from registry_proxy.web.server import Face

_log = structlog.get_logger()
