"""The engine of one model: llama.cpp with LoRA layers for each row of a step. See `engine`."""
