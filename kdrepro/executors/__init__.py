"""Where tasks are carried out: on Ray's workers, in Slurm's jobs, in processes of this machine.

A task's outcome is in a store, so it can be carried out anywhere, and again where a worker has died.
"""

from kdrepro.executors.options import Options, from_environment
from kdrepro.executors.tasks import Desk, Task
from kdrepro.executors.workers import Workers

__all__ = ["Desk", "Options", "Task", "Workers", "from_environment"]
