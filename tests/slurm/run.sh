#!/usr/bin/env bash
# Install SLURM where it is missing, start two nodes on this machine, run the cluster tests on it,
# stop it: run.sh [python]. Needs root on Debian or Ubuntu; where a cluster is configured already,
# nothing is installed or started, and the tests run on that.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
  echo "using the SLURM cluster that is configured here; tests that kill nodes are skipped"
  exec "$python" -m pytest tests/slurm -rs
fi
if [ "$(id -u)" != 0 ]; then
  echo "starting a SLURM cluster needs root; run this inside a container" >&2
  exit 2
fi
if ! command -v sbatch slurmctld slurmd munged > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge
fi
dir=$(mktemp -d)
trap 'tests/slurm/cluster.sh stop "$dir"' EXIT
tests/slurm/cluster.sh start "$dir"
TRANSFER_TEST_SLURM=$dir "$python" -m pytest tests/slurm -rs
