"""The programs of SLURM: there already, or installed where that is possible."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping

from tests.slurm.cluster import Cluster, ClusterError

_SLURM: Mapping[str, str] = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "srun": "slurm-wlm",
}
_ACCOUNTING: Mapping[str, str] = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
"""Debian's packages, by a program of each."""
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"


def provide(*, accounting: bool) -> None:
    """Install what is missing, as root and with apt; nothing is started by that.

    Raises:
        ClusterError: something is missing and cannot be installed.
    """
    missing = _missing(accounting=accounting)
    if not missing:
        return
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"programs of SLURM are missing; install them as root: {line}")
    print(f"apt-get update && {line}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # 1: no daemon is started
    for words in (["apt-get", "update", "-qq"], line.split()):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(words)} failed: {' '.join(done.stderr.split()[-30:])}")
    if still := _missing(accounting=accounting):
        raise ClusterError(f"after the installation there is no {', '.join(still)}")


def _missing(*, accounting: bool) -> list[str]:
    """Packages whose programs are not there."""
    wanted = {**_SLURM, **(_ACCOUNTING if accounting else {})}
    path = f"{os.environ['PATH']}:{_SYSTEM_PATH}"
    return sorted({package for program, package in wanted.items() if shutil.which(program, path=path) is None})


def versions(cluster: Cluster) -> str:
    """Of what matters here, in a line."""
    slurm = cluster.call("sbatch", "--version").strip()
    names = ("snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep", "torch")
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    tracking = {
        "cgroup": "proctrack/cgroup, as on most clusters: a job's signals reach its steps alone",
        "pgid": "proctrack/pgid, without cgroup v1 or root: signals reach more processes than on most clusters",
    }[cluster.tracking]
    accounting = "with accounting (slurmdbd, MariaDB)" if cluster.accounting else "without accounting"
    return f"{slurm} ({tracking}; {accounting}), Python {platform.python_version()}, {packages}"
