"""Genomes: stacks of LoRA layers on a base model, with their lineage, as people exchange them."""
