#!/bin/sh
# bsub, without a request for no GPU; with the number of the job alone in its answer, or with the reason of a refusal,
# which Snakemake repeats.
for word in "$@"; do
  shift
  [ "$word" = -gpu ] && continue
  case $word in num=0) ;; num=[0-9]*) set -- "$@" -gpu "$word" ;; *) set -- "$@" "$word" ;; esac
done
told=$(bsub "$@" 2>&1) || { status=$?; printf '%s\n' "$told"; exit "$status"; }
printf '%s\n' "$told" | sed -n 's/^Job <\([0-9]*\)>.*/\1/p'
