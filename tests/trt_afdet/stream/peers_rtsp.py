"""A real RTSP server for tests: GStreamer's, in a process of its own.

with RtspServer({"cam": Mount(width=320)}) as server:
    server.url("cam")  # rtsp://127.0.0.1:PORT/cam
    server.kill()
    server.start({"cam": Mount(width=640, codec="h265")})  # On the same port.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tests.skips import skip_test

#: GStreamer's bindings belong to the system's Python.
PYTHON = "/usr/bin/python3"
NEEDED = (
    "python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-{base,good,bad,ugly}"
    " (see tests/install_peers.sh)"
)

_PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
missing = [name for name in ("x264enc", "rtph264pay", "jpegenc", "videotestsrc", "qtdemux")
           if Gst.ElementFactory.find(name) is None]
raise SystemExit(f"GStreamer lacks {missing}" if missing else 0)
"""

_SERVER = """
import gi, json, sys
for name in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

Gst.init(None)
port, method, mounts = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} ! h264parse"
            " ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} ! h265parse"
            " ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "mjpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


class Looped(GstRtspServer.RTSPMediaFactory):
    # Plays a file again and again, its packets as they are. No config-interval: the payloader
    # would put headers between the slices of a key frame, and cut it into two.
    def __init__(self, path):
        super().__init__()
        self.path = path

    def do_create_element(self, url):
        return Gst.parse_launch(
            f'( filesrc location="{self.path}" ! qtdemux ! h264parse'
            " ! rtph264pay name=pay0 pt=96 )"
        )

    def do_configure(self, media):
        media.connect("prepared", self.prepared)

    def prepared(self, media):
        element = media.get_element()
        pad = element.get_child_by_name("pay0").get_static_pad("sink")

        def probe(pad, info):
            if info.get_event().type != Gst.EventType.EOS:
                return Gst.PadProbeReturn.OK
            GLib.idle_add(self.again, element)
            return Gst.PadProbeReturn.DROP

        pad.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, probe)

    def again(self, element):
        element.seek_simple(
            Gst.Format.TIME, Gst.SeekFlags.FLUSH | Gst.SeekFlags.KEY_UNIT, 0)
        return False


def factory(mount):
    if mount["file"]:
        made = Looped(mount["file"]) if mount["loop"] else GstRtspServer.RTSPMediaFactory()
        if not mount["loop"]:
            made.set_launch(
                f'( filesrc location="{mount["file"]}" ! qtdemux ! h264parse'
                " ! rtph264pay name=pay0 pt=96 )")
    else:
        made = GstRtspServer.RTSPMediaFactory()
        encoder = ENCODERS[mount["codec"]].format(gop=mount["gop"])
        made.set_launch(
            f"( videotestsrc is-live=true pattern={mount['pattern']} ! video/x-raw,format=I420,"
            f"width={mount['width']},height={mount['height']},framerate={mount['fps']}/1"
            f" ! {encoder} )")
    made.set_shared(not mount["file"])
    return made


server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(str(port))
auth = GstRtspServer.RTSPAuth()
auth.set_supported_methods(getattr(GstRtsp.RTSPAuthMethod, method.upper()))
guarded = False
for path, mount in mounts.items():
    made = factory(mount)
    # Who may see a mount but not play it is asked for a password; who may not even, gets a 404.
    roles = {"anonymous": not mount["user"]}
    if mount["user"]:
        guarded = True
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", mount["user"])
        if method == "digest":
            auth.add_digest(mount["user"], mount["password"], token)
        else:
            basic = GstRtspServer.RTSPAuth.make_basic(mount["user"], mount["password"])
            auth.add_basic(basic, token)
        roles[mount["user"]] = True
    permissions = GstRtspServer.RTSPPermissions()
    for role, may_play in roles.items():
        rights = Gst.Structure.new_empty(role)
        rights.set_value("media.factory.access", True)
        rights.set_value("media.factory.construct", may_play)
        permissions.add_role_from_structure(rights)
    made.set_permissions(permissions)
    server.get_mount_points().add_factory("/" + path, made)
if guarded:
    anonymous = GstRtspServer.RTSPToken()
    anonymous.set_string("media.factory.role", "anonymous")
    auth.set_default_token(anonymous)
    server.set_auth(auth)
if not server.attach(None):
    raise SystemExit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
"""


@dataclass(frozen=True)
class Mount:
    """What is served at a path.

    Attributes:
        width, height, fps, codec, gop, pattern: Of a test pattern; ``h264``, ``h265`` or ``mjpeg``,
            frames from key frame to key frame, GStreamer's ``videotestsrc`` pattern.
        file: An mp4 with H.264, served instead of the pattern, from its start to every client.
        loop: Whether the file begins again at its end.
        user, password: Asked of clients.
    """

    width: int = 320
    height: int = 240
    fps: int = 25
    codec: str = "h264"
    gop: int = 10
    pattern: str = "ball"
    file: str | None = None
    loop: bool = True
    user: str = ""
    password: str = ""


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_rtsp_server() -> None:
    """Skips the test, naming what is missing, where there is no RTSP server."""
    if not Path(PYTHON).exists():
        skip_test(f"no {PYTHON} for {NEEDED}", "make peers")
    probe = subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        skip_test(f"{NEEDED} ({probe.stderr.strip().splitlines()[-1]})", "make peers")


class RtspServer:
    """The server; skips the test where it cannot run.

    Args:
        mounts: By path, without its slash.
        port: Of 127.0.0.1; a free one by default.
        method: How passwords are asked for: ``digest`` or ``basic``.
    """

    def __init__(
        self, mounts: Mapping[str, Mount], port: int | None = None, method: str = "digest"
    ) -> None:
        require_rtsp_server()
        self.port = port or free_port()
        self._mounts = dict(mounts)
        self._method = method
        self._process: subprocess.Popen[str] | None = None

    def url(self, path: str, user: str = "", password: str = "") -> str:
        """The address of a mount."""
        who = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"rtsp://{who}127.0.0.1:{self.port}/{path}"

    def start(self, mounts: Mapping[str, Mount] | None = None) -> None:
        """Starts it, with other mounts if given, and waits until it answers."""
        if mounts is not None:
            self._mounts = dict(mounts)
        described = {path: asdict(mount) for path, mount in self._mounts.items()}
        for _ in range(100):
            said = self._launch(json.dumps(described))
            if said == "ready":
                return
            self.kill()
            assert "port is taken" in said, f"the RTSP server does not start: {said}"
            # That of a server that was killed may take a moment to be free.
            time.sleep(0.2)  # timing: the pause between two tries
        raise AssertionError(f"port {self.port} stays taken")

    def _launch(self, mounts: str) -> str:
        """Starts the process; "ready", or what went wrong."""
        with tempfile.TemporaryFile("w+") as complaints:
            process = self._process = subprocess.Popen(
                [PYTHON, "-c", _SERVER, str(self.port), self._method, mounts],
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
            assert process.stdout is not None
            if line := process.stdout.readline().strip():
                return line
            process.wait()
            complaints.seek(0)
            return complaints.read()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def freeze(self) -> None:
        """Stops it without closing its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


if __name__ == "__main__":
    # By hand: python peers_rtsp.py [CLIP.mp4]
    with RtspServer({"cam": Mount(file=sys.argv[1] if len(sys.argv) > 1 else None)}) as running:
        print(running.url("cam"))
        signal.pause()
