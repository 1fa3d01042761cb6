# probe TASK TRAIN TEST [OPTION...]: trained weights, their own initialisation, and MFCC; to $exp/results.
probe() {
  local task=$1 train=$2 test=$3 encoder
  shift 3
  for encoder in "$exp" "$exp/step-000000" mfcc; do
    local out=$exp/results/$task-$(basename "$encoder").json
    unless "$out" $probe_cmd gim-audio probe "$task" "$encoder" --train "$train" --test "$test" --out "$out" "$@"
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
