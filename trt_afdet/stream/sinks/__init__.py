"""Where results go: one module per kind."""
