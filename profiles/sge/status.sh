#!/bin/sh
# Whether a job of Grid Engine runs, has ended well or failed: one word for Snakemake's generic executor.
# Of a job that has ended qacct tells; where it has no records, Snakemake looks whether the job's files are there.
# Eqw: it could not be started, and waits until somebody clears that; a new one is tried in its place.
told=$(qstat -j "$1" 2>&1) && {
  state=$(qstat -u '*' 2>/dev/null | awk -v job="$1" '$1 == job { print $5; exit }')
  case $state in E*) qdel "$1" >/dev/null 2>&1; echo failed ;; *) echo running ;; esac
  exit
}
case $told in
  *"do not exist"* | *"does not exist"*) ;;
  *) echo running; exit ;; # Grid Engine does not answer: it may the next time
esac
case $(qacct -j "$1" 2>/dev/null | sed -n 's/^\(failed\|exit_status\)  *\([0-9]*\).*/\2/p' | tr '\n' ' ') in
  "" | "0 0 ") echo success ;;
  *) echo failed ;;
esac
