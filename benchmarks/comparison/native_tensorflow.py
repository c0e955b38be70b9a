"""Plain TensorFlow: a training step as one `tf.function`."""

import tensorflow as tf

from comparison.implementation import Implementation
from comparison.network import DECAY, LEARNING_RATE, MOMENTUM


class Operations:
    """The network's operations on tensors of TensorFlow.

    In training they normalize by the batch and update the moving statistics.
    """

    def __init__(self, network, variables, training):
        self.network = network
        self.variables = variables
        self.training = training

    def conv_norm(self, x, conv):
        padding = "SAME"
        if conv.stride > 1:
            both = [conv.padding] * 2
            padding = [[0, 0], both, both, [0, 0]]
        x = tf.nn.conv2d(
            x, self.variables[f"{conv.name}/kernel"], conv.stride, padding
        )
        gamma, beta, mean, variance = (
            self.variables[f"{conv.norm}/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        given = {} if self.training else {"mean": mean, "variance": variance}
        x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            gamma,
            beta,
            epsilon=self.network.epsilon,
            is_training=self.training,
            **given,
        )
        if self.training:
            # The variance that the fused operation returns is the unbiased.
            mean.assign_sub((1 - MOMENTUM) * (mean - batch_mean))
            variance.assign_sub((1 - MOMENTUM) * (variance - batch_variance))
        return x

    def relu(self, x):
        return tf.nn.relu(x)

    def max_pool(self, x):
        # After a ReLU a padded zero wins no maximum.
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    def zero_padding(self, x, stride, channels):
        x = x[:, ::stride, ::stride]
        return tf.pad(x, [[0, 0]] * 3 + [[0, channels]])

    def head(self, x):
        x = tf.reduce_mean(x, (1, 2))
        weights = self.variables
        return x @ weights["head/kernel"] + weights["head/bias"]


class Native(Implementation):
    """A graph of TensorFlow's own kernels."""

    def __init__(self, network, weights):
        self.network = network
        self.variables = {
            name: tf.Variable(value, trainable="/moving_" not in name)
            for name, value in weights.items()
        }
        self.trained = [v for v in self.variables.values() if v.trainable]
        self.velocities = [tf.Variable(tf.zeros_like(v)) for v in self.trained]
        # Each instance has graphs of its own, because they hold its variables.
        self.train_graph = tf.function(self._train_step)
        self.infer_graph = tf.function(self._logits)

    def _logits(self, images, training=False):
        operations = Operations(self.network, self.variables, training)
        return self.network.forward(operations, images)

    def _train_step(self, images, labels):
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )
        gradients = tape.gradient(loss, self.trained)
        for weight, velocity, gradient in zip(
            self.trained, self.velocities, gradients, strict=True
        ):
            velocity.assign(MOMENTUM * velocity + gradient + DECAY * weight)
            weight.assign_sub(LEARNING_RATE * velocity)
        return loss

    def train_step(self, images, labels):
        self.loss = self.train_graph(tf.constant(images), tf.constant(labels))

    def infer(self, images):
        return self.infer_graph(tf.constant(images))

    def wait(self):
        self.loss.numpy()

    def weights(self):
        return {name: v.numpy() for name, v in self.variables.items()}
