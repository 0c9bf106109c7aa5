"""An executor's options: from the command line, a file, the environment; what is wrong is one sentence."""

import pytest

from kdrepro.errors import InputError
from kdrepro.executors import options


def test_nothing_is_asked_for_unless_it_is_named():
    assert options.from_environment({}).executor == "local"


def test_notebooks_inherit_what_the_command_line_was_given(tmp_path):
    file = tmp_path / "slurm.yaml"
    file.write_text("threads: 4\ngpus: 0.5\nsubmitit: {timeout_min: 30, slurm_partition: short}\n")
    found = options.from_environment(options.as_environment("slurm", str(file), None))
    assert (found.executor, found.threads, found.gpus) == ("slurm", 4, 0.5)
    assert found.submitit == {"timeout_min": 30, "slurm_partition": "short"}
    assert options.from_environment(options.as_environment("ray", None, "auto")).address == "auto"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wokers: 3", "did you mean 'workers'"),
        ("threads: many", "threads"),
        ("threads: 0", "threads"),
        ("- a list", "must hold keys and values"),
        ("a: [", "cannot be read"),
        ("threads: 0b_", "cannot be read"),
        ("address: [1]", "address"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, content, message):
    file = tmp_path / "options.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        options.read("ray", str(file))
    assert "\n" not in str(error.value)


def test_an_unknown_executor_and_an_absent_file():
    with pytest.raises(InputError, match="did you mean 'slurm'"):
        options.read("slrum")
    with pytest.raises(InputError, match="No such file"):
        options.read("ray", "nowhere.yaml")
