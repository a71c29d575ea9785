"""Weight-only quantization of a small language model trained here on real text: ours against the peers."""
