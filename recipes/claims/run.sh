#!/usr/bin/env bash
# The paper's claims, each tested by a few small runs and drawn in one figure.
#
#   ./run.sh [--packed FOLDER] [--shift N] [--conf FILE] [--name NAME] [--frames N] [--precision auto|fp32|bf16]
#            [--depths "N N …"] [--stage N] [--stop-stage M]
#
#   --packed  a folder with packed corpora train, test, same_train, same_test, the first two with phones.ctm;
#             by default the built-in corpus, as ../mini makes it
#   --shift   of the phone labels
#   --depths  numbers of convolutions whose gradients are compared
#   stages: 1 data, 2 negatives, 3 context, 4 depth, 5 slowness, 6 gradients, 7 report
#
# An interrupted run continues where it was when it is started again.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=7 nj=2
nproc=1
packed='' shift=0 conf=conf/base.yaml name=base
frames=20000 precision=auto depths="6 8 10 12"
options="stage stop_stage packed shift conf name frames precision depths"
. ../shared/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh

exp=exp/$name
corpus=${packed:-../mini/data/synthetic-0.6-56-1/packed}

data() {
  [ -n "$packed" ] || ../mini/run.sh --stop-stage 2 --nj "$nj"
}

# try NAME KEY=VALUE...: train with some other settings, and ask every module about phones and speakers.
try() {
  local out=$exp/$1
  $train_cmd gim-audio train "$conf" "${@:2}" --data "$corpus/train" --out "$out" --resume
  ask "$out" "$out/results/trained"
}

ask() {
  unless "$2" $probe_cmd gim-audio evaluate "$1" --train "$corpus/train" --test "$corpus/test" \
    --speaker-train "$corpus/same_train" --speaker-test "$corpus/same_test" --out "$2" --frames "$frames" \
    --precision "$precision" --protocols strict --tasks phones,speakers,slowness --shifts="$shift"
}

negatives() {
  local number
  for number in 1 10 128 512; do
    try "negatives-$number" "objective.negatives={kind: pool, number: $number}"
  done
}

context() {
  local at kind='kind: conv, hidden: 64' # a GRU in module 1 would take 4,095 steps a crop
  try context-none 'model.context={kind: none}' 'model.isolate_after=[1, 2, 3, 4]'
  for at in last each; do
    try context-$at "model.context={$kind, at: $at}" 'model.isolate_after=[1, 2, 3, 4]'
  done
}

depth() {
  local more='{kernel: 3, padding: 1, channels: 64}'
  try deeper "model.added=[$more, $more, $more, $more]"
}

slowness() {
  try base
  ask "$exp/base/step-000000" "$exp/base/results/random"
}

gradients() {
  unless "$exp/gradients.json" $train_cmd python gradients.py "$conf" "$corpus/train" "$exp/gradients.json" $depths
}

report() {
  python claims.py "$exp" CLAIMS.md
}

options="packed shift conf frames"
run_stage 1 data packed
run_stage 2 negatives $options
run_stage 3 context $options
run_stage 4 depth $options
run_stage 5 slowness $options
run_stage 6 gradients $options depths
rm -f "$exp/.done.report"
run_stage 7 report
