"""From the published predictions of chapter 2 to its counts and tests, without training anything."""

import numpy as np

from kdrepro import data, paths
from kdrepro.verdicts import stats

labels = data.mnist(paths.data_root()).test_labels.numpy()
answers = np.load(paths.RESULTS / "02-mnist.npz")  # what there is: answers.files
wrong = {name: answers[name] != labels for name in answers.files}  # [seeds, images] each

errors = {name: images.sum(axis=1) for name, images in wrong.items()}
print("errors of each seed:", errors["plain"].tolist(), errors["distilled"].tolist())
print("mean and 95 % over seeds:", stats.mean_ci(errors["distilled"]))
print("McNemar, first seed:", stats.mcnemar(wrong["plain"][0], wrong["distilled"][0]))
print("paired t test over seeds:", stats.paired(errors["plain"], errors["distilled"]))
