"""Local models behind an OpenAI-compatible door: a base, and LoRA layers that are put on it."""
