"""lazy convert, status, cancel: waiting for what an instance makes, and what is said when it does not."""

import json
from pathlib import Path

import pytest

from registry_proxy.cli import conversion, main
from registry_proxy.cli.conversion import Conversion
from registry_proxy.cli.http import Instance
from registry_proxy.cli.options import image_name
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import Watcher
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from tests.cli.conftest import Canned, FakeInstance

REPOSITORY = "library/alpine"
LAYERS = [b"layer" * 1000, b"other" * 500]
MADE = json.dumps({"mediaType": OCI_MANIFEST, "config": None, "layers": [], "annotations": {"made": "yes"}}).encode()
LAZY = f"/v2/{REPOSITORY}/manifests/latest-esgz?ns=docker.io"
NAME = "docker.io/library/alpine:latest-esgz"
DIGESTS = [str(Digest.of(layer)) for layer in LAYERS]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits as a person would, nor looks while it waits for an answer."""
    monkeypatch.setattr(conversion, "_PAUSE", 0.0)
    monkeypatch.setattr(conversion, "_LOOK", 60.0)


@pytest.fixture
def alpine(fake: FakeInstance) -> FakeInstance:
    """An image, and an instance that has nothing in hand."""
    fake.image(REPOSITORY, "docker.io", LAYERS, "latest")
    fake.put("/stats", stats())
    return fake


def job(state: str, **more: object) -> dict[str, object]:
    """A job on the image's first layer, half done."""
    size = len(LAYERS[0])
    found = {"id": "estargz-0123456789abcdef", "image": f"docker.io/{REPOSITORY}", "layer": DIGESTS[0]}
    return {**found, "state": state, "taken_bytes": size // 2, "size_bytes": size, "error": "", **more}


def stats(*jobs: dict[str, object]) -> Canned:
    figures = {"layers": 3, "bytes": 2 << 20, "limit": 1 << 30, "blobs": 3, "refused": 0, "states": {}}
    return Canned(json.dumps({"lazy": {**figures, "jobs": jobs}}).encode())


def refused(status: int, code: str, message: str) -> Canned:
    return Canned(json.dumps({"errors": [{"code": code, "message": message}]}).encode(), status)


def converted(capsys: pytest.CaptureFixture[str], url: str, *words: str) -> dict[str, object]:
    """What ``convert --json`` says of the image; the exit code fits."""
    code = main.run(["lazy", "convert", "alpine", "--server", url, "--json", *words])
    [image] = json.loads(capsys.readouterr().out)["images"]
    assert code == (1 if image["error"] else 0)
    return image


def test_what_is_ready_is_there_at_once(alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The digest of the lazy form is printed, and the instance asked for it once."""
    alpine.put(LAZY, Canned(MADE))
    assert main.run(["lazy", "convert", "alpine", "--server", server]) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}: {Digest.of(MADE)} in ")
    assert alpine.paths("manifests").count("latest-esgz") == 1


@pytest.mark.parametrize("policy", ["wait", "not-found", "original"])
def test_what_is_being_made_is_waited_for(
    alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    """Whatever the instance answers meanwhile, the lazy form is what counts, even if the last layer ends between two looks."""
    plain = alpine.answers[f"/v2/{REPOSITORY}/manifests/latest?ns=docker.io"][0]
    unready = {
        "wait": refused(503, "TOOMANYREQUESTS", "is being made"),
        "not-found": refused(404, "MANIFEST_UNKNOWN", "is being made"),
        "original": plain,
    }[policy]
    alpine.put("/stats", stats(job("waiting")), stats(job("running")), stats(job("done")))
    alpine.put(LAZY, unready, unready, unready, Canned(MADE))
    assert converted(capsys, server)["digest"] == str(Digest.of(MADE))


class Seen(Watcher):
    """What a watcher was told last, and in all."""

    def __init__(self) -> None:
        self.expected = self.taken = 0

    def expect(self, name: str, count: int) -> None:
        self.expected = count

    def advance(self, name: str, count: int) -> None:
        self.taken += count


def test_progress_is_of_the_layers(alpine: FakeInstance, server: str) -> None:
    """Bytes of layers read so far, each counted once, until all of what was expected has been."""
    size, seen = len(LAYERS[0]), Seen()
    alpine.put("/stats", stats(job("waiting", taken_bytes=0)), stats(job("running")), stats(job("done")))
    alpine.put(LAZY, *[refused(503, "TOOMANYREQUESTS", "is being made")] * 3, Canned(MADE))
    image, lazy = image_name("alpine"), image_name("alpine:latest-esgz")
    assert Conversion(Instance(server), image, lazy, "estargz", [Wanted()], seen).manifest() == MADE
    assert (seen.expected, seen.taken) == (size, size)


def test_soci_is_another_suffix(alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--format soci asks for the image with the index."""
    alpine.put(LAZY.replace("esgz", "soci"), Canned(MADE))
    found = converted(capsys, server, "--format", "soci")
    assert (found["image"], found["digest"]) == (NAME.replace("esgz", "soci"), str(Digest.of(MADE)))


def test_a_layer_that_fails_is_named(alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The instance's last words about the layer are the error; another repository's job on the same layer counts."""
    alpine.put(LAZY, refused(503, "TOOMANYREQUESTS", "was not made lazy"))
    elsewhere = "docker.io/library/debian"
    alpine.put("/stats", stats(job("running", image=elsewhere)), stats(job("failed", image=elsewhere, error="no room")))
    assert converted(capsys, server)["error"] == f"layer {DIGESTS[0]}: no room"


def test_other_jobs_are_no_reason(alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What fails for another tag of the repository, or in another form, is not this image's failure."""
    others = job("failed", layer=f"sha256:{'0' * 64}"), job("failed", id="soci-4194304-0123456789abcdef")
    alpine.put("/stats", stats(*others))
    alpine.put(LAZY, refused(503, "TOOMANYREQUESTS", "is being made"), Canned(MADE))
    assert converted(capsys, server)["error"] is None


@pytest.mark.parametrize("status", [404, 503])
def test_what_will_not_be_made_is_said(
    alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    """A refusal with nothing in hand is believed the second time, and told in the instance's words."""
    alpine.put(LAZY, refused(status, "MANIFEST_UNKNOWN", "no layer can be made lazy"))
    assert converted(capsys, server)["error"] == f"{status} MANIFEST_UNKNOWN: no layer can be made lazy"
    assert alpine.paths("manifests").count("latest-esgz") == 2


def test_one_failure_does_not_keep_others(
    alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that does not exist is told, the next is made; the exit code says that something went wrong."""
    alpine.put(LAZY, Canned(MADE))
    assert main.run(["lazy", "convert", "nowhere", "alpine", "--server", server]) == 1
    out, err = capsys.readouterr()
    assert "nowhere:latest-esgz: failed after" in err
    assert "404" in err
    assert str(Digest.of(MADE)) in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one image"),
        ([f"alpine@{DIGESTS[0]}"], "by its tag"),
        (["alpine", "--to", "https://user:secret@registry.example"], "carries no user name or password"),
        (["alpine", "--to", "docker://registry.example/team"], "--to: a directory, or http[s]://"),
        (["docker://alpine"], "without docker://"),
        (["alpine", "--to", "https://registry.example/NOT_A_REPOSITORY"], "not a repository name"),
        (["alpine:1", "debian:1", "--to", "layout"], "two of these images would both be 1-esgz there"),
        (["alpine:1", "debian:1", "--to", "https://registry.example/one"], "both be one:1-esgz there"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be meant is refused before anything is made, and nothing is repeated that could be a password."""
    monkeypatch.chdir(tmp_path)
    assert main.run(["lazy", "convert", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert list(tmp_path.iterdir()) == []


def test_status_shows_what_is_in_hand(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each job: state, how far it is, what went wrong; as JSON what the instance says."""
    fake.put("/stats", stats(job("running"), job("refused", error="not a gzip layer")))
    assert main.run(["lazy", "status", "--server", server]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 layers made, 2.0 MiB of 1.0 GiB" in lines[0]
    assert [word in lines[3] for word in ("running", "50 %", f"docker.io/{REPOSITORY}")] == [True] * 3
    assert ("refused" in lines[4], "not a gzip layer" in lines[4], "%" in lines[4]) == (True, True, False)
    assert main.run(["lazy", "status", "--server", server, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["jobs"]) == 2


def test_status_of_nothing(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without jobs there is a line, and no table."""
    fake.put("/stats", stats())
    assert main.run(["lazy", "status", "--server", server]) == 0
    assert capsys.readouterr().out == "3 layers made, 2.0 MiB of 1.0 GiB; nothing in hand\n"


def test_status_of_something_else(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is no instance is told as such."""
    fake.put("/stats", Canned(b"<html>"))
    assert main.run(["lazy", "status", "--server", server]) == 1
    assert "not an instance of this program" in capsys.readouterr().err


def test_cancel_removes_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The job's file goes, which ends it; what is no job's name removes nothing."""
    jobs = tmp_path / "store" / "lazy" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "estargz-0123456789abcdef.json").write_bytes(b"{}")
    (jobs.parent / "other.json").write_bytes(b"{}")
    for name in ("soci-nothing", "../other", ".."):
        assert main.run(["lazy", "cancel", name, "--store", str(tmp_path / "store")]) == 2
        assert "no such job" in capsys.readouterr().err
    assert main.run(["lazy", "cancel", "estargz-0123456789abcdef", "--store", str(tmp_path / "store")]) == 0
    assert list(jobs.iterdir()) == []
    assert (jobs.parent / "other.json").exists()
