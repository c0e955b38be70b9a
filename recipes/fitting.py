"""Trains a model in the folder of a run: what the recipes have in common."""

import os
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


def use_devices(arguments):
    """Returns the devices that flags ask for. Call it before Keras computes.

    Processes but the first are silent from here on.
    """
    from keras_resnet import devices

    normalization = getattr(arguments, "normalization", "synchronized")
    if "devices" not in arguments and "normalization" in arguments:
        raise cli.UsageError(
            "--normalization is for several devices: give --devices too"
        )
    found = devices.use(
        getattr(arguments, "devices", None),
        synchronized=normalization == "synchronized",
    )
    if not found.is_first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return found


def load(devices, *args):
    """Loads a dataset, in the first process before it is in the others.

    The first one may download and prepare it.
    """
    from keras_resnet import data as image_data

    loaded = []
    devices.on_first(lambda: loaded.append(image_data.load(*args)))
    return loaded[0] if loaded else image_data.load(*args)


def evaluate(model, split, devices):
    """Returns loss and metrics of a model on all images of a split.

    Args:
        model: Compiled `keras.Model`, made on `devices`.
        split: `keras_resnet.data.Split`.
        devices: `keras_resnet.devices.Devices`.
    """
    from keras_resnet import data as image_data

    with devices.scope():
        return model.evaluate(
            image_data.evaluation_batches(
                split, part=devices.part, divisor=devices.divisor
            ),
            return_dict=True,
            verbose=0,
        )


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

    On the devices of the run.

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
    from keras_resnet import training

    devices = run.devices
    per_epoch = min(steps_per_pass(len(data.train), batch_size), steps)
    devices.check_batch(batch_size)
    model = devices.model(build, run.load_last)
    start = training.steps_done(model)
    if start >= steps:
        return model
    batches = image_data.INPUTS[input_name]
    validation = None
    if data.validation is not None:
        validation = batches.evaluation_batches(
            data.validation, part=devices.part, divisor=devices.divisor
        )
    by_epoch = validation if every is None else None
    verbose = 1 if sys.stdout.isatty() else 2
    try:
        with devices.scope():
            model.fit(
                batches.training_batches(
                    data.train,
                    batch_size,
                    mean=data.mean,
                    margin=data.margin if augment else 0,
                    mirror=data.mirror and augment,
                    seed=seed,
                    start=start,
                    part=devices.part,
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
                verbose=verbose if devices.is_first else 0,
            )
    except KeyboardInterrupt:
        if not devices.is_first:
            raise
        if interrupted is not None:
            interrupted()
        reached = run.history().get("iterations", [0])[-1]
        print(
            f"\nInterrupted. {run.path} holds the run up to iteration "
            f"{reached:.0f}; the same command with --resume goes on from there."
        )
        raise
    return model
