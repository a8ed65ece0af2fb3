"""What every server stands on: settings, errors, the store, events, the seam to the MCP SDK."""
