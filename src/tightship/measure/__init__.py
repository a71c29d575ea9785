"""What is measured of a Session: latency, peak memory, parity, quality, and the machine it was measured on.

One file per thing measured; nothing is re-exported, since modules are named after what they give.
"""
