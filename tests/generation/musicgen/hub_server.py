"""A hub with one repository over real HTTP, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "nobody/musicgen-tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000
"""Files from this size on are described by their SHA-256."""


@dataclass
class Faults:
    """Faults of the server; lists are used up item by item."""

    cut_after: list[int] = field(default_factory=list)
    """The next responses with large files break off after so many bytes."""
    status: list[int] = field(default_factory=list)
    """The next responses with files have these status codes."""
    wrong_byte_in: set[str] = field(default_factory=set)
    """Files that are always sent with a wrong last byte."""
    no_ranges: bool = False
    """Whether ranges are ignored and whole files are sent."""
    html: bool = False
    """Whether every response is a login page."""


class HubServer:
    """Serves a folder as the repository at REVISION, which is also its `main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = Faults()
        self.sent: list[tuple[str, int]] = []
        """Name and first byte of every requested file."""
        self.stop_at: threading.Event | None = None
        """Set when half of a large file is sent; the connection closes after `go_on` is set."""
        self.go_on = threading.Event()
        # Else each answer waits 40 ms for the acknowledgement of its first packet.
        handler = type("Handler", (_Handler,), {"hub": self, "disable_nagle_algorithm": True})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def described(self) -> list[dict[str, Any]]:
        described = []
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            about: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
            heading = b"blob %d\0" % len(content)
            about["blobId"] = hashlib.sha1(heading + content).hexdigest()
            if len(content) >= LARGE_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                about["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            described.append(about)
        return described


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep stderr quiet."""

    def do_GET(self) -> None:
        if self.hub.faults.html:
            self._answer(200, b"<html>log in</html>", "text/html")
        elif match := re.fullmatch(
            r"/api/models/([^/]+/[^/?]+)(?:/revision/([^?]+))?(\?.*)?", self.path
        ):
            self._describe(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            self._redirect(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/storage/([^?]+)\?signed", self.path):
            self._send(match[1])
        else:
            self._fail(404, "EntryNotFound")

    def _describe(self, repository: str, revision: str | None) -> None:
        if repository != REPOSITORY:
            self._fail(401, "RepoNotFound")
        elif revision not in {None, REVISION, "main"}:
            self._fail(404, "RevisionNotFound")
        else:
            about = {"id": REPOSITORY, "sha": REVISION, "siblings": self.hub.described()}
            self._answer(200, json.dumps(about).encode(), "application/json")

    def _redirect(self, repository: str, revision: str, name: str) -> None:
        if (
            repository != REPOSITORY
            or revision != REVISION
            or not (self.hub.folder / name).is_file()
        ):
            self._fail(404, "EntryNotFound")
            return
        self.send_response(302)
        self.send_header("Location", f"/storage/{name}?signed")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str) -> None:
        faults = self.hub.faults
        if faults.status:
            self._fail(faults.status.pop(0), None)
            return
        content = (self.hub.folder / name).read_bytes()
        if name in faults.wrong_byte_in:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not faults.no_ranges else 0
        self.hub.sent.append((name, start))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if len(content) >= LARGE_BYTES and faults.cut_after:
            self.wfile.write(rest[: faults.cut_after.pop(0)])
            self.close_connection = True
        elif len(content) >= LARGE_BYTES and self.hub.stop_at is not None:
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            self.wfile.flush()
            self.hub.stop_at.set()
            self.hub.go_on.wait(120)
            self.close_connection = True
        else:
            self.wfile.write(rest)

    def _fail(self, status: int, code: str | None) -> None:
        content = json.dumps({"error": f"status {status}"}).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
