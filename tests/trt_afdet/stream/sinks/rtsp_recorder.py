"""An RTSP server that records what is pushed to /live and /cam-1, /cam-2; run by a Python that has
GStreamer's bindings: PORT FOLDER."""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

port, folder = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_service(port)
server.set_address("127.0.0.1")
for name in ("live", "cam-1", "cam-2"):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(
        "( rtph264depay name=depay0 ! h264parse config-interval=-1"
        " ! video/x-h264,stream-format=byte-stream"
        f" ! filesink location={folder}/{name}.h264 append=true sync=false )"
    )
    server.get_mount_points().add_factory(f"/{name}", factory)
server.attach(None)
GLib.MainLoop().run()
