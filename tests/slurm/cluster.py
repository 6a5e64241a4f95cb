"""A private SLURM on loopback, in one folder: a controller, two pretend nodes, pretend GPUs; accounting on request.

No systemd, no munge. `running` takes everything down again, however the block ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_LONGEST_FOLDER = 70
"""Sockets lie below the folder, and their paths have 108 bytes."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
"""Pretend GPUs: files that are there on every machine."""
_SETTLING = 3.0
"""Seconds until the controller and a node agree on what runs."""
_CGROUPS = Path("/sys/fs/cgroup")
_CONF = """\
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={port}
SrunPortRange={first_srun_port}-{last_srun_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/{tracking}
TaskPlugin=task/{task_plugin}
JobAcctGatherType=jobacct_gather/{gather}
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait={kill_wait}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={cpu_node} NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu_port} {size} Weight=1 State=UNKNOWN
NodeName={gpu_node} NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu_port} {size} Weight=10 Gres=gpu:{gpus}
PartitionName={partition} Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName={urgent} Nodes=ALL Default=NO State=UP PriorityTier=10 PreemptMode=OFF
"""
_ACCOUNTING_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
"""
_DATABASE_CONF = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage_port}
StorageUser=slurm
StoragePass=box
StorageLoc=slurm
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
CommunicationParameters=NoInAddrAny
"""
_CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={_CGROUPS}
ConstrainCores=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainDevices=no
"""  # the pretend GPUs are devices that everything needs
_GRANTS = (
    "create database slurm",
    *(f"create user slurm@'{host}' identified by 'box'" for host in ("127.0.0.1", "localhost")),
    *(f"grant all on slurm.* to slurm@'{host}'" for host in ("127.0.0.1", "localhost")),
)


class ClusterError(Exception):
    """The cluster cannot be had, or does not do what it should; said in one line."""


@dataclass(frozen=True)
class Cluster:
    """What a cluster is like, and what is asked of it while it runs.

    Attributes:
        folder: of all of its files; short.
        port: of the controller; the next 99 are the cluster's as well.
        accounting: whether jobs and accounts stand in a database, and accounts are checked.
        gpus: pretend ones, of the second node.
        cpus: pretend ones, of each node.
        kill_wait: seconds from SIGTERM to SIGKILL.
        grace: seconds from the SIGTERM of a pre-emption to its end.
    """

    folder: Path
    port: int
    accounting: bool = False
    gpus: int = 2
    cpus: int = 8
    kill_wait: int = 30
    grace: int = 10

    partition = "gpu"
    urgent = "urgent"
    """The partition whose jobs push those of the other one out."""
    account = "physics"

    @property
    def tracking(self) -> str:
        """How SLURM knows a job's processes, which decides who is sent SIGTERM: as on a real cluster where possible."""
        return "cgroup" if os.geteuid() == 0 and (_CGROUPS / "freezer" / "cgroup.procs").exists() else "pgid"

    @property
    def nodes(self) -> tuple[str, str]:
        """The node without GPUs and the one with them; named for the port, as cgroups of two clusters lie together."""
        return f"cpu{self.port}", f"gpu{self.port}"

    @cached_property
    def environment(self) -> dict[str, str]:
        """For commands that are to find this cluster.

        Snakemake's job steps clear every variable of SLURM but call `srun`: that one here knows the cluster again.
        """
        conf = str(self.folder / "etc" / "slurm.conf")
        return {**os.environ, "SLURM_CONF": conf, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def call(self, *line: object, check: bool = True) -> str:
        """What a command of SLURM prints.

        Raises:
            ClusterError: it ended badly, and that matters.
        """
        words = [str(word) for word in line]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start a node's daemon, which puts itself into the background."""
        self.call(_command("slurmd"), "-f", self.environment["SLURM_CONF"], "-N", node)

    def lose_node(self, node: str) -> None:
        """Have a node die at once, with all that runs on it; the controller is told, as it would find out late.

        What is to be back at once waits some seconds: the controller has a word for the jobs that it takes for running.
        """
        daemon = self.pid(f"slurmd.{node}")
        assert daemon is not None
        _kill(daemon, *_with_children(_steps_of(self.folder, node)))
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        time.sleep(_SETTLING)

    def bring_back(self, node: str) -> None:
        """Start a lost node again, and let it have jobs."""
        self.start_node(node)
        self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # or it is up by itself
        wait_until(lambda: self._idle() == len(self.nodes), 30, f"{node} did not come back")
        time.sleep(_SETTLING)

    def pid(self, daemon: str) -> int | None:
        """The process of a daemon; None: it does not run."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / "run" / f"{daemon}.pid").read_text())
            os.kill(pid, 0)
            return pid
        return None

    def _idle(self) -> int:
        """How many nodes have nothing to do and can be used."""
        states = self.call("sinfo", "-h", "-N", "-p", self.partition, "-o", "%t", check=False)
        return states.split().count("idle")


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, up and idle; down again, with its cgroups gone, at the end: its files stay, for what they tell.

    Raises:
        ClusterError: it does not start.
    """
    if len(str(cluster.folder)) > _LONGEST_FOLDER:
        raise ClusterError(
            f"{cluster.folder} has more than {_LONGEST_FOLDER} characters: --scratch names a shorter one"
        )
    with ExitStack() as stack:
        stack.callback(_remove_cgroups, cluster)
        _write(cluster)
        stack.callback(_stop, cluster)
        if cluster.accounting:
            _start_accounting(cluster)
        cluster.call(_command("slurmctld"), "-f", cluster.environment["SLURM_CONF"])
        for node in cluster.nodes:
            cluster.start_node(node)
        wait_until(lambda: cluster._idle() == len(cluster.nodes), 30, f"nodes are not idle: see {cluster.folder}/log")
        yield cluster


def free_port() -> int:
    """The first of a hundred ports that no cluster uses: SLURMBOX_PORT names it, or it is looked for.

    Raises:
        ClusterError: there is none; at one that is in use, another cluster would answer.
    """
    wanted = os.environ.get("SLURMBOX_PORT")
    for port in range(16800, 30000, 100) if wanted is None else (int(wanted),):
        if all(_is_free(port + offset) for offset in range(5)):
            return port
    raise ClusterError(
        f"ports {wanted or '16800 to 30000'} are in use: SLURMBOX_PORT names the first of a hundred others"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str, *, every: float = 0.1) -> None:
    """Wait for something to become true.

    Raises:
        ClusterError: it has not after so many seconds; `otherwise` says what.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"{otherwise} (within {seconds:g} s)")
        time.sleep(every)


def _command(daemon: str) -> str:
    """Where a daemon's program is; its folder is on the path of root alone."""
    return shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or daemon


def _write(cluster: Cluster) -> None:
    """The cluster's files."""
    for name in ("etc", "state", "spool", "log", "run", "bin"):
        (cluster.folder / name).mkdir(parents=True)
    cpu_node, gpu_node = cluster.nodes
    conf = _CONF.format(
        host=socket.gethostname().partition(".")[0], user=_user(), folder=cluster.folder, port=cluster.port,
        first_srun_port=cluster.port + 10, last_srun_port=cluster.port + 99,
        tracking=cluster.tracking, task_plugin="cgroup" if cluster.tracking == "cgroup" else "none",
        gather="linux" if cluster.tracking == "cgroup" or cluster.accounting else "none",
        kill_wait=cluster.kill_wait, grace=cluster.grace, partition=cluster.partition, urgent=cluster.urgent,
        cpu_node=cpu_node, gpu_node=gpu_node, cpu_port=cluster.port + 1, gpu_port=cluster.port + 2,
        size=f"CPUs={cluster.cpus} Sockets=1 CoresPerSocket={cluster.cpus} ThreadsPerCore=1 RealMemory=64000",
        gpus=cluster.gpus,
    )  # fmt: skip
    accounting = _ACCOUNTING_CONF.format(port=cluster.port + 3) if cluster.accounting else ""
    (cluster.folder / "etc" / "slurm.conf").write_text(conf + accounting)
    devices = (f"NodeName={gpu_node} Name=gpu File={device}\n" for device in _DEVICES[: cluster.gpus])
    (cluster.folder / "etc" / "gres.conf").write_text("".join(devices))
    (cluster.folder / "etc" / "cgroup.conf").write_text(_CGROUP_CONF if cluster.tracking == "cgroup" else "")
    shim = cluster.folder / "bin" / "srun"
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={cluster.folder}/etc/slurm.conf exec {shutil.which("srun")} "$@"\n')
    shim.chmod(0o755)


def _user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def _start_accounting(cluster: Cluster) -> None:
    """A database server, SLURM's daemon in front of it, and an account that this user may use."""
    folder, sock = cluster.folder, cluster.folder / "run" / "db.sock"
    owner, data = f"--user={_user()}", f"--datadir={folder}/db"
    install = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
    cluster.call(*install, data, owner)
    server = [
        _command("mariadbd"), "--no-defaults", data, owner, f"--socket={sock}", f"--port={cluster.port + 4}",
        "--bind-address=127.0.0.1", f"--pid-file={folder}/run/mariadbd.pid", "--innodb-buffer-pool-size=32M",
        "--innodb-lock-wait-timeout=900",
    ]  # fmt: skip
    with (folder / "log" / "mariadbd.log").open("wb") as log:
        subprocess.Popen(server, stdout=log, stderr=log, start_new_session=True)
    client = ("mariadb", "--no-defaults", "-uroot", "-S", sock, "-e")
    wait_until(lambda: cluster.call(*client, "select 1", check=False), 30, f"mariadbd does not answer: {folder}/log")
    cluster.call(*client, "; ".join(_GRANTS))
    conf = folder / "etc" / "slurmdbd.conf"
    conf.write_text(
        _DATABASE_CONF.format(port=cluster.port + 3, storage_port=cluster.port + 4, user=_user(), folder=folder)
    )
    conf.chmod(0o600)
    cluster.call(_command("slurmdbd"))
    manage = ("sacctmgr", "-i")
    wait_until(
        lambda: "started" in _text(folder / "log" / "slurmdbd.log"), 30, f"slurmdbd does not start: {folder}/log"
    )
    cluster.call(*manage, "add", "cluster", "box")
    cluster.call(*manage, "add", "account", cluster.account, "cluster=box", "description=test", "organization=test")
    cluster.call(*manage, "add", "user", _user(), f"account={cluster.account}", "cluster=box", check=False)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _stop(cluster: Cluster) -> None:
    """End all jobs, then the daemons, the database last; nothing is left that they have started."""
    if cluster.pid("slurmctld") is not None:
        cluster.call("scancel", "--state=PENDING", "--user", _user(), check=False)
        cluster.call("scancel", "--signal=KILL", "--full", "--user", _user(), check=False)
        with suppress(ClusterError):
            wait_until(lambda: not cluster.call("squeue", "-h", check=False).strip(), 10, "jobs do not end")
    for node in cluster.nodes:
        _kill(*_with_children(_steps_of(cluster.folder, node)))
    for daemon in (*(f"slurmd.{node}" for node in cluster.nodes), "slurmctld", "slurmdbd", "mariadbd"):
        _end(cluster, daemon)


def _end(cluster: Cluster, daemon: str) -> None:
    pid = cluster.pid(daemon)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    with suppress(ClusterError, ChildProcessError):
        wait_until(lambda: _gone(pid), 10, f"{daemon} does not end")
        return
    os.kill(pid, signal.SIGKILL)


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that is ours and has is forgotten by the system."""
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return not Path("/proc", str(pid)).exists()


def _steps_of(folder: Path, node: str) -> list[int]:
    """The processes that a node's daemon started for its jobs' steps: all write into its log."""
    return [pid for pid in _named("slurmstepd") if _has_open(pid, f"{folder}/log/slurmd.{node}.log")]


def _with_children(pids: Sequence[int]) -> set[int]:
    """Processes and all that they have started, as far as their parents live."""
    parents = dict(_parents())
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process and its parent."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _named(name: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if (entry / "comm").read_text().strip() == name:
                yield int(entry.name)


def _has_open(pid: int, file: str) -> bool:
    with suppress(OSError):
        return any(os.readlink(link) == file for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _remove_cgroups(cluster: Cluster) -> None:
    """The folders of the nodes' cgroups, which SLURM leaves: from the leaves up."""
    for top in (found for node in cluster.nodes for found in _CGROUPS.glob(f"*/slurm_{node}")):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
