#!/bin/sh
# Whether a job of LSF runs, has ended well or failed: one word for Snakemake's generic executor.
# A job that LSF has forgotten has ended; Snakemake looks whether its files are there.
case $(bjobs -a -noheader -o stat "$1" 2>&1) in
  DONE* | *"is not found"*) echo success ;;
  EXIT*) echo failed ;;
  *) echo running ;; # also where LSF does not answer: it may the next time
esac
