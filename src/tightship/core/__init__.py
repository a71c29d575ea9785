"""The nouns that need no framework. Nothing here imports torch, onnx or an engine at module level."""
