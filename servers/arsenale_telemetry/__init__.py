"""What the assistant's tools cost: events of the hooks, stored once and answered over MCP."""
