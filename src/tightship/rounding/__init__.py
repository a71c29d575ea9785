"""Weights as few bits per number: arrays in, codes and scales out. Nothing here knows of graphs, files or engines."""
