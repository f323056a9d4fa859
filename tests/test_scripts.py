"""Scripts in the style of Keras's documentation, with two lines changed.

In each, the changed lines are the ones that name `entropy_keras`.
"""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn import datasets

import entropy_keras

RNG = np.random.default_rng(0)


def digits():
    """Returns 1,797 digits of 8 x 8 pixels that scikit-learn ships."""
    data = datasets.load_digits()
    images = data.images[..., np.newaxis].astype("float32") / 16
    return images[:1500], data.target[:1500], images[1500:], data.target[1500:]


def tokens(count=600):
    """Returns sequences of 12 tokens, and whether token 1 comes before 2."""
    x = RNG.integers(3, 20, size=[count, 12])
    places = np.sort(
        RNG.permuted(np.tile(np.arange(12), [count, 1]), axis=1)[:, :2]
    )
    y = RNG.integers(0, 2, count)
    rows = np.arange(count)
    x[rows, places[:, 0]] = np.where(y, 1, 2)
    x[rows, places[:, 1]] = np.where(y, 2, 1)
    return x, y


def test_image_convnet():
    x_train, y_train, x_test, y_test = digits()
    model = keras.Sequential([
        keras.Input(shape=(8, 8, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(10, activation="softmax"),
    ])
    model = entropy_keras.EntropyModel.from_model(model)
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=entropy_keras.EntropySGD(learning_rate=1.0),
        metrics=["accuracy"],
    )
    model.fit(
        x_train,
        y_train,
        batch_size=16,
        epochs=6,
        validation_split=0.1,
        verbose=0,
    )
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    assert accuracy > 0.88


def test_transfer_learning_with_a_frozen_base():
    x_train, y_train, x_test, y_test = digits()
    base = keras.Sequential([
        keras.Input(shape=(8, 8, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
    ])
    base.trainable = False
    inputs = keras.Input(shape=(8, 8, 1))
    x = base(inputs, training=False)
    outputs = layers.Dense(10)(x)
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(
        optimizer=entropy_keras.EntropySGD(learning_rate=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    frozen = base.get_weights()
    model.fit(x_train, y_train, batch_size=16, epochs=4, verbose=0)
    for a, b in zip(frozen, base.get_weights(), strict=True):
        assert (a == b).all()
    # Then fine-tune, as the guide does: unfreeze and compile again.
    base.trainable = True
    model.compile(
        optimizer=entropy_keras.EntropySGD(learning_rate=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    model.fit(x_train, y_train, batch_size=16, epochs=1, verbose=0)
    assert abs(frozen[0] - base.get_weights()[0]).max() > 0
    assert model.evaluate(x_test, y_test, verbose=0)[1] > 0.75


def test_text_classification_with_an_lstm():
    x, y = tokens()
    model = keras.Sequential([
        keras.Input(shape=(12,), dtype="int32"),
        layers.Embedding(20, 16),
        layers.LSTM(24),
        layers.Dense(1, activation="sigmoid"),
    ])
    model = entropy_keras.EntropyModel.from_model(model)
    model.compile(
        entropy_keras.EntropySGD(
            outer_optimizer=keras.optimizers.Adam(0.02), clipnorm=1.0
        ),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(x, y, batch_size=16, epochs=25, verbose=0)
    assert history.history["accuracy"][-1] > 0.9


class TransformerBlock(layers.Layer):
    def __init__(self, width):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, width, dropout=0.1)
        self.feed_forward = keras.Sequential([
            layers.Dense(width, activation="relu"),
            layers.Dense(width),
        ])
        self.norm_1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm_2 = layers.LayerNormalization(epsilon=1e-6)

    def call(self, inputs, training=None):
        attended = self.attention(inputs, inputs, training=training)
        x = self.norm_1(inputs + attended)
        return self.norm_2(x + self.feed_forward(x))


class Positions(layers.Layer):
    def __init__(self, length, width):
        super().__init__()
        self.positions = layers.Embedding(length, width)
        self.length = length

    def call(self, inputs):
        return inputs + self.positions(keras.ops.arange(self.length))


@pytest.mark.nightly
def test_text_classification_with_a_transformer():
    x, y = tokens()
    inputs = keras.Input(shape=(12,), dtype="int32")
    hidden = Positions(12, 16)(layers.Embedding(20, 16)(inputs))
    hidden = TransformerBlock(16)(hidden)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    outputs = layers.Dense(2, activation="softmax")(hidden)
    model = entropy_keras.EntropyModel(inputs=inputs, outputs=outputs)
    model.compile(
        optimizer=entropy_keras.EntropySGD(
            outer_optimizer=keras.optimizers.Adam(0.02)
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(x, y, batch_size=16, epochs=20, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_two_headed_functional_model():
    title, body = tokens(400)[0], RNG.normal(size=[400, 6])
    priority = (body[:, :1] > 0).astype("float32")
    department = RNG.integers(0, 3, 400)
    body[:, 1:4] += 2 * np.eye(3)[department]
    title_input = keras.Input(shape=(12,), name="title", dtype="int32")
    body_input = keras.Input(shape=(6,), name="body")
    features = layers.concatenate([
        layers.Flatten()(layers.Embedding(20, 4)(title_input)),
        layers.Dense(16, activation="relu")(body_input),
    ])
    model = entropy_keras.EntropyModel(
        inputs={"title": title_input, "body": body_input},
        outputs={
            "priority": layers.Dense(1, name="priority")(features),
            "department": layers.Dense(3, name="department")(features),
        },
    )
    model.compile(
        optimizer=entropy_keras.EntropySGD(0.5),
        loss={
            "priority": keras.losses.BinaryCrossentropy(from_logits=True),
            "department": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
        },
        loss_weights={"priority": 1.0, "department": 0.2},
        metrics={"department": ["accuracy"]},
    )
    history = model.fit(
        {"title": title, "body": body},
        {"priority": priority, "department": department},
        batch_size=16,
        epochs=8,
        verbose=0,
    ).history
    assert history["department_accuracy"][-1] > 0.7
    assert history["priority_loss"][-1] < 0.5 * history["priority_loss"][0]
