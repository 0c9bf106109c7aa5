"""A chapter on specialists on a few small images: a generalist and four specialists of three classes each."""

from pathlib import Path

import nbformat
import pytest
import torch

from kdrepro import chapters, ensembles, paths, store
from kdrepro.acoustic import posteriors, soft_targets
from kdrepro.chapters import presets
from kdrepro.chapters.committees import Committee, SpecialistExperiment
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.sizes import Specialists, SpeechTraining
from kdrepro.chapters.speech import Folded, SpeechExperiment
from kdrepro.chapters.start import SpeechChapter
from kdrepro.data import ImageData
from kdrepro.store import Store

COMMITTEE_CLASSES = 8


def _stripes(each: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 12, 12] of bright stripes; pairs of classes differ by one column only, under noise."""
    labels = torch.arange(COMMITTEE_CLASSES).repeat(each)
    images = torch.randint(0, 90, (len(labels), 12, 12), generator=generator)
    for i, label in enumerate(labels.tolist()):
        images[i, 3 * (label // 2) : 3 * (label // 2) + 2] += 120
        images[i, :, 3 + 5 * (label % 2)] += 60
    return images.clamp(max=255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def committee_images() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    train, validation, test = (_stripes(each, generator) for each in (30, 6, 10))
    validation = dict(zip(("validation_images", "validation_labels"), validation, strict=True))
    return ImageData.of("stripes", *train, *test, COMMITTEE_CLASSES, **validation, class_names=tuple("abcdefgh"))


@pytest.fixture(scope="module")
def committee_sizes() -> Specialists:
    whole = presets.load("smoke").chapters["05-specialists"].model_dump()
    plan = {"recipe": {"epochs": 4, "batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}, "jitter": 1}
    return Specialists(
        **{
            **whole,
            "generalist": {"network": {"channels": [4, 8]}, **plan},
            "specialist": {"recipe": plan["recipe"] | {"epochs": 2}, "curve": 1},
            "specialists": 4,
            "special_classes": 3,
        }
    )


@pytest.fixture(scope="module")
def committee_run(committee_images, committee_sizes, tmp_path_factory) -> SpecialistExperiment:
    preset = presets.load("smoke")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("KDREPRO_RUNS", str(folder))
        preset = preset.model_copy(update={"chapters": {**preset.chapters, "05-specialists": committee_sizes}})
        yield SpecialistExperiment(
            "05-specialists", preset, [0, 1], torch.device("cpu"), committee_images, Store(folder)
        )


@pytest.fixture(scope="module")
def committee_generalist(committee_run) -> Trained:
    return committee_run.train(committee_run.sizes.generalist, 0)


@pytest.fixture(scope="module")
def committee_of_four(committee_run, committee_generalist) -> Committee:
    subsets = committee_run.clusters(committee_generalist)
    return committee_run.committee(committee_run.sizes.specialist, committee_generalist, subsets)


# --- chapters on speech, on three minutes of it ------------------------------------------------------


@pytest.fixture(scope="session")
def speech_runs(tmp_path_factory) -> Path:
    """One folder of runs, so that the corpus is made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def speech_start(speech_runs):
    """Starts a chapter on speech, its runs in `speech_runs`."""

    def start(chapter: str, seeds: int = 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDREPRO_RUNS", str(speech_runs))
            return chapters.start(chapter, seeds=seeds)

    return start


@pytest.fixture(scope="session")
def speech_chapter(speech_start) -> SpeechChapter:
    return speech_start("03-acoustic-ensemble")


@pytest.fixture(scope="session")
def speech_run(speech_chapter) -> SpeechExperiment:
    return speech_chapter.decides


@pytest.fixture(scope="session")
def speech_plan(speech_run) -> SpeechTraining:
    return speech_run.plans.training.but(epochs=2, curve=2)


@pytest.fixture(scope="session")
def speech_members(speech_run, speech_plan) -> list[Folded]:
    return speech_run.train(speech_plan, [0, 1], name="member")


@pytest.fixture(scope="session")
def speech_regulariser(speech_start) -> SpeechExperiment:
    return speech_start("04-soft-targets").decides


@pytest.fixture(scope="session")
def speech_log_probabilities():
    """The mean of networks over all frames of a split, the plain way."""

    def found(run, *members, how="arithmetic", split="test"):
        inputs = torch.cat(list(run.data.parts[0].split(split).windows())).float()
        with torch.no_grad():
            logits = torch.stack([member[0].network(inputs) for member in members])
        return ensembles.average(logits, how).log()

    return found


@pytest.fixture
def speech_never(monkeypatch):
    """Nothing may be computed from here on."""

    def refuse(*_, **__):
        raise AssertionError("computed again")

    def arm():
        monkeypatch.setattr(posteriors, "by_utterance", refuse)
        monkeypatch.setattr(store.Store, "_save", refuse)
        monkeypatch.setattr(soft_targets, "store_soft_targets", refuse)

    return arm


@pytest.fixture(scope="session")
def speech_cell():
    """Runs the one code cell of a chapter's notebook that holds a text, on the names that it is given."""

    def run(chapter: str, text: str, /, **names):
        cells = nbformat.read(paths.NOTEBOOKS / f"{chapter}.ipynb", 4).cells
        (source,) = (cell.source for cell in cells if cell.cell_type == "code" and text in cell.source)
        exec(source, names)
        return names

    return run
