"""Pictures, texts and sounds become a model's inputs, and its outputs labels, as the package's manifest says."""

from __future__ import annotations

from tightship.serve.processing.processor import Processor, ready

__all__ = ["Processor", "ready"]
