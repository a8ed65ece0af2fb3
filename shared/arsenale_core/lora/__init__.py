"""LoRA layers as values and as files; needs the package `gguf`, which names and packs them."""
