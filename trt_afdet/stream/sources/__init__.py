"""Where frames come from: one module per kind, chosen by URI (see ``uri.py``)."""
