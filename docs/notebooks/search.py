# %% [markdown]
# # Search for a learning rate and a depth
#
# `ResNetHyperModel` is a search space of networks and their training, and
# `Search` runs its trials. This notebook searches learning rate and depth on
# 1,257 handwritten digits of 8x8 pixels, draws the trials, and trains the best
# net again.
#
# It needs `keras_resnet` with its extra `recipes-cpu`, which has KerasTuner.
# It downloads nothing.

# %%
# %matplotlib inline
import pathlib
import tempfile

from keras_resnet import data, plots, tuning

digits = data.load("digits")
folder = pathlib.Path(tempfile.mkdtemp(), "search")

# %% [markdown]
# ## The space
#
# A tuple is searched, and a single value is fixed. `learning_rate` is a range,
# drawn on a logarithmic scale. A trial trains two epochs of one cycle: the rate
# rises to the trial's value and falls to zero.

# %%
hypermodel = tuning.ResNetHyperModel(
    digits, epochs=2, depth=(8, 14), learning_rate=(0.002, 2.0), batch_size=64
)
print(hypermodel.searched())

# %% [markdown]
# ## The trials
#
# The folder keeps the state. If the search is stopped, the same lines continue
# it.


# %%
def report(row):
    print(
        f"depth {row['depth']:2}, rate {row['learning_rate']:.4f}:",
        f"{100 * row['val_error']:.1f} % wrong"
        if row["status"] == "completed"
        else row["reason"],
    )


search = tuning.Search(
    hypermodel, "random", max_trials=6, folder=folder, report=report
)
search.search()

# %%
rows = search.rows()
plots.learning_rate_errors(rows, "digits, 2 epochs, one cycle, seed 0")

# %%
done = [row for row in rows if row["status"] == "completed"]
columns = {name: [row[name] for row in done] for name in hypermodel.searched()}
errors = [row["val_error"] for row in done]
plots.parallel_coordinates(columns, errors, log=["learning_rate"])

# %% [markdown]
# ## The best
#
# The trials were compared on the validation images. Only the best net is
# tested, once, after it was trained again for longer.

# %%
best = tuning.best(rows)
final = tuning.ResNetHyperModel(
    digits,
    epochs=4,
    depth=best["depth"],
    learning_rate=best["learning_rate"],
    batch_size=64,
)
hp = search.oracle.get_space()
model = final.build(hp)
final.fit(hp, model)
result = model.evaluate(
    data.evaluation_batches(digits.test), verbose=0, return_dict=True
)
print(f"depth {best['depth']}, rate {best['learning_rate']:.4f}:")
print(f"{100 * result['accuracy']:.1f} % of the test images right")

# %% [markdown]
# ## Exercises
#
# Give each search a folder of its own, such as `folder.with_name("other")`,
# because a folder with six trials gets no more.
#
# 1. Search with `"bayesian"`, and with `"hyperband"` and `epochs=3`. What do
#    their trials look like in the two figures?
# 2. Add `shortcut=("A", "B", "C")` to the space. Is six trials enough to say
#    anything about it?
# 3. Repeat the search with another seed. How far do the best rates lie apart?
