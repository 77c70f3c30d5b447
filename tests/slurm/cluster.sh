#!/usr/bin/env bash
# Start or stop a SLURM cluster of two nodes on this one machine: cluster.sh start|stop DIR
# Needs root and Debian's slurm-wlm and munge. Nothing outside DIR is written but /run/munge, a
# munge key where there is none, and a link from /etc/slurm to DIR's configuration.
set -euo pipefail
action=$1
dir=$(realpath -m "$2")
host=$(hostname)

configure() {
  mkdir -p "$dir"/{ctld,n1,n2,log} /run/munge /etc/slurm
  chown munge /run/munge
  cat > "$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$dir/ctld
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/ctld.log
SlurmdLogFile=$dir/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
SlurmdTimeout=10
KillWait=20
MinJobAge=3600
ReturnToService=2
MpiDefault=none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000
PartitionName=grid Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  # Every command of SLURM looks here; DIR's own file is linked, not copied.
  if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
    echo "/etc/slurm/slurm.conf exists: this machine has a cluster of its own" >&2
    exit 2
  fi
  ln -sf "$dir/slurm.conf" /etc/slurm/slurm.conf
}

start() {
  configure
  [ -e /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 \
    status=none; chown munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
  # A socket alone says nothing: it outlives a daemon that was killed.
  if ! munge -n > /dev/null 2>&1; then
    rm -f /run/munge/munge.socket.2{,.lock}
    setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged
    cp /run/munge/munged.pid "$dir/munged.pid"
  fi
  slurmctld
  sleep 2
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [ "$(sinfo -h -o %T -n n1,n2 2> /dev/null | sort -u)" = idle ] && { sinfo; return; }
    sleep 1
  done
  sinfo >&2
  echo "the nodes did not become idle; see $dir/log" >&2
  exit 1
}

stop() {
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if [ -e "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
  done
  [ "$(readlink /etc/slurm/slurm.conf)" = "$dir/slurm.conf" ] && rm -f /etc/slurm/slurm.conf
  true
}

"$action"
