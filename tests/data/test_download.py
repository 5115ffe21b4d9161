"""A download is whole and the published file, or it leaves nothing behind."""

import hashlib
import io
import tarfile
from http.client import IncompleteRead
from urllib.error import URLError

import pytest

from flowebm.data import download as network
from flowebm.data.download import download, download_members

CONTENT = bytes(range(256)) * 9_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Breaks(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 0:
            raise IncompleteRead(b"")
        return super().read(100)


@pytest.fixture
def serve(monkeypatch):
    """Let addresses answer with bytes or errors; nothing is asked of a network."""

    def by(**answers):
        def opener(url, timeout):
            assert timeout > 0
            answer = answers[url]
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, io.BytesIO) else io.BytesIO(answer)

        monkeypatch.setattr(network, "urlopen", opener)

    return by


def test_the_published_file_appears_under_its_name(tmp_path, serve):
    serve(a=CONTENT)
    download(["a"], tmp_path / "new/file", SHA256)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["file"]
    assert (tmp_path / "new/file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "bad", [URLError("unreachable"), CONTENT[:-1], _Breaks(CONTENT)], ids=["none", "cut", "breaks"]
)
def test_another_address_is_tried(tmp_path, serve, bad):
    serve(a=bad, b=CONTENT)
    download(["a", "b"], tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (URLError("no such host"), "a: <urlopen error no such host>"),
        (TimeoutError(), "a: TimeoutError"),
        (CONTENT[:-1], "the file at a has not the SHA-256 of the published one"),
        (b"<html>sign in</html>", "the file at a has not the SHA-256 of the published one"),
        (_Breaks(CONTENT), "a: IncompleteRead"),
    ],
)
def test_a_failure_says_what_to_do_and_leaves_nothing(tmp_path, serve, refused, bad, words):
    serve(a=bad)
    message = refused(words, download, ["a"], tmp_path / "file", SHA256)
    assert f"put it into {tmp_path}" in message
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path, serve, refused):
    (tmp_path / "file").write_bytes(b"old")
    serve(a=CONTENT[1:])
    refused("Cannot download file", download, ["a"], tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_full_disk_is_not_mistaken_for_the_network(tmp_path, serve, monkeypatch):
    class _Full:
        def update(self, piece):
            raise OSError(28, "No space left on device")

    serve(a=CONTENT)
    monkeypatch.setattr(network.hashlib, "sha256", _Full)
    with pytest.raises(OSError, match="no space is left on its disk"):
        download(["a"], tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def _tar(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return file.getvalue()


def test_only_the_named_members_of_an_archive_are_kept(tmp_path, serve):
    content = _tar(["set/a.bin", "../outside", "set/b.bin"])
    serve(a=content)
    folder = tmp_path / "folder"
    digest = hashlib.sha256(content).hexdigest()
    download_members(["a"], folder / "set.tar.gz", digest, ["set/a.bin"])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [folder / "set/a.bin"]
    assert (folder / "set/a.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("content", [_tar(["other"]), b"not a tar", _tar(["set/a.bin"])[:40]])
def test_an_archive_without_the_member_is_refused(tmp_path, serve, refused, content):
    serve(a=content)
    digest = hashlib.sha256(content).hexdigest()
    archive = tmp_path / "set.tar.gz"
    refused("Cannot unpack", download_members, ["a"], archive, digest, ["set/a.bin"])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
