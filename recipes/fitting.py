"""Trains a model in the folder of a run: what the recipes have in common."""

import dataclasses
import os
import sys

import cli
from settings import differences, name_parts


def folder_name(settings, usual, backend):
    """Return the name of a run's folder.

    It names what a preset does not say, so that runs of different settings
    have different folders.

    Args:
        settings: Dataclass of settings.
        usual: The same of the preset alone.
        backend: String.
    """
    net = "plain" if settings.plain else "resnet"
    option = "" if settings.plain else settings.shortcut
    named = {"preset", "dataset", "depth", "shortcut", "plain", "seed"}
    others = name_parts(differences(settings, usual, named))
    return "-".join(
        [
            settings.dataset,
            f"{net}{settings.depth}{option}",
            settings.preset,
            *others,
            backend,
            f"seed{settings.seed}",
        ]
    )


def draw_curves(plots, run, settings, history, **point):
    """Draw the learning curves of a run, if it has any yet."""
    if not history.get("iterations"):
        return
    if settings.plain:
        label, color = f"plain-{settings.depth}", plots.PLAIN
    else:
        label = f"ResNet-{settings.depth} ({settings.shortcut})"
        color = plots.RESIDUAL
    figure = plots.learning_curves(
        [{"label": label, "color": color} | history | point],
        title=f"{settings.dataset}, preset {settings.preset}, "
        f"seed {settings.seed}",
    )
    plots.save(figure, run / "curves.png")


def steps_per_epoch(images, batch_size):
    """Return the steps of an epoch, which sees about all images once."""
    return max(1, round(images / batch_size))


def choose_input(asked):
    """Return the name of the input that `--input` or the machine asks for."""
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
    """Return the devices that flags ask for. Call it before Keras computes.

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
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return found


def open_run(arguments, name, settings, devices, **more):
    """Return the `Run` in the folder that `--output` or the settings name.

    Args:
        arguments: Parsed flags.
        name: String, of the folder in `runs` where no other is asked for.
        settings: Dataclass of settings.
        devices: `keras_resnet.devices.Devices`.
        **more: JSON values that must be the same too for a run to go on.
    """
    import keras

    from keras_resnet import training

    return training.Run(
        getattr(arguments, "output", f"runs/{name}"),
        dataclasses.asdict(settings)
        | {"backend": keras.backend.backend()}
        | more
        | devices.settings(),
        resume=getattr(arguments, "resume", False),
        devices=devices,
    )


def said_finished(run):
    """Say so if a run is finished, and return whether it is."""
    finished = run.finished
    if finished:
        print(f"{run.path} is finished: see result.json")
    return finished


def first_alone(devices, make):
    """Call a function in the first process before it is in the others.

    What the first one may download and prepare the others then find.

    Args:
        devices: `keras_resnet.devices.Devices`.
        make: Callable without arguments.

    Returns:
        What the function returned in this process.
    """
    made = []
    devices.on_first(lambda: made.append(make()))
    return made[0] if made else make()


def load(devices, *args):
    """Load a dataset, see `keras_resnet.data.load`."""
    from keras_resnet import data as image_data

    return first_alone(devices, lambda: image_data.load(*args))


def evaluate(model, split, devices):
    """Return loss and metrics of a model on all images of a split.

    Args:
        model: Compiled `keras.Model`, made on `devices`.
        split: `keras_resnet.data.Split`.
        devices: `keras_resnet.devices.Devices`.
    """
    from keras_resnet import data as image_data

    with devices.scope():
        return model.evaluate(
            image_data.evaluation_batches(
                split,
                shard=devices.shard,
                pad_to_multiple_of=devices.pad_to_multiple_of,
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
    """Train a run to its end, from wherever it is, and return the model.

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
        augment: Boolean, whether to shift and flip images as the dataset
            allows. Defaults to `True`.
        every: Integer, steps between two evaluations on the validation
            images. Defaults to `None`: after each epoch.
        callbacks: Further callbacks.
        interrupted: Callable that is called after a Ctrl-C.
    """
    from keras_resnet import data as image_data

    devices = run.devices
    batches = image_data.INPUTS[input_name]
    validation = None
    if data.validation is not None:
        validation = batches.evaluation_batches(
            data.validation,
            shard=devices.shard,
            pad_to_multiple_of=devices.pad_to_multiple_of,
        )
    return train(
        run,
        build,
        lambda start: batches.training_batches(
            data.train,
            batch_size,
            mean=data.mean,
            padding=data.padding if augment else 0,
            horizontal_flip=data.horizontal_flip and augment,
            seed=seed,
            start=start,
            shard=devices.shard,
        ),
        validation,
        per_epoch=steps_per_epoch(len(data.train), batch_size),
        batch_size=batch_size,
        steps=steps,
        every=every,
        callbacks=callbacks,
        interrupted=interrupted,
    )


def train(
    run,
    build,
    batches,
    validation,
    *,
    per_epoch,
    batch_size,
    steps,
    every=None,
    average=False,
    callbacks=(),
    steps_per_execution=1,
    interrupted=None,
):
    """Train a run to its end by batches of any kind, and return the model.

    On the devices of the run.

    Args:
        run: `keras_resnet.training.Run`.
        build: Callable that returns the compiled model of a new run.
        batches: Function from the first step to endless batches from there.
        validation: Batches to validate on, or `None`.
        per_epoch: Integer, batches per epoch.
        batch_size: Integer, images per batch.
        steps: Integer, batches in all.
        every: See `fit`.
        average: Boolean, whether to validate and keep the average of the
            weights that the optimizer has. Defaults to `False`.
        callbacks: Further callbacks.
        steps_per_execution: Integer, as in `keras.Model.compile`, of a loaded
            model too. Defaults to `1`.
        interrupted: Callable that is called after a Ctrl-C.
    """
    from keras.callbacks import SwapEMAWeights

    from keras_resnet import training

    devices = run.devices
    per_epoch = min(per_epoch, steps)
    model = devices.model(build, run.load_last)
    model.steps_per_execution = steps_per_execution
    start = training.batches_seen(model)
    verbose = 1 if sys.stdout.isatty() else 2
    if start < steps:
        try:
            with devices.scope():
                model.fit(
                    batches(start),
                    shuffle=False,  # the batches are shuffled already
                    steps_per_epoch=per_epoch,
                    initial_epoch=start // per_epoch,
                    epochs=-(-steps // per_epoch),
                    validation_data=validation if every is None else None,
                    callbacks=[
                        *callbacks,
                        *run.callbacks(
                            batch_size, steps, validation, every, average
                        ),
                        *([SwapEMAWeights()] if average else []),
                    ],
                    verbose=verbose if devices.is_first else 0,
                )
        except KeyboardInterrupt:
            if devices.is_first:
                say_interrupted(run, interrupted)
            raise
        finally:
            run.close()
    if average:
        keep_average(model, finished=start >= steps)
    return model


def say_interrupted(run, interrupted):
    """Say what is left of a run after a Ctrl-C, and how it goes on."""
    if interrupted is not None:
        interrupted()
    reached = run.history().get("iterations", [0])[-1]
    print(
        f"\nInterrupted. {run.path} holds the run up to iteration "
        f"{reached:.0f}; the same command with --resume goes on from there."
    )


def keep_average(model, finished):
    """Leave a trained model with the average of its weights.

    Args:
        model: `keras.Model`.
        finished: Whether it was loaded as trained, not trained just now.
    """
    import keras

    if finished:
        # As `fit` does when it ends.
        model.optimizer.finalize_variable_values(model.trainable_variables)
    # Weights and average are now one array, which JAX would give away with
    # the weights when it evaluates.
    for variable in model.trainable_variables:
        variable.assign(keras.ops.copy(variable))
