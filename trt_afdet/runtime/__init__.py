"""Running a detector: preprocess, backend, postprocess."""
