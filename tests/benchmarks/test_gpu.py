"""What `make gpu` does: pieces that end for their time and go on, archives that are small, a sentence without a GPU."""

import sys
import tarfile

import gpu
import torch

from kdrepro import paths


def test_without_a_gpu_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sees no GPU" in said


def test_a_piece_ends_for_its_time_and_the_next_goes_on():
    assert gpu.for_at_most([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) is None
    assert gpu.for_at_most([sys.executable, "-c", "raise SystemExit(7)"], 60) == 7
    asked, results = [], paths.runs("full") / "results"
    results.mkdir(parents=True)

    def run(command, seconds):
        chapter = command[command.index("run") + 1]
        asked.append(chapter)
        if len(asked) == 2:
            return None
        (results / f"{chapter}.json").write_text("{}")
        return 0

    assert gpu.full(100, run) == gpu.AGAIN
    assert gpu.full(100, run) == 0
    assert asked[0] == "02-mnist"
    assert asked[1] == asked[2]
    assert len(set(asked)) == len(asked) - 1


def test_archives_are_small_and_hold_every_record(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    for i, size in enumerate([40_000, 50_000, 30_000, 400_000]):
        (tmp_path / "results" / f"{i}.npz").write_bytes(bytes(size))
    archives = gpu.pack(tmp_path, most=100_000)
    assert all(path.stat().st_size <= 100_000 for path in archives)
    found = []
    for path in archives:
        with tarfile.open(path) as archive:
            found += archive.getnames()
    assert found == [f"results/{i}.npz" for i in range(3)]
    assert "3.npz is larger" in capsys.readouterr().err
