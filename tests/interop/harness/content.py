"""What the files of an image should be, and how a container tells what they are."""

import hashlib
import tarfile
from functools import cache

from tests.interop.harness.registries import Image
from tests.setup import images
from tests.setup import layout as oci

# Reads every file below /usr/lib/python3 in order, with a pause after each, and says how far it is.
HASH_PYTHON = """
import hashlib, os, sys, time
pause = float(sys.argv[1]) if len(sys.argv) > 1 else 0
total, count = hashlib.sha256(), 0
paths = [os.path.join(d, f) for d, _, fs in os.walk('/usr/lib/python3') for f in fs]
for path in sorted(path for path in paths if not os.path.islink(path)):
    with open(path, 'rb') as file:
        total.update(path.encode() + file.read())
    count += 1
    print(count, flush=True)
    time.sleep(pause)
print(total.hexdigest(), flush=True)
"""


@cache
def _python_files() -> dict[str, bytes]:
    """Every regular file below /usr/lib/python3 in `py`, whose content all forms of the image share."""
    files: dict[str, bytes] = {}
    plain = images.layout("py")
    for layer in oci.manifest(plain)["layers"]:
        with tarfile.open(oci.blob(plain, layer["digest"])) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() or member.islnk() else None
                if content is not None and member.name.startswith("usr/lib/python3/"):
                    files[f"/{member.name}"] = content.read()
    return files


def python_hash(image: Image) -> str:
    """What `HASH_PYTHON` must print last in any form of `py`."""
    assert image.name.startswith("py")
    total = hashlib.sha256()
    for path, content in sorted(_python_files().items()):
        total.update(path.encode() + content)
    return total.hexdigest()
