"""Cameras to events: sources, scheduling, detection, tracking, sinks."""
