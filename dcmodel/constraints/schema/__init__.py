"""JSON schemas: what the engine says exactly, grammars of ours, and an exact check."""
