#!/bin/sh
# qsub, with the number of the job alone in its answer, or with the reason of a refusal, which Snakemake repeats.
told=$(qsub "$@" 2>&1) || { status=$?; printf '%s\n' "$told"; exit "$status"; }
printf '%s\n' "$told" | grep '^[0-9][^ ]*$'
