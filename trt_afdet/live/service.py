"""A configuration at work: the detector, the pipeline, the web page and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.analysis.shapes import Shapes
from trt_afdet.stream.config.deployment import Changes, Deployment, open_detector, resolve
from trt_afdet.stream.config.schema import Config, Loaded
from trt_afdet.stream.monitoring.metrics_server import MetricsServer
from trt_afdet.stream.sinks.base import Sink
from trt_afdet.support.listening import parse_address

if TYPE_CHECKING:
    from trt_afdet.web.server import WebServer


def web_server(config: Config, shapes: Mapping[str, Shapes]) -> WebServer | None:
    """Makes the web page of a configuration without starting it; None if ``web`` is off."""
    web = config.web
    if web is None:
        return None
    # Only a page needs its packages.
    from trt_afdet.web.server import WebServer
    from trt_afdet.web.zones_store import ZonesStore

    store = ZonesStore()
    store.adopt(config.zones, shapes)
    return WebServer(
        web.address,
        web.read_token(),
        zones=store,
        hosts=web.hosts,
        trusted_proxies=web.trusted_proxies,
        root_path=web.root_path,
    )


class Service:
    """Opens everything in a configuration; ``pipeline.run()`` runs it, :meth:`close` closes it.

    Args:
        loaded: The configuration.
        detector: An open detector, which stays open; by default the configuration's model.
        sinks: Sinks besides the configuration's.
        device: Of the configuration's model, see :class:`~trt_afdet.Detector`.

    Raises:
        ConfigError: If the configuration contains mistakes.
        AfdetError: If the model, the page or the metrics cannot be opened.
    """

    def __init__(
        self,
        loaded: Loaded,
        detector: Detector | None = None,
        sinks: Sequence[Sink] = (),
        device: int | str | None = None,
    ) -> None:
        # Find all mistakes that do not need the model before it is loaded.
        resolve(loaded, None)
        with ExitStack() as stack:
            if detector is None:
                detector = stack.enter_context(open_detector(loaded, device))
            resolved = resolve(loaded, detector.names)
            self.web = web_server(loaded.config, resolved.shapes)
            page = [] if self.web is None else [self.web]
            self.deployment = Deployment(resolved, detector, detector.names, [*page, *sinks])
            self.pipeline = self.deployment.pipeline
            if self.web is not None:
                self.web.attach(self.pipeline)
                # Zones drawn on the page apply at once.
                self.web.zones.on_zones = self.deployment.set_zones
            if loaded.config.metrics is not None:
                metrics = MetricsServer(
                    loaded.config.metrics, self.pipeline.snapshot, self.pipeline.metrics
                )
                metrics.start()
                stack.callback(metrics.stop)
            self._open = stack.pop_all()

    def reload(self, loaded: Loaded) -> Changes:
        """Continues with another configuration.

        Raises:
            AfdetError: If it contains mistakes; nothing changes then.
        """
        # Also check settings that apply only at the next start.
        web_server(loaded.config, {})
        if loaded.config.metrics is not None:
            parse_address(loaded.config.metrics)
        changes = self.deployment.reload(loaded)
        if self.web is not None:
            # The deployment has already checked these zones.
            self.web.zones.adopt(loaded.config.zones, self.deployment.shapes)
        return changes

    def close(self) -> None:
        """Closes the model and the metrics; closing twice is fine."""
        self._open.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
