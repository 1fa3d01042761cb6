#!/usr/bin/env bash
# Every row of the paper's table on a small corpus: trained, evaluated, and set beside the published numbers.
#
#   ./rows.sh --corpus FOLDER [--labels FILE] [--shift N] [--name NAME] [--rows "ROW ROW …"] [--frames N]
#             [--precision auto|fp32|bf16] [--mix-hours H] [--curve "STEP STEP …"] [--stage N] [--stop-stage M] [--nj J]
#
#   --corpus     a folder that holds LibriSpeech/train-clean-100, whole or in part
#   --labels     phone alignments; without them the transcripts are aligned here
#   --rows       configurations in conf/hour/
#   --precision  of encoding for the evaluations
#   --mix-hours  of the built-in corpus, for the row `mixed`
#   --curve      updates of `longer` after which phones are probed too
#   stages: 1 data, 2 train (a row after another), 3 evaluate, 4 curve (and label shifts), 5 report
#
# An interrupted run continues where it was when it is started again.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=5 nj=2
nproc=1 parallel=data
corpus=data/corpora labels='' shift=''
name=hour
rows="gim cpc supervised-phones greedy-supervised-phones supervised-speakers greedy-supervised-speakers mixed longer"
frames=40000 precision=auto mix_hours=1.0
curve="1000 2000 3000 4000 5000"
options="stage stop_stage nj corpus labels shift name rows frames precision mix_hours curve"
. ../shared/parse_options.sh
[ -n "$shift" ] || shift=$([ -n "$labels" ] && echo 2 || echo 0)
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh
. ../shared/train.sh

exp=exp/$name data=data/$name
packed=$data/packed spoken=$data/spoken mixed=$data/mixed

data() {
  ./run.sh --corpus "$corpus" --name "${data#data/}" --labels "$labels" --shift "$shift" --speaker-split time \
    --stop-stage 2 --nj "$nj"
  local part
  for part in train test; do
    [ -n "$labels" ] || unless $packed/$part/aligned.ctm \
      gim-audio data align $packed/$part --out $packed/$part/aligned.ctm --nj "$nj"
    gim-audio data labels $packed/$part "${labels:-$packed/$part/aligned.ctm}"
  done
  case " $rows " in *" mixed "*)
    unless $spoken gim-audio data synthetic $spoken --hours "$mix_hours" --speakers 56
    unless $packed/spoken gim-audio pack $spoken $packed/spoken --nj "$nj"
    unless $mixed gim-audio data combine $mixed $packed/train $packed/spoken
    unless $packed/mixed gim-audio pack $mixed $packed/mixed --nj "$nj" ;;
  esac
}

train() {
  local row set
  for row in $rows; do
    case $row in
      *-speakers) set=same_train ;; # the speakers asked for; their last quarters are not trained on
      mixed) set=mixed ;;
      *) set=train ;;
    esac
    train_model conf/hour/$row.yaml $packed/$set "$exp/$row"
  done
}

# ask NAME MODEL OPTION...: all that is to be known of a model, of one encoding; of a taught one, what it was taught.
ask() {
  local out=$exp/$1 tasks=phones,speakers,verification,units,per,slowness,cka
  case $1 in
    *supervised-phones/*) tasks=phones,units,per,slowness,cka ;;
    *supervised-speakers/*) tasks=speakers,verification,slowness,cka ;;
  esac
  unless "$out" $probe_cmd gim-audio evaluate "$2" --train $packed/train --test $packed/test \
    --speaker-train $packed/same_train --speaker-test $packed/same_test --out "$out" --frames "$frames" \
    --precision "$precision" --tasks $tasks --shifts="$shift" "${@:3}"
}

abx() {
  unless "$exp/$1.json" $probe_cmd gim-audio abx "$2" $packed/test --out "$exp/$1.json"
}

evaluate() {
  local row baseline
  for baseline in mfcc13 mfcc mfcc+cmvn fbank fbank+cmvn; do
    ask baselines/results/$baseline $baseline
  done
  ask baselines/results/mfcc+cmvn-stacked mfcc+cmvn --stack 4
  for row in $rows; do
    ask "$row/results/trained" "$exp/$row" --layers
  done
  for baseline in mfcc mfcc+cmvn; do
    abx baselines/results/abx-$baseline $baseline
  done
  for row in gim longer; do # both begin alike
    [ -d "$exp/$row" ] || continue
    ask $row/results/random "$exp/$row/step-000000" --layers
    abx $row/results/abx-random "$exp/$row/step-000000"
    break
  done
  for row in gim longer; do
    [ ! -d "$exp/$row" ] || abx "$row/results/abx" "$exp/$row"
  done
}

curve() {
  local step folder
  [ -d "$exp/longer" ] || return 0
  for step in $curve; do
    folder=$exp/longer/step-$(printf %06d "$step")
    [ ! -d "$folder" ] || unless "$exp/longer/results/step-$step" $probe_cmd gim-audio evaluate "$folder" \
      --train $packed/train --test $packed/test --out "$exp/longer/results/step-$step" --frames "$frames" \
      --precision "$precision" --tasks phones --protocols strict --shifts="$shift" --module last
  done
  for folder in longer:"$exp/longer" baselines:mfcc; do
    unless "$exp/${folder%%:*}/results/shifts" $probe_cmd gim-audio evaluate "${folder#*:}" --train $packed/train \
      --test $packed/test --out "$exp/${folder%%:*}/results/shifts" --frames $((frames / 2)) --precision "$precision" \
      --tasks phones --protocols strict --shifts=-2,-1,0,1,2,3,4 --module last
  done
}

report() {
  local row folders=
  for row in gim longer; do
    [ ! -d "$exp/$row" ] ||
      unless "$exp/$row/figures" gim-audio draw "$exp/$row" $packed/test --out "$exp/$row/figures" --shift="$shift"
  done
  for row in $rows; do folders+=" $exp/$row"; done
  gim-audio report $folders "$exp/baselines" --out "$exp/report.html" --markdown RESULTS.md \
    --title "The paper's rows on a part of LibriSpeech"
  echo "the table: recipes/librispeech/RESULTS.md    the figures: recipes/librispeech/$exp/report.html"
}

corpus_options="corpus labels shift"
run_stage 1 data $corpus_options mix_hours
run_stage 2 train $corpus_options rows mix_hours
run_stage 3 evaluate $corpus_options rows frames precision
run_stage 4 curve $corpus_options frames precision curve
rm -f "$exp/.done.report" # it takes seconds, and there may be new results
run_stage 5 report
