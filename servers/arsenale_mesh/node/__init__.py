"""A node of the mesh: a process that runs guests for a gateway and signs what came of it."""
