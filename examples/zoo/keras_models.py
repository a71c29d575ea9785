"""Keras models of native layers for two published files that hold weights alone.

    python -m examples.zoo.keras_models textgenrnn textgenrnn_weights.hdf5 textgenrnn.keras
    python -m examples.zoo.keras_models dtln model.h5 dtln.keras

textgenrnn (github.com/minimaxir/textgenrnn): the next character from 40 before it. DTLN (arXiv:2005.07551): speech
freed from noise, here on blocks of 512 samples that the caller has cut, 128 apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

__all__ = ["dtln", "textgenrnn"]

N_CHARACTERS = 465
N_BLOCKS = 24


def textgenrnn(weights: Path) -> keras.Model:
    """Two LSTM over embedded characters, and an average over all 40 places weighted by attention."""
    import keras

    stored = _stored(weights)
    inputs = keras.Input((40,), dtype="int32", name="characters")
    embedded = keras.layers.Embedding(N_CHARACTERS, 100, name="embedding")(inputs)
    first = keras.layers.LSTM(128, return_sequences=True, name="rnn_1")(embedded)
    second = keras.layers.LSTM(128, return_sequences=True, name="rnn_2")(first)
    joined = keras.layers.Concatenate(name="rnn_concat")([embedded, first, second])
    attention = keras.layers.Dense(1, use_bias=False, name="attention")(joined)
    attention = keras.layers.Softmax(axis=1)(attention)
    average = keras.layers.Flatten()(keras.layers.Dot(axes=1)([attention, joined]))
    outputs = keras.layers.Dense(N_CHARACTERS, activation="softmax", name="output")(average)
    model = keras.Model(inputs, outputs, name="textgenrnn")
    for name in ("embedding", "attention", "output"):
        model.get_layer(name).set_weights(stored[name])
    for name in ("rnn_1", "rnn_2"):
        model.get_layer(name).set_weights(_from_cudnn(stored[name]))
    return model


def dtln(weights: Path) -> keras.Model:
    """Two masks one after the other, on the spectrum and on learned features, each by two LSTM."""
    import keras

    stored = _stored(weights)
    inputs = keras.Input((N_BLOCKS, 512), name="blocks")
    real, imaginary = (keras.layers.Dense(257, use_bias=False, name=name)(inputs) for name in ("real", "imaginary"))
    magnitude = keras.ops.sqrt(real * real + imaginary * imaginary)
    mask = _mask(keras, magnitude, ("lstm", "lstm_1", "dense"), 257)
    spectrum = keras.layers.Concatenate(name="masked")([real * mask, imaginary * mask])
    blocks = keras.layers.Dense(512, use_bias=False, name="inverse")(spectrum)
    features = keras.layers.Conv1D(256, 1, use_bias=False, name="conv1d")(blocks)
    normed = keras.layers.LayerNormalization(epsilon=1e-7, name="layer_normalization")(features)
    mask = _mask(keras, normed, ("lstm_2", "lstm_3", "dense_1"), 256)
    outputs = keras.layers.Conv1D(512, 1, use_bias=False, name="conv1d_1")(features * mask)
    model = keras.Model(inputs, outputs, name="dtln")
    stored |= {name: [matrix.astype(np.float32)] for name, matrix in _fourier(512).items()}
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(stored[layer.name])
    return model


def _fourier(length: int) -> dict[str, np.ndarray]:
    """The Fourier transform of real blocks, and back, as matrices: few formats have an operator for it."""
    there = np.fft.rfft(np.eye(length))
    halves = np.eye(length // 2 + 1)
    back = np.concatenate([np.fft.irfft(halves), np.fft.irfft(1j * halves)])
    return {"real": there.real, "imaginary": there.imag, "inverse": back}


def _mask(keras: Any, x: Any, names: tuple[str, str, str], width: int) -> Any:
    for name in names[:2]:
        x = keras.layers.LSTM(128, return_sequences=True, name=name)(x)
    return keras.layers.Dense(width, activation="sigmoid", name=names[2])(x)


def _stored(path: Path) -> dict[str, list[np.ndarray]]:
    """Weights by layer, in the order in which Keras takes them."""
    import h5py

    def text(name: str | bytes) -> str:
        return name.decode() if isinstance(name, bytes) else name

    with h5py.File(path) as file:
        groups = {text(name): file[text(name)] for name in file.attrs["layer_names"]}
        return {
            name: [np.asarray(group[text(weight)]) for weight in group.attrs["weight_names"]]
            for name, group in groups.items()
        }


def _from_cudnn(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Weights of a CuDNNLSTM as those of an LSTM: kernels are stored transposed, biases of input and state apart."""
    kernel, recurrent, bias = weights
    kernels = [gate.T.reshape(gate.shape, order="F") for gate in np.split(kernel, 4, axis=1)]
    recurrents = [gate.T for gate in np.split(recurrent, 4, axis=1)]
    return [np.concatenate(kernels, 1), np.concatenate(recurrents, 1), bias[:512] + bias[512:]]


if __name__ == "__main__":
    _, kind, source, output = sys.argv
    {"textgenrnn": textgenrnn, "dtln": dtln}[kind](Path(source)).save(output)
