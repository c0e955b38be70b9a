"""Trains a model in the folder of a run: what the recipes have in common."""

import sys

import cli


def steps_per_pass(images, batch_size):
    """Returns the steps in which about all images are seen once."""
    return max(1, round(images / batch_size))


def choose_input(asked):
    """Returns the name of the input that `--input` or the machine asks for."""
    import keras

    from keras_resnet.backend import accelerators

    backend = keras.backend.backend()
    if asked == "device" and backend == "tensorflow":
        raise cli.UsageError(
            "argument --input: on TensorFlow batches come by tf.data alone; "
            "leave out --input device, or set KERAS_BACKEND to jax or torch"
        )
    if asked != "auto":
        return asked
    on_device = backend != "tensorflow" and accelerators()
    return "device" if on_device else "tf.data"


def fit(
    run,
    build,
    data,
    *,
    batch_size,
    steps,
    seed,
    input_name,
    augment=True,
    every=None,
    callbacks=(),
    interrupted=None,
):
    """Trains a run to its end, from wherever it is, and returns the model.

    Args:
        run: `keras_resnet.training.Run`.
        build: Callable that returns the compiled model of a new run.
        data: `keras_resnet.data.ImageData`. Where its `validation` is `None`
            nothing is evaluated, and no best model is kept.
        batch_size: Integer, images per step.
        steps: Integer, optimizer steps in all.
        seed: Integer, of order and augmentation.
        input_name: String, a key of `keras_resnet.data.INPUTS`.
        augment: Boolean, whether to shift and mirror images as the dataset
            allows. Defaults to `True`.
        every: Integer, steps between two evaluations on the validation
            images. Defaults to `None`: after each epoch.
        callbacks: Further callbacks.
        interrupted: Callable that is called after a Ctrl-C.
    """
    from keras_resnet import data as image_data

    per_epoch = min(steps_per_pass(len(data.train), batch_size), steps)
    model = run.load_last() or build()
    start = int(model.optimizer.iterations)
    if start >= steps:
        return model
    batches = image_data.INPUTS[input_name]
    validation = None
    if data.validation is not None:
        validation = batches.evaluation_batches(data.validation)
    by_epoch = validation if every is None else None
    try:
        model.fit(
            batches.training_batches(
                data.train,
                batch_size,
                mean=data.mean,
                margin=data.margin if augment else 0,
                mirror=data.mirror and augment,
                seed=seed,
                start=start,
            ),
            shuffle=False,  # the batches are shuffled already
            steps_per_epoch=per_epoch,
            initial_epoch=start // per_epoch,
            epochs=-(-steps // per_epoch),
            validation_data=by_epoch,
            callbacks=[
                *callbacks,
                *run.callbacks(batch_size, steps, validation, every),
            ],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except KeyboardInterrupt:
        if interrupted is not None:
            interrupted()
        reached = run.history().get("iterations", [0])[-1]
        print(
            f"\nInterrupted. {run.path} holds the run up to iteration "
            f"{reached:.0f}; the same command with --resume goes on from there."
        )
        raise
    return model
