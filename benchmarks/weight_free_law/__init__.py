"""The weight-free sampler against dense Gaussian weights."""
