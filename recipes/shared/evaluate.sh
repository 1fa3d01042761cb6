# ask OPTION...: all that is to be known of trained weights ($exp, or what was exported of it to $ship), of their own
# initialisation and of MFCC, each from one encoding of the audio; to $exp/results.
ask() {
  local name model
  for name in trained random mfcc; do
    case $name in
      trained) model=${ship:-$exp} ;;
      random) model=$exp/step-000000 ;;
      *) model=$name ;;
    esac
    unless "$exp/results/$name" $probe_cmd gim-audio evaluate "$model" --out "$exp/results/$name" "$@"
  done
}

# abx TEST [OPTION...]: ABX errors of the same.
abx() {
  local test=$1 encoder
  shift
  for encoder in "$exp" "$exp/step-000000" mfcc; do
    local out=$exp/results/abx-$(basename "$encoder").json
    unless "$out" $probe_cmd gim-audio abx "$encoder" "$test" --out "$out" "$@"
  done
}
