"""A running pipeline's states, figures and health, and who is told: Prometheus, systemd."""
