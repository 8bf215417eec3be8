"""Opens detector, pipeline, web page and metrics together, for ``trt-afdet run`` and ``watch``."""
