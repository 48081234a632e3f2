"""The symbolic reading of an architecture, for exchangeable tokens, and the derivations that use it."""
