"""The numeric interpreter: second moments forward, their gradient twins backward, for every parameter."""
