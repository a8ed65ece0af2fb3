"""The stdio entry of every server: standard library only, so that it starts in milliseconds."""

__version__ = "0.1.0"
