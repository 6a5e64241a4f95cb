#!/bin/sh
# Whether a job of PBS or Torque runs, has ended well or failed: one word for Snakemake's generic executor.
# A job that the server has forgotten has ended; Snakemake looks whether its files are there.
# The history of OpenPBS is asked second: to Torque -x means XML.
told=$(qstat -f "$1" 2>/dev/null || qstat -x -f "$1" 2>/dev/null)
known=$?
case $told in
  *job_state\ =\ [CFX]*[Ee]xit_status\ =\ 0* | *[Ee]xit_status\ =\ 0*job_state\ =\ [CFX]*) echo success ;;
  *job_state\ =\ [CFX]*[Ee]xit_status\ =* | *[Ee]xit_status\ =*job_state\ =\ [CFX]*) echo failed ;;
  *job_state\ =\ [CFX]*) echo success ;;
  *) if [ "$known" = 153 ]; then echo success; else echo running; fi ;; # 153: unknown; others: it may tell the next time
esac
