#!/usr/bin/env bash
# After ./run.sh --name gim --conf conf/gim.yaml: add modules to what it trained, one at a time, until the phone probe
# stands still on the training speakers that it holds out.
#
#   ./grow.sh [--name NAME] [--conf FILE] [--module SPEC] [--gain POINTS] [--most N] [--frames N] [--hours H]
#             [--speakers S] [--seed N] [--stage N] [--stop-stage M]
#
#   --module  what is added each time, as in model.added
#   --gain    percentage points by which the last module must beat the one below, on held-out training speakers, for
#             another to be added
#   stages, for each number of modules: 1 train, 2 phones; then 3 report
#
# Stacks are exp/NAME+1, exp/NAME+2, ...; what is trained already stays as it is, to the last bit.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=3 nj=2 nproc=1
name=gim conf=conf/gim.yaml
module='{kind: gru, hidden: 128}' gain=0.5 most=4
hours=0.6 speakers=56 seed=1 frames=30000
options="stage stop_stage name conf module gain most hours speakers seed frames"
. ../shared/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh

corpus=data/synthetic-$hours-$speakers-$seed
exp=exp/$name
if [ ! -e "$exp/results/trained/phones-strict.json" ]; then
  echo "$exp: no results of the phone probe: run ./run.sh --name $name --conf $conf first" >&2
  exit 2
fi

train() {
  $train_cmd gim-audio train "$conf" "model.added=[$added]" --from "$base" \
    --data $corpus/packed/train --out "$exp" --resume
}

phones() {
  unless "$exp/results/trained" $probe_cmd gim-audio evaluate "$exp" --train $corpus/packed/train \
    --test $corpus/packed/test --shifts 0 --frames "$frames" --tasks phones --protocols strict \
    --out "$exp/results/trained"
}

report() {
  gim-audio report "$exp" --out "$exp/report.html" --markdown GROWTH.md --title "A stack that grew"
  echo "the table: recipes/mini/GROWTH.md    the figure: recipes/mini/$exp/report-accuracy.png"
}

# Of the top module, and of the one below: is the rise too small?
stands_still() {
  python - "$exp/results/trained/phones-strict.json" "$gain" <<'PYTHON'
import json, sys
below, top = json.load(open(sys.argv[1]))["modules"][-2:]
rise = 100 * (top["held_out"] - below["held_out"])  # the test set chooses nothing
print(f"module {top['module']}: {100 * top['held_out']:.1f}% of held-out speakers' frames, {rise:+.1f} points")
sys.exit(rise >= float(sys.argv[2]))
PYTHON
}

added=
for number in $(seq "$most"); do
  added+="${added:+, }$module"
  base=$exp exp=exp/$name+$number
  run_stage 1 train hours speakers seed conf added
  run_stage 2 phones hours speakers seed conf added frames
  [ "$stop_stage" -ge 2 ] || exit 0
  if stands_still; then break; fi
done
rm -f "$exp/.done.report"
run_stage 3 report
