"""Text to vectors: one interface, several engines, each loaded when first used."""
