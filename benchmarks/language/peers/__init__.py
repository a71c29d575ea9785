"""Scripts that run in an environment of their own, made by `make peers`: float weights in, codes out."""
