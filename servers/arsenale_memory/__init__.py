"""Memory: what the assistant knows and who it is."""
