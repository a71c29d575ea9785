"""Core ML models of the older kind, `neuralNetwork` specs in `.mlmodel` files, read into the graph form.

Shapes. Newer specs (EXACT_ARRAY_MAPPING) name each tensor's exact shape, and so does the graph. Older ones
(RANK5_ARRAY_MAPPING) mean [Sequence, Batch, C, H, W] everywhere and write [C] or [C, H, W]: the graph takes and returns
what is written, works on [1, C, H, W] inside, and brings the sequence axis back where a layer needs it; an input along
which a recurrent layer runs is [sequence, 1, C, H, W]. Images are float [1, channels, H, W] with values of 0 to 255.
"""

from __future__ import annotations

from tightship.formats.neural_network.reading import read_neural_network
from tightship.formats.neural_network.table import layers

__all__ = ["layers", "read_neural_network"]
