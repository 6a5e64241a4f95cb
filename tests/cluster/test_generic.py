"""The scripts of profiles/ for the generic executor, with commands that print what those of the schedulers do."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import put

PROFILES = Path(__file__).parents[2] / "profiles"


def said(script: str, folder: Path, *arguments: str) -> str:
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    done = subprocess.run([PROFILES / script, *arguments], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("qstat", "expected"),
    [
        ("echo '    job_state = R'", "running"),
        ("echo '    job_state = Q'", "running"),
        ("echo '    job_state = E'; echo '    Exit_status = 0'", "running"),
        ("echo '    job_state = F'; echo '    Exit_status = 0'", "success"),
        ("echo '    job_state = F'; echo '    Exit_status = 75'", "failed"),
        ("echo '    exit_status = 271'; echo '    job_state = C'", "failed"),
        ("echo '    exit_status = -11'; echo '    job_state = C'", "failed"),
        # to Torque -x means XML
        ("[ $1 = -f ] || { echo '<job_state>C</job_state>'; exit; }; echo '    job_state = C'", "success"),
        # OpenPBS has an ended job in its history alone
        ("[ $1 = -x ] || exit 35; echo '    job_state = F'; echo '    Exit_status = 0'", "success"),
        ("echo 'qstat: Unknown Job Id 7' >&2; exit 153", "success"),
        ("echo 'Connection refused' >&2; exit 111", "running"),
    ],
)
def test_a_job_of_pbs_is_followed_by_qstat(tmp_path: Path, qstat: str, expected: str) -> None:
    put(tmp_path, "qstat", qstat)
    assert said("pbs/status.sh", tmp_path, "7") == expected


@pytest.mark.parametrize(
    ("bjobs", "expected"),
    [
        ("echo RUN", "running"),
        ("echo PEND", "running"),
        ("echo SSUSP", "running"),
        ("echo DONE", "success"),
        ("echo EXIT", "failed"),
        ("echo 'Job <7> is not found' >&2; exit 255", "success"),
        ("echo 'LSF is down. Please wait ...' >&2; exit 255", "running"),
    ],
)
def test_a_job_of_lsf_is_followed_by_bjobs(tmp_path: Path, bjobs: str, expected: str) -> None:
    put(tmp_path, "bjobs", bjobs)
    assert said("lsf/status.sh", tmp_path, "7") == expected


@pytest.mark.parametrize(
    ("qstat", "qacct", "expected"),
    [
        ("echo 'job_number: 7'", "exit 1", "running"),
        ("echo 'Following jobs do not exist: 7' >&2; exit 1", "echo 'failed 0'; echo 'exit_status 0'", "success"),
        ("echo 'Following jobs do not exist: 7' >&2; exit 1", "echo 'failed 0'; echo 'exit_status 75'", "failed"),
        ("echo 'Following jobs do not exist: 7' >&2; exit 1", "echo 'failed 37'; echo 'exit_status 0'", "failed"),
        ("echo 'Following jobs do not exist: 7' >&2; exit 1", "exit 1", "success"),
        ("echo 'error: unable to contact qmaster' >&2; exit 1", "exit 1", "running"),
    ],
)
def test_a_job_of_grid_engine_is_followed_by_qstat_and_qacct(
    tmp_path: Path, qstat: str, qacct: str, expected: str
) -> None:
    put(tmp_path, "qstat", qstat)
    put(tmp_path, "qacct", qacct)
    assert said("sge/status.sh", tmp_path, "7") == expected


@pytest.mark.parametrize(("state", "expected"), [("Eqw", "failed"), ("qw", "running"), ("r", "running")])
def test_a_job_that_grid_engine_could_not_start_has_failed_and_is_not_left_in_the_queue(
    tmp_path: Path, state: str, expected: str
) -> None:
    table = f"echo '17 0.5 clean somebody r now'; echo '      7 0.55 clean   somebody {state} now  gpu.q 4'"
    put(tmp_path, "qstat", f"case $1 in -j) echo 'job_number: 7' ;; *) {table} ;; esac")
    put(tmp_path, "qdel", f"echo $1 > {tmp_path}/deleted")
    assert said("sge/status.sh", tmp_path, "7") == expected
    assert (tmp_path / "deleted").exists() == (expected == "failed")


def test_lsf_is_asked_for_gpus_only_where_there_are_some_to_ask_for(tmp_path: Path) -> None:
    put(tmp_path, "bsub", f'printf "%s|" "$@" > {tmp_path}/asked; echo "Job <7> is submitted to queue <gpu>."')
    assert said("lsf/submit.sh", tmp_path, "-R", "span[hosts=1]", "-gpu", "num=1", "-W", "240", "a b") == "7"
    assert (tmp_path / "asked").read_text() == "-R|span[hosts=1]|-gpu|num=1|-W|240|a b|"
    said("lsf/submit.sh", tmp_path, "-gpu", "num=0", "script")
    assert (tmp_path / "asked").read_text() == "script|"


@pytest.mark.parametrize(
    ("script", "command", "answer", "job"),
    [
        ("pbs/submit.sh", "qsub", "qsub: a warning\n12.server", "12.server"),
        ("sge/submit.sh", "qsub", "Warning: of 3 queues\n12", "12"),
        ("lsf/submit.sh", "bsub", "Job <12> is submitted to queue <gpu>.", "12"),
    ],
)
def test_a_job_is_known_by_its_number_and_a_refusal_by_its_words(
    tmp_path: Path, script: str, command: str, answer: str, job: str
) -> None:
    put(tmp_path, command, f"echo '{answer}'")
    assert said(script, tmp_path, "script") == job
    put(tmp_path, command, "echo 'No such queue' >&2; exit 9")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        said(script, tmp_path, "script")
    assert (failed.value.returncode, failed.value.stdout) == (9, "No such queue\n")
