"""One model in a process of its own: many answers at once, each with its own stack of layers."""
