"""nginx in front of a server: it counts what passes, and takes byte ranges or blobs away as real sites do."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interop.harness.process import Process, answers, free_port

RANGELESS = 'proxy_set_header Range ""; proxy_hide_header Accept-Ranges;'  # as the registry of a GitLab often is
CONFIG = """
daemon off;
master_process off;
pid {directory}/{name}.pid;
error_log {directory}/{name}-error.log;
events {{ worker_connections 4096; }}
http {{
  log_format line escape=json
    '{{"method": "$request_method", "uri": "$request_uri", "range": "$http_range", "status": $status, '
    '"sent": $bytes_sent, "agent": "$http_user_agent"}}';
  access_log {log} line;
  client_max_body_size 0;
  large_client_header_buffers 8 64k;
  client_body_temp_path {directory}/{name}-body;
  proxy_temp_path {directory}/{name}-proxy;
  fastcgi_temp_path {directory}/{name}-fastcgi;
  uwsgi_temp_path {directory}/{name}-uwsgi;
  scgi_temp_path {directory}/{name}-scgi;
  proxy_http_version 1.1;
  proxy_max_temp_file_size 0;
  proxy_read_timeout 120s;
  proxy_set_header Host $http_host;
  proxy_set_header Connection "";
  {servers}
}}
"""
PLAIN = """
  server {{
    listen {listen};
    location / {{ {extra} proxy_pass http://{behind}; }}
  }}
"""
REDIRECTING = """
  server {{
    listen {listen};
    auth_basic "tests";
    auth_basic_user_file {accounts};
    location ~ ^/v2/.+/blobs/ {{ return 307 http://{storage}$uri?signature=abc; }}
    location / {{ proxy_pass http://{behind}; }}
  }}
  server {{
    listen {storage};
    location / {{
      if ($http_authorization) {{ return 400; }}
      if ($arg_signature != "abc") {{ return 403; }}
      proxy_pass http://{behind};
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that went through."""

    method: str
    uri: str
    range: str
    status: int
    sent: int
    agent: str


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx: where it listens, and what went through it."""

    address: str
    log: Path
    process: Process

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def requests(self) -> list[Seen]:
        """Every finished request since the start or the last `forget`, but for those of the harness."""
        seen = [Seen(**json.loads(line)) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [request for request in seen if not request.agent.startswith("Python-urllib")]

    def sent(self) -> int:
        """Bytes that it sent to clients, headers and all."""
        return sum(request.sent for request in self.requests())

    def forget(self) -> None:
        """Starts counting anew."""
        self.log.write_bytes(b"")


@contextlib.contextmanager
def nginx(servers: str, address: str, directory: Path) -> Iterator[Front]:
    """nginx with the given server blocks."""
    name = f"nginx-{address.rpartition(':')[2]}"
    log = directory / f"{name}-access.log"
    text = CONFIG.format(directory=directory, name=name, log=log, servers=servers)
    file = directory / f"{name}.conf"
    file.write_text(text, encoding="utf-8")
    with Process(name, ["nginx", "-c", file, "-p", directory], directory) as process:
        process.ready_when(lambda: answers(f"http://{address}/v2/", 200, 401, 502))
        yield Front(address, log, process)


@contextlib.contextmanager
def front(behind: str, directory: Path, *, ranges: bool = True) -> Iterator[Front]:
    """In front of host:port, with or without byte ranges."""
    address = f"127.0.0.1:{free_port()}"
    servers = PLAIN.format(listen=address, behind=behind, extra="" if ranges else RANGELESS)
    with nginx(servers, address, directory) as running:
        yield running


@contextlib.contextmanager
def redirecting(behind: str, directory: Path, accounts: Path) -> Iterator[Front]:
    """In front of host:port, for those with an account; blobs are redirected to another host, which refuses credentials.

    `accounts`: an htpasswd file. The other host, at 127.0.0.2, answers only under the signed address.
    """
    address, storage = f"127.0.0.1:{free_port()}", f"127.0.0.2:{free_port('127.0.0.2')}"
    servers = REDIRECTING.format(listen=address, storage=storage, behind=behind, accounts=accounts)
    with nginx(servers, address, directory) as running:
        yield running
