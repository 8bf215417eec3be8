"""Training of the detector. Only this package imports torch."""
