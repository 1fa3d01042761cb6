#!/usr/bin/env bash
# Greedy InfoMax on LibriSpeech: linear phone and speaker probes of every module.
#
#   ./run.sh [--corpus FOLDER] [--subset SUBSET] [--conf FILE] [--name NAME] [--labels FILE] [--shift N]
#            [--speaker-split cpc|time] [--lists FOLDER] [--frames N] [--stage N] [--stop-stage M] [--nj J]
#            [--nproc N] [--parallel data|modules]
#
#   --corpus         a folder that holds LibriSpeech/, or where to download it to
#   --subset         train-clean-100 (6.3 GB to download), train-clean-5 (0.3 GB), ...
#   --labels         phone alignments: a CTM, TextGrids, or the CPC authors' converted_aligned_phones.txt; without them
#                    the transcripts are aligned here (stage 4)
#   --shift          of the labels: 2 is the published code's, 1 is centred for alignments on Kaldi's windows, 0 for those
#                    that are made here; by default 2 with --labels and 0 without
#   --lists          a folder with cpc_train.txt and cpc_test.txt
#   --speaker-split  cpc: the lists, as published; time: the first three quarters of each training utterance and
#                    its last quarter, for a corpus with one utterance a speaker
#   --frames         of training, at most, for the phone probe
#   --nproc          processes that train, by torchrun; --parallel says what they share: batches or modules
#   stages: 1 prepare (downloads what is not there), 2 pack, 3 train, 4 evaluate (phones, speakers and more, of one
#           encoding), 5 compare (ABX), 6 report
#
# An interrupted run continues where it was when it is started again.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=6 nj=2
nproc=1 parallel=data
corpus=data/corpora subset=train-clean-100
name=gim conf=conf/gim.yaml
labels='' shift='' frames=400000
lists=../../data/librispeech speaker_split=cpc
options="stage stop_stage nj nproc parallel corpus subset name conf labels shift frames lists speaker_split"
. ../shared/parse_options.sh
case $speaker_split in
  cpc | time) ;;
  *) echo "$0: --speaker-split $speaker_split: cpc or time" >&2 && exit 2 ;;
esac
[ -n "$shift" ] || shift=$([ -n "$labels" ] && echo 2 || echo 0)
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh
. ../shared/train.sh
. ../shared/evaluate.sh

exp=exp/$name
data=data/$name
same=$([ "$speaker_split" != time ] || echo same_)
enrolled=$data/packed/${same}train tried=$data/packed/${same}test

prepare() {
  local part
  for part in train test; do
    unless $data/$part gim-audio data librispeech "$corpus" $data/$part --subset "$subset" --download \
      --utterances "$lists/cpc_$part.txt"
  done
  [ "$speaker_split" != time ] || split $data/train $data/same_train $data/same_test --by time --share 0.75
}

pack() {
  local part
  for part in train test same_train same_test; do
    [ ! -d $data/$part ] || unless $data/packed/$part gim-audio pack $data/$part $data/packed/$part --nj "$nj"
  done
}

train() {
  train_model "$conf" $data/packed/train "$exp"
}

evaluate() {
  local part tasks=speakers,verification,slowness,cka
  if [ -n "$labels" ] || [ -e $data/packed/train/text ]; then
    for part in train test; do
      # labels that are made here are kept beside those in use, which may be brought
      [ -n "$labels" ] || unless $data/packed/$part/aligned.ctm \
        gim-audio data align $data/packed/$part --out $data/packed/$part/aligned.ctm --nj "$nj"
      gim-audio data labels $data/packed/$part "${labels:-$data/packed/$part/aligned.ctm}"
    done
    tasks=phones,units,$tasks
  else
    echo "phones and units are passed over: they need --labels or transcripts"
  fi
  ask --train $data/packed/train --test $data/packed/test --speaker-train "$enrolled" --speaker-test "$tried" \
    --tasks $tasks --shifts="$shift" --frames "$frames"
}

compare() {
  if [ -e $data/packed/test/phones.ctm ]; then abx $data/packed/test --utterances 1000; fi
}

report() {
  gim-audio report "$exp" --out "$exp/report.html" --markdown RESULTS.md --title "Greedy InfoMax on LibriSpeech"
  echo "the table: recipes/librispeech/RESULTS.md    the figures: recipes/librispeech/$exp/report.html"
}

corpus_options="corpus subset lists speaker_split"
run_stage 1 prepare $corpus_options
run_stage 2 pack $corpus_options
run_stage 3 train $corpus_options conf
run_stage 4 evaluate $corpus_options conf labels shift frames
run_stage 5 compare $corpus_options conf labels
rm -f "$exp/.done.report" # it takes seconds, and there may be new results
run_stage 6 report
