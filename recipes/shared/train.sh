# train_model CONF PACKED EXP: in one process, or in $nproc by torchrun, as $parallel says (data or modules).
train_model() {
  local launch="gim-audio" settings=
  if [ "$nproc" -gt 1 ]; then
    launch="torchrun --standalone --nproc-per-node $nproc -m gim_audio"
    settings="training.parallel=$parallel"
  fi
  $train_cmd $launch train "$1" $settings --data "$2" --out "$3" --resume
}
