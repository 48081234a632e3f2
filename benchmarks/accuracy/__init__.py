"""How far predicted gradients are from those of models that others wrote; see docs/accuracy.md."""
