#!/usr/bin/env bash
# One task of a job on a cluster, from the repository's root. slurm.sh and htcondor.sub start it.
#
#   docs/cluster/task.sh part I N MODULE [FLAG …]      part I of N of a sweep, or of simulated jets
#   docs/cluster/task.sh train DIR MODULE [FLAG …]     a training in DIR, which goes on if it is there
#
# PYTHON: the interpreter, else the one that `make setup` made.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}

case ${1-} in
part)
    exec "$python" -m "$4" "${@:5}" --part "$2/$3"
    ;;
train)
    place=--out
    # args.json stands there from the start; without a last.pt beside it the run begins at step 0
    if [ -e "$2/args.json" ]; then place=--resume; fi
    exec "$python" -m "$3" "${@:4}" "$place" "$2"
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
