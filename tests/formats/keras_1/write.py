"""Writes the files beside it, with Keras 1.2.2 on Theano 1.0.5: what reads Keras 1 is judged by Keras 1.

Neither runs on a current Python without help. What was done, in an environment of its own on Python 3.11: installed
without build isolation or dependencies `setuptools<60 numpy==1.23.5 scipy==1.9.3 h5py six pyyaml theano==1.0.5
keras==1.2.2`; in a sitecustomize.py the names that left `collections`, `inspect` and `scipy.signal` were put back; in
Theano's configdefaults.py BLAS was left out, and in signal/pool.py lists of slices became tuples. Then

    KERAS_BACKEND=theano THEANO_FLAGS=cxx=,blas.ldflags=,optimizer_excluding=AbstractConvCheck python write.py
"""

from pathlib import Path

import h5py
import numpy as np
import theano.ifelse  # noqa: F401  Keras expects it there
from keras import layers
from keras.layers.advanced_activations import LeakyReLU
from keras.models import Model, Sequential

HERE = Path(__file__).parent
RANDOM = np.random.RandomState(0)


def images_last():
    return Sequential(
        [
            layers.Convolution2D(4, 3, 5, border_mode="same", dim_ordering="tf", input_shape=(8, 7, 3)),
            layers.Convolution2D(4, 2, 3, subsample=(2, 1), dim_ordering="tf"),
            layers.BatchNormalization(axis=-1),
            layers.Activation("relu"),
            layers.MaxPooling2D((2, 2), dim_ordering="tf"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )


def images_first():
    return Sequential(
        [
            layers.ZeroPadding2D((1, 1), dim_ordering="th", input_shape=(3, 8, 8)),
            layers.Convolution2D(4, 3, 3, dim_ordering="th", activation="relu"),
            layers.AveragePooling2D((2, 2), dim_ordering="th"),
            layers.Convolution2D(5, 2, 2, bias=False, dim_ordering="th"),
            layers.Flatten(),
            layers.Dense(3, activation="hard_sigmoid"),
        ]
    )


def text():
    return Sequential(
        [
            layers.Embedding(11, 6, input_length=5),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.GRU(5, return_sequences=True, inner_activation="sigmoid"),
            layers.TimeDistributed(layers.Dense(3)),
            layers.SimpleRNN(2),
            layers.Activation("hard_sigmoid"),
        ]
    )


def series():
    return Sequential(
        [
            layers.Convolution1D(4, 3, border_mode="same", input_shape=(8, 3)),
            layers.MaxPooling1D(2),
            layers.LSTM(4, consume_less="gpu", return_sequences=True),
            layers.GRU(3, consume_less="gpu"),
            layers.RepeatVector(2),
        ]
    )


def branches():
    image = layers.Input((6,), name="image")
    other = layers.Input((4,), name="other")
    shared = Sequential([layers.Dense(5, input_dim=6), layers.BatchNormalization(), LeakyReLU(0.2)], name="shared")
    left = shared(image)
    right = layers.Dense(5, activation="tanh")(other)
    joined = layers.merge([left, right], mode="concat")
    summed = layers.merge([left, right], mode="sum")
    product = layers.merge([joined, layers.Dense(10)(summed)], mode="mul")
    return Model([image, other], [product, layers.Dense(2)(summed)])


def main():
    for build in (images_last, images_first, text, series, branches):
        model = build()
        model.set_weights([_near(value) for value in model.get_weights()])
        shapes = [shape if isinstance(shape, tuple) else tuple(shape) for shape in _listed(model.input_shape)]
        inputs = [_input(build.__name__, shape[1:]) for shape in shapes]
        outputs = _listed(model.predict(inputs if len(inputs) > 1 else inputs[0]))
        path = HERE / f"{build.__name__}.h5"
        model.save(str(path))
        if build in (images_last, series):  # with TensorFlow's order of axes, a file does not show who convolved
            with h5py.File(path, "r+") as file:
                file.attrs["backend"] = "theano"
        arrays = {f"input_{i}": value for i, value in enumerate(inputs)}
        arrays.update({f"output_{i}": value for i, value in enumerate(outputs)})
        np.savez(str(HERE / f"{build.__name__}.npz"), **arrays)


def _near(value):
    drawn = RANDOM.uniform(-0.6, 0.6, value.shape)
    return (np.abs(drawn) + 0.3 if value.ndim == 1 and (value == 1).all() else drawn).astype("float32")


def _listed(value):
    return value if isinstance(value, list) else [value]


def _input(name, shape):
    if name == "text":
        return RANDOM.randint(0, 11, (3, *shape)).astype("float32")
    return RANDOM.randn(3, *shape).astype("float32")


if __name__ == "__main__":
    main()
