#!/usr/bin/env bash
# The model that comes with the package, gim-small: trained, exported, and evaluated as it is exported.
#
#   ./run.sh --corpus FOLDER [--labels FILE] [--shift N] [--conf FILE] [--name NAME] [--mix-hours H] [--frames N]
#            [--precision auto|fp32|bf16] [--ship FOLDER] [--stage N] [--stop-stage M] [--nj J]
#
#   --corpus     a folder that holds LibriSpeech/train-clean-100, whole or in part
#   --labels     phone alignments; without them the transcripts are aligned here
#   --mix-hours  of the built-in corpus, beside it
#   --ship       where the exported model goes; exp/NAME/gim-small by default
#   stages: 1 data (as ../librispeech/rows.sh makes it), 2 train, 3 export, 4 evaluate, 5 report
#
# An interrupted run continues where it was when it is started again.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=5 nj=2
nproc=1 parallel=data
corpus=../librispeech/data/corpora labels='' shift=''
conf=conf/small.yaml name=small
mix_hours=1.0 frames=60000 precision=auto ship=
options="stage stop_stage nj corpus labels shift conf name mix_hours frames precision ship"
. ../shared/parse_options.sh
[ -n "$ship" ] || ship=exp/$name/gim-small
[ -n "$shift" ] || shift=$([ -n "$labels" ] && echo 2 || echo 0)
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh
. ../shared/train.sh
. ../shared/evaluate.sh

exp=exp/$name
packed=../librispeech/data/$name/packed

data() {
  ../librispeech/rows.sh --corpus "$corpus" --labels "$labels" --shift "$shift" --name "$name" --rows mixed \
    --mix-hours "$mix_hours" --stop-stage 1 --nj "$nj"
}

train() {
  train_model "$conf" $packed/mixed "$exp"
}

export_() {
  gim-audio export "$exp" "$ship" --half
}

evaluate() {
  ask --train $packed/train --test $packed/test --speaker-train $packed/same_train --speaker-test $packed/same_test \
    --tasks phones,speakers,verification --shifts="$shift" --frames "$frames" \
    --precision "$precision"
}

report() {
  gim-audio report "$exp" --out "$exp/report.html" --markdown RESULTS.md --title "gim-small"
  echo "the table: recipes/small/RESULTS.md    the model: recipes/small/$ship"
}

corpus_options="corpus labels shift mix_hours"
run_stage 1 data $corpus_options
run_stage 2 train $corpus_options conf
run_stage 3 export_ $corpus_options conf ship
run_stage 4 evaluate $corpus_options conf ship frames precision
rm -f "$exp/.done.report" # it takes seconds, and there may be new results
run_stage 5 report
