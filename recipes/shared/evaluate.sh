# MFCC and log mel energies as they are and, as they are commonly used, less the mean of an utterance or a speaker.
baselines="mfcc mfcc+cmvn mfcc+cmvn-speaker fbank fbank+cmvn"

# ask OPTION...: evaluate trained weights ($exp, or what was exported of it to $ship), their own initialisation and the
# baselines, each from one encoding of the audio; to $exp/results.
ask() {
  local name model
  for name in trained random $baselines; do
    case $name in
      trained) model=${ship:-$exp} ;;
      random) model=$exp/step-000000 ;;
      *) model=$name ;;
    esac
    unless "$exp/results/$name" $probe_cmd gim-audio evaluate "$model" --out "$exp/results/$name" "$@"
  done
}

# abx TEST [OPTION...]: ABX errors of the same, without log mel energies.
abx() {
  local test=$1 encoder
  shift
  for encoder in "$exp" "$exp/step-000000" mfcc mfcc+cmvn; do
    local out=$exp/results/abx-$(basename "$encoder").json
    unless "$out" $probe_cmd gim-audio abx "$encoder" "$test" --out "$out" "$@"
  done
}
