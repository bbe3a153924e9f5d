"""The file of users, read when an instance starts and whenever it reads its configuration again."""

from pathlib import Path
from typing import Final

import msgspec

from registry_proxy.config.values import Config
from registry_proxy.errors import ConfigInvalid
from registry_proxy.plan import htpasswd

_LARGEST: Final = 16 << 20


def with_users(config: Config) -> Config:
    """The configuration with the users of its file; raises ConfigInvalid, which repeats nothing of a hash."""
    path = config.users.htpasswd
    if path is None:
        return config
    try:
        return msgspec.structs.replace(config, htpasswd=htpasswd.parse(_text(path)))
    except OSError as error:
        why = error.strerror or str(error)
    except UnicodeDecodeError:
        why = "not UTF-8 text"
    except ValueError as error:
        why = str(error)
    raise ConfigInvalid(f"users.htpasswd: {path}: {why}")


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST} bytes")
    return data.decode("utf-8")
