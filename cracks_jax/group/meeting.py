"""Where the processes of a group meet. Nothing here needs jax: a process that only supervises is started soon."""

from dataclasses import dataclass

from cracks_jax.errors import UsageError

# Seconds for all processes to come.
COME = 300
AUTO = "auto"


@dataclass(frozen=True)
class Group:
    """Where to meet: `coordinator` is process 0's host:port, or `auto` under Slurm, Kubernetes, Cloud TPU and such.

    `wait`: seconds for all of them to come.
    """

    coordinator: str
    count: int | None = None
    index: int | None = None
    wait: float = COME

    def check(self) -> None:
        if self.coordinator == AUTO:
            if self.count is not None or self.index is not None:
                raise UsageError("--coordinator auto: the cluster says how many processes there are; leave --processes "
                                 "and --process out")  # fmt: skip
            return
        host, colon, port = self.coordinator.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"--coordinator {self.coordinator}: expected HOST:PORT of process 0, or auto")
        if self.count is None or self.index is None:
            raise UsageError("--coordinator HOST:PORT needs --processes N and --process I (0 to N - 1) too")
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(f"--process {self.index}: expected 0 to {self.count - 1} with --processes {self.count}")
