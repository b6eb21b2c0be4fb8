#!/usr/bin/env bash
# A sweep on a real SLURM of one node: Debian's packages, as root, on a machine that may be changed.
# Two jobs, then two jobs of two processes each. Needs: pip install -e ".[slurm]"
#
# benchmarks/slurm.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?a folder for the sweeps is needed}")
mkdir -p "$folder"

if ! command -v slurmctld > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
fi

host=$(hostname -s)
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /run/munge
cat > /etc/slurm/slurm.conf << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
chown -R munge: /run/munge /etc/munge /var/lib/munge /var/log/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged
pgrep -x slurmctld > /dev/null || slurmctld
pgrep -x slurmd > /dev/null || slurmd
for _ in $(seq 30); do
    sinfo -h -o %T 2> /dev/null | grep -q idle && break
    sleep 1
done
sinfo

common=(-m experiment=nano trainer.max_epochs=2 data.train_size=3200 seed=0,1 requirements.enforce=false
    test=false hydra/launcher=submitit_slurm hydra.launcher.partition=all hydra.launcher.timeout_min=20
    hydra.launcher.mem_gb=null hydra.launcher.cpus_per_task=1)
python train.py "${common[@]}" trainer=cpu "hydra.sweep.dir=$folder/one"
python train.py "${common[@]}" trainer=ddp trainer.accelerator=cpu trainer.devices=2 \
    hydra.launcher.tasks_per_node=2 "hydra.sweep.dir=$folder/two"
sacct 2> /dev/null || true
grep -h '"state"' "$folder"/*/*/job.json
grep -h '"device"' "$folder"/*/*/report.json
