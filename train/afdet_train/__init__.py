"""Training of the detector: the only home of torch in this project."""
