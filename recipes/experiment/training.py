"""Trains the jobs of a recipe, each in the folder of its run."""

import contextlib
import os
import sys
import textwrap

import keras

from keras_resnet import devices as devices_
from keras_resnet import plots, training

from . import files, html, provenance, report, study
from .command import Failure, UsageError
from .run import Run, parameters


def train_jobs(settings, make_jobs, summarize=None):
    """Train all jobs of a command, see `experiment.main`."""
    devices = use_devices(settings)
    jobs = make_jobs(settings, devices)
    single = not isinstance(jobs, list)
    identity = jobs.identity if single else {}
    jobs = [jobs] if single else jobs
    for job in jobs:
        check_execution(job)
    with open_run(settings, devices, identity) as folder:
        for job in jobs:
            with (
                contextlib.nullcontext(folder)
                if single
                else job_run(folder, job)
            ) as run:
                _train_job(run, job, single)
        if not single and devices.is_first:
            (summarize or study.summarize)(settings, folder)
            html.leave(
                folder.path, provenance.origin() | {"settings": folder.settings}
            )


def _train_job(run, job, single):
    """Train one job of a command to its end, unless it is finished."""
    if run.finished:
        if single:
            report.show(f"{run.path} is finished: see result.json")
        return
    result = finish(run, job)
    if result is not None:
        report.show(f"{sentence(result)}\neverything is in {run.path}\n")
    if not single:
        keras.backend.clear_session()


def check_execution(job, start=0):
    """Raise `UsageError` for steps per execution that do not fit.

    `start` is the first step of this training.
    """
    each = job.steps_per_execution
    if each == 1:
        return
    if keras.backend.backend() == "torch":
        raise UsageError(
            "--steps-per-execution: not supported by Keras on PyTorch; leave "
            "it out"
        )
    per_epoch = min(job.steps_per_epoch, job.steps)
    fitting = [
        str(n)
        for n in range(2, min(per_epoch, 1000) + 1)
        if not any(steps % n for steps in (per_epoch, job.steps, start))
    ]
    these = f"these do: {', '.join(fitting[:10]) or 'none'}"
    if per_epoch % each or job.steps % each:
        raise UsageError(
            f"--steps-per-execution {each} must divide both the {per_epoch} "
            f"steps of an epoch and the {job.steps} in all; {these}"
        )
    if start % each:
        raise UsageError(
            f"the run continues from step {start}, which is not a multiple of "
            f"--steps-per-execution {each}: resume it with another one; {these}"
        )


def use_devices(settings):
    """Return the devices of the settings. Call it before Keras computes.

    After this call all processes but the first print nothing.
    """
    # All images of recipes are channels last, whatever Keras's setting.
    keras.config.set_image_data_format("channels_last")
    devices = devices_.use(
        settings.devices,
        synchronized=settings.normalization == "synchronized",
        deterministic=settings.deterministic,
    )
    if not devices.is_first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return devices


def first_alone(devices, make):
    """Call a function in the first process, then in the others.

    The others then find the data that the first one has prepared.

    Args:
        devices: `keras_resnet.devices.Devices`.
        make: Callable without arguments.

    Returns:
        The result of the function in this process.
    """
    made = []
    devices.on_first(lambda: made.append(make()))
    return made[0] if made else make()


def open_run(settings, devices, more=()):
    """Return the `Run` in the folder that `--output` or the settings name.

    Args:
        settings: `RunSettings`.
        devices: `keras_resnet.devices.Devices`.
        more: Dictionary of further JSON values that determine the run.
    """
    backend = keras.backend.backend()
    return Run(
        settings.output or f"runs/{settings.name(backend)}",
        settings.stored()
        | {"backend": backend}
        | devices.settings()
        | dict(more),
        resume=settings.resume,
        devices=devices,
        save_every=settings.save_every,
    )


def job_run(folder, job):
    """Return the `Run` of a job in its own folder, resumed if it exists."""
    path = folder / job.folder
    return Run(
        path,
        folder.settings | job.identity,
        resume=folder.devices.on_first((path / "settings.json").exists),
        devices=folder.devices,
        save_every=folder.save_every,
    )


def train(run, job):
    """Train a run from its last checkpoint to its end; return the model."""
    devices = run.devices
    per_epoch = min(job.steps_per_epoch, job.steps)
    with job.context():
        model = devices.model(job.build, run.load_last)
        model.steps_per_execution = job.steps_per_execution
        start = training.batches_seen(model)
        check_execution(job, start)
        if start < job.steps:
            _introduce(run, job, model, start)
            if start % per_epoch:
                _build_metrics(model, job.batches(start), devices)
            try:
                with devices.scope():
                    model.fit(
                        job.batches(start),
                        shuffle=False,  # the batches are shuffled already
                        steps_per_epoch=per_epoch,
                        initial_epoch=start // per_epoch,
                        epochs=-(-job.steps // per_epoch),
                        validation_data=None if job.every else job.validation,
                        callbacks=[*job.callbacks(run), *run.callbacks(job)],
                        verbose=0,
                    )
            except KeyboardInterrupt:
                if devices.is_first:
                    # The terminal may be gone.
                    with contextlib.suppress(OSError):
                        _say_interrupted(run, job)
                raise
            except training.DivergenceError as error:
                raise Failure(f"{error}. {_last_good(run)}") from error
            finally:
                run.end_training()
            _check_steps(model, job)
    if job.average:
        _keep_average(model, finished=start >= job.steps)
    return model


def _introduce(run, job, model, start):
    """Print the net, the steps, the devices and the folder of a run."""
    epochs = -(-job.steps // job.steps_per_epoch)
    resumed = f", from step {start:,}" if start else ""
    print(f"{job.label}, {parameters(model):,} parameters")
    print(
        f"{job.steps:,} steps of {job.batch_size:,} images, {epochs:,} epoch"
        f"{'s' if epochs > 1 else ''}{resumed}"
    )
    where = f"{keras.backend.backend()} on {provenance.device()}"
    print(textwrap.fill(where, report.WIDTH))
    report.show(f"folder {run.path}")


def _build_metrics(model, batches, devices):
    """Make the variables of the metrics, so that a run can restore them.

    On one TensorFlow device Keras makes them in the first step, too late.
    """
    if keras.backend.backend() != "tensorflow" or devices.count > 1:
        return
    x, y, weights = keras.utils.unpack_x_y_sample_weight(next(iter(batches)))
    outputs = keras.ops.zeros((len(y), *model.output_shape[1:]))
    model.compute_metrics(x, y, outputs, weights)


def _last_good(run):
    """Return a text about the last good checkpoint."""
    if not run.saved:
        return (
            "There is no checkpoint yet: start a new run with another --output"
        )
    return (
        f"{run / 'last.keras'} is the last good checkpoint, of iteration "
        f"{run.saved}; a resumed run would diverge again, so start a new run "
        "with another --output"
    )


def _check_steps(model, job):
    """Raise `Failure` if Keras ended a training before its last step."""
    seen = training.batches_seen(model)
    if seen < job.steps:
        limits = [x for x in os.environ if x.startswith("KERAS_MAX_")]
        raise Failure(
            f"training ended after {seen:,} of {job.steps:,} steps"
            + (f": unset {' and '.join(limits)}, and" if limits else ":")
            + " run the same command with --resume to continue"
        )


def _say_interrupted(run, job):
    """Draw the curves of an interrupted run, and print how to continue."""
    draw(run, job)
    report.show(
        f"\nInterrupted. {run.path} holds the run up to iteration "
        f"{run.saved}; run the same command with --resume to continue."
    )


def _keep_average(model, finished):
    """Give a trained model the average of its weights.

    Args:
        model: `keras.Model`.
        finished: Boolean, whether training had ended when it was loaded.
    """
    if finished:
        # `fit` does the same when it ends.
        model.optimizer.finalize_variable_values(model.trainable_variables)
    # Weights and average now share arrays. JAX would donate them with the
    # weights when it evaluates.
    for variable in model.trainable_variables:
        variable.assign(keras.ops.copy(variable))


def finish(run, job):
    """Train a run to its end, report on its model, and write its result line.

    Returns:
        The result line, `None` in all processes but the first.
    """
    model = train(run, job)
    with job.context():
        tested = job.report(model, run)
    if not run.devices.is_first:
        return None
    history = errors(run, job)
    results = {}
    for name, prefix in (("error", "training"), ("val_error", "validation")):
        if name in history:
            results[f"{prefix}_error"] = round(history[name][-1], 4)
    if "val_error" in history:
        best = min(history["val_error"])
        results["best_validation_error"] = round(best, 4)
    results |= tested
    # Before the result line, because that marks the run as finished.
    draw(run, job, **{k: v for k, v in results.items() if k == "test_error"})
    return run.finish(model, **results)


def errors(run, job):
    """Return the history of errors, by epochs or by `every` steps."""
    return run.history(files.HISTORIES[bool(job.every)])


def draw(run, job, **point):
    """Draw the learning curves of a run, if it has any yet."""
    history = errors(run, job)
    if not history.get("val_error"):
        return
    curve = study.style(job.label, job.plain) | history | point
    path = run / "curves.png"
    plots.draw(path, plots.learning_curves, [curve], title=job.title)


def sentence(result):
    """Return the errors and the speed of a result line as text."""
    parts = []
    for name in ("test", "validation"):
        if f"{name}_error" in result:
            text = f"{name} error {100 * result[f'{name}_error']:.2f} %"
            if f"{name}_top5_error" in result:
                top5 = 100 * result[f"{name}_top5_error"]
                text += f" (top 5: {top5:.2f} %)"
            if f"{name}_images" in result:
                text += f" ({result[f'{name}_images']:,} images)"
            parts.append(text)
    parts.append(f"{result['images_per_second']:.0f} images/s")
    return ", ".join([*parts, f"{result['seconds']:.0f} s"])
