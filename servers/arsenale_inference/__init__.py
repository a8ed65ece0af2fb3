"""The inference sidecar: local models behind an OpenAI-compatible API, LoRA layers per request."""
