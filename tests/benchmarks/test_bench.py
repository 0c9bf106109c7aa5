"""The benchmark: its arms do the same work, its arithmetic is counted right, and its results make the page."""

import statistics
import sys
from io import StringIO
from types import SimpleNamespace

import arms
import bench
import convolutions
import flops
import memory
import pytest
import speed_page as speed
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.networks import MLP, ConvNet

CPU = torch.device("cpu")
TINY = bench.QUICK | {
    "students": [(12, 12)],
    "teacher": (16, 16),
    "batch_sizes": [8],
    "steps": 4,
    "repeats": 2,
    "networks": 2,
    "matrix_sizes": (16,),
    "matrix_seconds": 0.0,
}


@pytest.fixture(scope="module")
def result() -> dict:
    provenance = {
        "git": "0123456789ab",
        "dirty": False,
        "torch": "2.x",
        "python": "3.x",
        "device": "cpu",
        "cpu": "Some(R) Processor, 2 cores",
        "threads": 1,
        "date": "2026-01-01",
    }
    settings = bench.settings(TINY, "python benchmarks/bench.py")
    return {"provenance": provenance, "settings": settings, **bench.measure(TINY, CPU)}


def work(**options) -> arms.Work:
    return arms.work([784, 24, 10], [784, 32, 10], 32, 0, CPU, batch_size=16, epochs=1, **options)


def test_operations_by_hand():
    assert flops.forward([3, 2, 1]) == 2 * (3 * 2 + 2 * 1)
    # 3 x 16 less the gradient to the three inputs, 2 x 3 x 2; the teacher's forward pass 2 x (3 x 4 + 4 x 1)
    assert flops.distillation([3, 2, 1], [3, 4, 1]) == (48 - 12) + 32


def test_operations_are_those_that_pytorch_counts(generator):
    network, x = MLP([20, 12, 8, 5], generator=generator), torch.rand(7, 20, generator=generator)
    with FlopCounterMode(display=False) as counter:
        network(x).sum().backward()
    assert counter.get_total_flops() == 7 * flops.training([20, 12, 8, 5])


@pytest.mark.parametrize("soft_weight", [1.0, 0.9])
@pytest.mark.parametrize("arm", arms.ARMS, ids=lambda arm: arm.name)
def test_arms_have_one_loss(arm, soft_weight):
    if reason := arm.missing(CPU):
        pytest.skip(reason)
    one_batch = work(soft_weight=soft_weight).first(16)
    assert arm.prepare(one_batch, "fp32")() == pytest.approx(arms.reference_loss(one_batch), abs=bench.TOLERANCE)


@pytest.mark.parametrize("arm", arms.ARMS, ids=lambda arm: arm.name)
def test_arms_train_and_leave_the_given_networks_alone(arm):
    if reason := arm.missing(CPU):
        pytest.skip(reason)
    given = work(networks=2)
    before = [p.clone() for p in [*given.student.parameters(), *given.teacher.parameters()]]
    assert arm.prepare(given.first(32, epochs=4), arm.precision)() < 0.8 * arms.reference_loss(given)
    after = [*given.student.parameters(), *given.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_arms_from_stored_logits_do_not_count_the_teacher(result):
    (workload,) = result["workloads"]
    counted = {entry["arm"]: entry["flops_per_image"] for entry in workload["arms"]}
    student, teacher = workload["student"], [784, *TINY["teacher"], 10]
    assert counted["fit"] - counted["stored-many"] == flops.forward(teacher)
    assert counted["stored-many"] == counted["stored-in-turn"] == flops.training(student)


def test_an_arm_with_another_loss_is_refused():
    def forgets_the_temperature(given, precision):
        return lambda: arms.reference_loss(given) / given.temperature**2

    entry = bench.check(arms.Arm("wrong", "wrong", forgets_the_temperature), work().first(16))
    assert "refused: its loss differs" in entry["absent"]


def test_an_absent_library_has_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    entry = bench.check(next(arm for arm in arms.ARMS if arm.name == "torchdistill"), work().first(16))
    assert entry["absent"].startswith("cannot be imported (ModuleNotFoundError")


def test_a_measurement_has_every_arm(result):
    assert {name: len(rates) for name, rates in result["matrix"].items()} == {"fp32": 2, "bf16": 2}
    (workload,) = result["workloads"]
    assert [entry["arm"] for entry in workload["arms"]] == [arm.name for arm in arms.ARMS]
    for entry in workload["arms"]:
        if "absent" in entry:
            assert entry["arm"] in ("torchdistill", "captured-many")  # not installed; not without a GPU
            continue
        assert len(entry["images_per_second"]) == len(entry["last_loss"]) == TINY["repeats"]
        assert min(entry["images_per_second"]) > 0
        assert abs(entry["loss_difference"]) <= bench.TOLERANCE


def test_rows_hold_medians_ratios_and_shares(result):
    workload = {
        "student": [784, 30, 10],
        "batch_size": 8,
        "arms": [
            {"arm": "fit", "title": "fit", "precision": "bf16", "loss_difference": 0.0, "flops_per_image": 10**6}
            | {"images_per_second": [2000.0, 1000.0, 9000.0]},
            {
                "arm": "in-memory",
                "title": "loop",
                "precision": "fp32",
                "loss_difference": 2e-5,
                "flops_per_image": 10**6,
            }
            | {"images_per_second": [500.0, 400.0, 1234.5]},
            {"arm": "torchdistill", "title": "torchdistill", "absent": "not here"},
        ],
    }
    rows = speed.rows(workload, {"fp32": [4.0], "bf16": [10.0, 30.0, 20.0]})
    # 2000 images of 1e6 operations are 2 GFLOP/s of 20.
    assert rows[0] == ["fit", "bf16", "2,000 [1,000 to 9,000]", "–", "4.00", "–", "10%", "0"]
    assert rows[1] == ["loop", "fp32", "500 [400 to 1,230]", "–", "1.00", "–", "12%", "+2e−05"]
    assert rows[2][:2] == ["torchdistill", "absent: not here"]
    assert all(len(row) == len(speed.COLUMNS) for row in rows)


def test_results_make_the_page_and_its_chart(result, tmp_path):
    results, book = tmp_path / "results", tmp_path / "book"
    speed.generate(book, results)
    assert (book / "speed-results.md").read_text().strip() == speed.NOT_RUN
    name = speed.slug(result["provenance"])
    assert name == "some-processor-2-cores-1-thread"
    path = results / f"{name}.json"
    speed.write_result(result, path)
    (book / "speed").mkdir(exist_ok=True)
    (book / "speed" / "gone.svg").touch()
    speed.generate(book, results)
    page = (book / "speed-results.md").read_text()
    assert page.strip() == speed.page({name: speed.read(path)})
    fit = statistics.median(result["workloads"][0]["arms"][0]["images_per_second"])
    assert f"| {float(f'{fit:.3g}'):,.0f}\N{NO-BREAK SPACE}[" in page
    assert [svg.name for svg in (book / "speed").iterdir()] == [f"{name}.svg"]
    assert speed.fingerprint(path) in (book / "speed" / f"{name}.svg").read_text()


def test_the_bound_is_of_every_convolution(generator):
    network = ConvNet([4, 6], in_channels=3, classes=5, blocks=[0, 1], generator=generator).eval()
    images = torch.rand(2, 3, 8, 8, generator=generator)
    found = [(layer.out_channels, tuple(shape)) for layer, shape in convolutions.layers(network, images)]
    assert found == [(4, (2, 3, 8, 8)), (6, (2, 4, 4, 4)), (6, (2, 6, 2, 2)), (6, (2, 6, 2, 2))]
    for dtype in (torch.float32, torch.bfloat16):
        assert convolutions.convolutions_alone(network, images, 1, dtype) > 0


@pytest.mark.parametrize(("gains", "precisions"), [(False, ["fp32"]), (True, ["fp32", "bf16"])])
def test_a_convolutional_net_beside_its_bound(monkeypatch, gains, precisions):
    monkeypatch.setattr(convolutions.training, "gains_from_bf16", lambda device: gains)
    sizes = convolutions.QUICK | {"side": 8, "repeats": 1}
    measured = convolutions.measure(sizes, CPU)
    assert list(measured["images_per_second"]) == precisions
    for rates in measured["images_per_second"].values():
        assert {name: len(each) for name, each in rates.items()} == dict.fromkeys(
            ("fit", "plain loop", "convolutions alone"), 1
        )
    rates = {"fit": [40.0, 50.0, 60.0], "convolutions alone": [100.0, 200.0, 50.0]}
    assert convolutions.rows({"images_per_second": {"fp32": rates}})[0] == ["fit", "fp32", "50 [40 to 60]", "50%"]
    assert "channels 8-16, residual blocks 0-1, batch 16" in convolutions.section(measured)


def test_what_keeping_memory_saves_is_timed_in_processes_that_differ_in_it_alone(monkeypatch):
    monkeypatch.setitem(memory.NETS, "tiny", (lambda: MLP([4, 3, memory.CLASSES]), (2, 2), 1))
    assert memory.images_per_second("tiny", torch.get_num_threads()) > 0
    given = []

    def started(command, *, env, **options):
        given.append(env)
        return SimpleNamespace(stdout="2\n")

    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.top_pad=1")
    monkeypatch.setattr(memory.subprocess, "run", started)
    assert [memory.of_a_process("tiny", 1, setting) for setting in ("", memory.MEMORY)] == [2, 2]
    assert [env.pop("GLIBC_TUNABLES", None) for env in given] == [None, memory.MEMORY]
    assert given[0] == given[1]


def test_the_published_page_is_that_of_the_results():
    found = sorted(speed.RESULTS.glob("*.json"))
    assert (paths.BOOK / "speed-results.md").read_text().strip() == speed.page({p.stem: speed.read(p) for p in found})
    assert {svg.stem for svg in (paths.BOOK / "speed").glob("*.svg")} == {path.stem for path in found}
    for path in found:
        assert speed.fingerprint(path) in (paths.BOOK / "speed" / f"{path.stem}.svg").read_text()


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(InputError, match=r"some\.json is not a result"):
        speed.read(tmp_path / "some.json")


def test_the_command_names_no_folder(tmp_path):
    args = bench.arguments(["--quick", "--threads", "1", "--soft-weight", "0.9", "--out", str(tmp_path / "x.json")])
    assert bench.command(args) == "python benchmarks/bench.py --quick --soft-weight 0.9 --threads 1"


@pytest.mark.parametrize("given", [["--steps", "5"], ["--repeats", "0"]])
def test_options_that_cannot_be_are_refused(given, capsys):
    with pytest.raises(SystemExit):
        bench.arguments(given)
    assert given[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_terminal_shows_what_the_page_does(result):
    console = Console(width=200, record=True, file=StringIO())
    bench.show(result, console)
    shown = console.export_text()
    assert all(column in shown for column in speed.COLUMNS)
    (workload,) = result["workloads"]
    assert all(cell in shown for row in speed.rows(workload, result["matrix"]) for cell in row if "absent" not in cell)
