"""A chat model of 2 million parameters and two LoRA layers on it, made here from nothing.

`corpus` is what they are taught, `network` and `training` make them, `card` says what was made.
"""
