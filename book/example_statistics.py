"""From the published predictions of chapter 2 to its counts and tests, without training and without any data."""

import numpy as np

from kdrepro import paths
from kdrepro.verdicts import stats

arrays = np.load(paths.RESULTS / "02-mnist.npz")  # what there is: arrays.files
cases = int(arrays["cases"])
wrong = {  # [seeds, images] each
    name.removesuffix(".right"): np.unpackbits(arrays[name], axis=1, count=cases) == 0
    for name in arrays.files
    if name.endswith(".right")
}

plain = wrong["plain"].sum(axis=1)
# A teacher has several students, whose mean is its seed's figure.
students = [images.sum(axis=1) for name, images in wrong.items() if name.startswith("distilled")]
distilled = sum(students) / len(students)
print("errors of each seed:", plain.tolist(), distilled.tolist())
print("mean and 95 % over seeds:", stats.mean_ci(distilled))
print("McNemar, first seed:", stats.mcnemar(wrong["plain"][0], wrong["distilled"][0]))
print("paired t test over seeds:", stats.paired(plain, distilled))
