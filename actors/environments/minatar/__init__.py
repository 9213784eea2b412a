"""MinAtar's five games (Young & Tian 2019, arXiv 1903.03176) as pure JAX functions."""
