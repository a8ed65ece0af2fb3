"""The stdio entry of every server: standard library only, so that it starts in milliseconds."""
