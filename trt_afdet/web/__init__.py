"""A web page for a running pipeline: pictures with boxes, figures, events, zones, metrics."""
