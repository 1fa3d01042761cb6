#!/usr/bin/env bash
# Many ways of learning, one change at a time and each for as many minutes of one core, on the same speech.
#
#   ./run.sh --corpus FOLDER --probes FOLDER --labels FILE [--commonvoice FOLDER] [--rungs "NAME …"] [--minutes M]
#            [--workers N] [--seeds "S …"] [--decisive "NAME …"] [--name NAME] [--stage N] [--stop-stage M] [--nj J]
#
#   --corpus    a folder that holds LibriSpeech/train-clean-100, whole or in part: what is learnt from
#   --probes    another one, whose utterances by the CPC authors' lists are probed: a fifth of the speakers of the
#               training list chooses, the test list reports, and neither is learnt from
#   --commonvoice  a folder with Common Voice's validated.tsv and clips/, learnt from too
#   --labels    phone alignments of the probes
#   --minutes   of one core for each rung
#   --workers   rungs that learn at the same time, a core for each
#   --decisive  rungs that are measured on the test list
#   stages: 1 data, 2 learn and choose (rungs.yaml), 3 test, 4 report (LADDER.md)
#
# An interrupted run continues where it was when it is started again.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1 stop_stage=4 nj=2
corpus=../librispeech/data/corpora probes='' labels='' commonvoice='' lists=../../data/librispeech
rungs='' decisive='' minutes=6 workers=2 seeds=1
name=ladder
options="stage stop_stage nj corpus probes labels commonvoice lists rungs decisive minutes workers seeds name"
. ../shared/parse_options.sh
. ./path.sh
. ./cmd.sh
. ../shared/stages.sh

exp=exp/$name data=data/$name
[ -n "$probes" ] || probes=$corpus
[ -n "$rungs" ] || rungs=$(python ladder.py names)
[ -n "$decisive" ] || decisive=$rungs

# A data directory of the clips that validated.tsv names.
common_voice() {
  local file
  mkdir -p "$2"
  for file in wav.scp utt2spk text; do
    awk -F '\t' -v clips="$(realpath "$1")/clips" -v file=$file '
      NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
      { name = $at["path"]; sub(/\.[^.]*$/, "", name); speaker = $at["client_id"]; utterance = speaker "-" name }
      { print utterance, file == "text" ? $at["sentence"] : file == "utt2spk" ? speaker : clips "/" $at["path"] }
    ' "$1/validated.tsv" | LC_ALL=C sort >"$2/$file"
  done
  gim-audio data check "$2" --fix
}

data() {
  local part
  unless $data/all gim-audio data librispeech "$corpus" $data/all --subset train-clean-100
  for part in train test; do
    unless $data/probes_$part gim-audio data librispeech "$probes" $data/probes_$part --subset train-clean-100 \
      --utterances "$lists/cpc_$part.txt"
  done
  # Not the speakers of the test list, and not the utterances that choose.
  awk 'FILENAME ~ /probes_test/ { heard[$2]; next } FILENAME ~ /probes_train/ { seen[$1]; next }
    !($2 in heard) && !($1 in seen) { print $1 }' \
    $data/probes_test/utt2spk $data/probes_train/utt2spk $data/all/utt2spk >$data/learnt_from.txt
  unless $data/librispeech gim-audio data librispeech "$corpus" $data/librispeech --subset train-clean-100 \
    --utterances $data/learnt_from.txt
  split $data/probes_train $data/fit $data/valid --by speakers --share 0.8
  [ -z "$commonvoice" ] || unless $data/commonvoice common_voice "$commonvoice" $data/commonvoice
  unless $data/train gim-audio data combine $data/train $data/librispeech $data/fit \
    ${commonvoice:+$data/commonvoice}
  # Voices are verified on the last quarters of utterances, as there may be one a speaker.
  split $data/probes_train $data/same_train $data/same_test --by time --share 0.75
  for part in train probes_train probes_test fit valid same_train same_test; do
    unless $data/packed/$part gim-audio pack $data/$part $data/packed/$part --nj "$nj"
  done
  for part in probes_train probes_test fit valid; do
    gim-audio data labels $data/packed/$part "$labels"
  done
}

learn() {
  local rung seed some
  for some in "$(python ladder.py grown-on)" "$rungs"; do # what others grow on comes first
    for seed in $seeds; do
      for rung in $some; do echo "$rung $seed"; done
    done | xargs -P "$workers" -L 1 python ladder.py learn --data $data/packed --exp "$exp" --minutes "$minutes"
  done
}

try() {
  local rung seed baseline
  for seed in $seeds; do
    for rung in $decisive; do echo "$rung $seed"; done
  done | xargs -P "$workers" -L 1 python ladder.py try --data $data/packed --exp "$exp"
  for baseline in mfcc mfcc+cmvn fbank+cmvn; do
    python ladder.py baseline $baseline --data $data/packed --exp "$exp"
  done
}

report() {
  python ladder.py report --exp "$exp" --minutes "$minutes" --out LADDER.md
  echo "the table: recipes/ladder/LADDER.md"
}

corpus_options="corpus probes labels commonvoice lists"
run_stage 1 data $corpus_options
run_stage 2 learn $corpus_options minutes rungs seeds
run_stage 3 try $corpus_options minutes decisive seeds
rm -f "$exp/.done.report" # it takes seconds, and there may be new results
run_stage 4 report
