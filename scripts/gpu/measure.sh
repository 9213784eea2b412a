#!/usr/bin/env bash
# Everything that one machine with a GPU is asked for, in order of importance, within SECONDS:
#
#     bash scripts/gpu/measure.sh OUT SECONDS          # an installed bmg: uv sync --extra cuda
#     bash scripts/gpu/measure.sh --dry OUT SECONDS    # tiny sizes, on the CPU: whether it runs
#
# OUT gets results.jsonl, a line for each stage of `bmg bench --budget` as soon as it is known, log.txt,
# and gpu.csv with what the card did each second. It changes no setting of the card.
set -u
dry=
[ "${1:-}" = --dry ] && { dry=1; shift; }
[ $# -eq 2 ] || { sed -n '2,8p' "$0"; exit 2; }
out=$1 budget=$2 began=$(date +%s)
mkdir -p "$out" || exit 1

left() { echo $((budget - ($(date +%s) - began))); }
say() { echo "[$(($(date +%s) - began)) s] $*" | tee -a "$out/log.txt"; }

# bench SHARE ARGUMENTS...: gives `bmg bench` a hundredth SHARE of the budget, or what is left of it.
bench() {
    local seconds=$((budget * $1 / 100)) rest; shift
    rest=$(left)
    [ "$seconds" -gt "$rest" ] && seconds=$rest
    if [ "$seconds" -lt 1 ]; then say "skipped: $*"; return; fi
    say "at most $seconds s: $*"
    timeout -k 10 $((seconds + 60)) bmg bench "$@" --budget "$seconds" 2>>"$out/log.txt" | tee -a "$out/results.jsonl"
    say "status ${PIPESTATUS[0]}"
}

if command -v nvidia-smi >/dev/null; then
    nvidia-smi >>"$out/log.txt" 2>&1
    nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm --format=csv \
        -lms 1000 >"$out/gpu.csv" 2>/dev/null &
    trap 'kill %1 2>/dev/null' EXIT
fi

if [ -n "$dry" ]; then
    export JAX_PLATFORMS=cpu
    small="learner.batch_size=4 learner.unroll_length=3 actors.envs_per_actor=2 actors.count=1"
    bench 40 catch/impala actors.runtime=in_process $small --stages learner_step,whole
    bench 40 two_colours/bmg seeds=2 --stages acting
    exit 0
fi

game=env.game=breakout
on_gpu="actors.device=gpu actors.gpus_per_actor=0.05 actors.cpus_per_actor=2 actors.threads_per_actor=2 learner.gpu_memory=0.4"
bench 12 atari/impala $game --stages learner_step
bench 16 atari/bmg $game --stages learner_step
bench 12 atari/impala $game actors.count=8 $on_gpu --stages whole
bench 14 atari/bmg $game actors.count=8 $on_gpu --stages whole
bench 8 two_colours/bmg seeds=5000 --stages whole
bench 8 minatar/bmg seeds=100 --stages whole
bench 8 atari/impala $game learner.batch_size=128 actors.envs_per_actor=64 --stages learner_step
bench 10 atari/bmg $game learner.batch_size=96 replay.unrolls=64 actors.envs_per_actor=32 --stages learner_step
bench 6 atari/impala $game --stages environment_and_policy,environment
bench 6 two_colours/bmg seeds=500 --stages whole,acting
say "all done"
