"""`tightrope fetch`: the right file or none, whatever the network and the disk do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tightrope.errors import DataError
from tightrope.problems import ARCHIVES, download, downloads

from .conftest import members, tar_gz

PUBLISHED = tar_gz(members("cifar10"))


@pytest.fixture
def serve(monkeypatch):
    """A server on this machine that answers every request as told; returns its address."""
    servers = []
    monkeypatch.setenv("no_proxy", "*")

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(content, length=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def sends_far_too_much(handler):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):  # the other side has heard enough
        for _ in range(1000):
            handler.wfile.write(bytes(1 << 16))


def says_nothing(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "10")
    handler.end_headers()
    handler.wfile.flush()
    threading.Event().wait(1.0)


def breaks_off(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly this")


def redirects(handler):
    if handler.path == "/moved":
        sends(PUBLISHED)(handler)
    else:
        handler.send_response(302)
        handler.send_header("Location", "/moved")
        handler.end_headers()


def test_fetch_downloads_checks_and_keeps_the_archive(tightrope, serve, publish, folder):
    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    code, out, err = tightrope("fetch", "cifar10")
    assert (code, err) == (0, "")
    assert f"Fetched, and right (md5 {archive.md5}): {folder}/cifar-10-binary.tar.gz" in out
    assert [file.name for file in folder.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert (folder / archive.file).read_bytes() == PUBLISHED
    settings = ("problem=cifar10", "hidden=[4]", "num_steps=2")
    code, _, err = tightrope("run", "digits-adam", *(part for setting in settings for part in ("--set", setting)))
    assert (code, err) == (0, "")


def test_fetch_makes_the_folder_and_follows_redirects(serve, publish, folder):
    folder.rmdir()
    archive = publish("cifar10", PUBLISHED, serve(redirects))
    assert download(archive) == folder / archive.file
    assert archive.is_genuine(folder / archive.file)


def test_fetch_says_that_the_archive_is_there_and_asks_nobody(tightrope, keep, monkeypatch):
    file = keep("cifar10", PUBLISHED)
    monkeypatch.setattr(downloads, "urlopen", lambda *arguments, **options: pytest.fail("asked the network"))
    code, out, _ = tightrope("fetch", "cifar10")
    assert code == 0
    assert "Already there, and right" in out
    assert file.read_bytes() == PUBLISHED


def test_a_damaged_archive_is_replaced_once_the_right_one_is_here(tightrope, serve, publish, folder):
    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    (folder / archive.file).write_bytes(PUBLISHED[:100])
    with (folder / archive.file).open("rb") as reader:
        assert tightrope("fetch", "cifar10")[0] == 0
        assert reader.read() == PUBLISHED[:100]  # who reads the old one is not disturbed
    assert (folder / archive.file).read_bytes() == PUBLISHED


def test_progress_counts_the_bytes(serve, publish, folder):
    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    seen = []
    download(archive, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(PUBLISHED)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda handler: handler.send_error(503), "the server says 503 Service Unavailable"),
        (lambda handler: handler.send_error(404), "the server says 404 Not Found"),
        (sends(b"<html>Please log in</html>"), "got 26 with md5"),
        (sends(PUBLISHED[:1000], len(PUBLISHED)), "got 1000 with md5"),
        (sends(PUBLISHED[:-1] + b"x"), f"got {len(PUBLISHED)} with md5"),
        (sends(b""), "got 0 with md5"),
        (sends_far_too_much, "got 131072 with md5"),
        (says_nothing, "timed out"),
        (breaks_off, "must be reachable"),
        (lambda handler: handler.wfile.write(b"not \x1b[2J the web\r\n\r\n"), "not [2J the web"),
        (lambda handler: None, "must be reachable"),
    ],
)
def test_a_failing_server_leaves_nothing_and_loses_nothing(
    answer, words, tightrope, serve, publish, folder, monkeypatch
):
    monkeypatch.setattr(downloads, "SECONDS_OF_SILENCE", 0.3)
    archive = publish("cifar10", PUBLISHED, serve(answer))
    for earlier in (None, b"an earlier file"):
        if earlier is not None:
            (folder / archive.file).write_bytes(earlier)
        code, _, err = tightrope("fetch", "cifar10")
        assert code == 2
        assert err.startswith("tightrope: cifar10: ")
        assert err.count("\n") == 1
        assert words in err
        assert [file.read_bytes() for file in folder.iterdir()] == ([] if earlier is None else [earlier])


def test_no_network_is_one_line(tightrope, publish, folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        publish("cifar10", PUBLISHED, f"http://127.0.0.1:{unused.getsockname()[1]}/cifar-10-binary.tar.gz")
        code, _, err = tightrope("fetch", "cifar10")
    assert code == 2
    assert "must be reachable" in err
    assert "refused" in err
    assert f"put cifar-10-binary.tar.gz into {folder}" in err
    assert err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_an_interrupt_leaves_nothing(serve, publish, folder):
    def interrupt(num_bytes):
        raise KeyboardInterrupt

    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    with pytest.raises(KeyboardInterrupt):
        download(archive, interrupt)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fails_at_the_last_moment_leaves_what_was_there(serve, publish, folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    (folder / archive.file).write_bytes(b"an earlier file")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        download(archive)
    assert [file.read_bytes() for file in folder.iterdir()] == [b"an earlier file"]


@pytest.fixture
def small_disk(folder):
    """The data folder on a disk of 64 KB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there(tightrope, serve, publish, small_disk):
    big = bytes(200_000)
    archive = publish("cifar10", big, serve(sends(big)))
    (small_disk / archive.file).write_bytes(b"an earlier file")
    code, _, err = tightrope("fetch", "cifar10")
    assert code == 2
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert [file.read_bytes() for file in small_disk.iterdir()] == [b"an earlier file"]


def test_a_folder_that_cannot_be_made_is_one_line(tightrope, publish, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TIGHTROPE_DATA", str(tmp_path / "file"))
    publish("cifar10", PUBLISHED, "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    code, _, err = tightrope("fetch", "cifar10")
    assert code == 2
    assert "must name a folder" in err
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_in_the_archives_place_is_one_line_and_stays(tightrope, serve, publish, folder):
    archive = publish("cifar10", PUBLISHED, serve(sends(PUBLISHED)))
    (folder / archive.file).mkdir()
    code, _, err = tightrope("fetch", "cifar10")
    assert code == 2
    assert "must be writable" in err
    assert err.count("\n") == 1
    assert [file.is_dir() for file in folder.iterdir()] == [True]


def test_a_name_that_is_not_known_gets_the_nearest(tightrope, folder):
    code, _, err = tightrope("fetch", "cifar-10")
    assert code == 2
    assert "Did you mean 'cifar10'?" in err
    assert list(folder.iterdir()) == []


def test_the_addresses_are_the_publishers():
    assert {archive.file for archive in ARCHIVES.values()} == {"cifar-10-binary.tar.gz", "cifar-100-binary.tar.gz"}
    assert all(archive.url.startswith("https://www.cs.toronto.edu/~kriz/") for archive in ARCHIVES.values())
