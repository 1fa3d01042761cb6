# run_stage NUMBER NAME OPTION...: run the function NAME, once; its output goes to $exp/log/NAME.log too.
# A stage that was interrupted runs again; one that succeeded leaves $exp/.done.NAME, with the values of the options
# that it depends on, and is passed over.
run_stage() {
  local number=$1 stage_name=$2 option settings= # not `name`: a stage reads the option
  for option in "${@:3}"; do settings+="--${option//_/-} ${!option} "; done
  if [ "$number" -lt "$stage" ] || [ "$number" -gt "$stop_stage" ]; then return; fi
  if [ -e "$exp/.done.$stage_name" ]; then
    if [ "$(cat "$exp/.done.$stage_name")" != "$settings" ]; then
      echo "$exp: $stage_name was done with: $(cat "$exp/.done.$stage_name")" >&2
      echo "now it would be: $settings: choose another --name, or remove $exp" >&2
      exit 2
    fi
    echo "stage $number: $stage_name: done already"
    return
  fi
  echo "stage $number: $stage_name"
  mkdir -p "$exp/log"
  (
    set -euo pipefail
    "$stage_name"
  ) 2>&1 | tee -a "$exp/log/$stage_name.log"
  echo "$settings" >"$exp/.done.$stage_name"
}

# split DATA FIRST REST OPTION...: cut a data directory in two, unless both parts exist.
split() {
  if [ ! -d "$2" ] || [ ! -d "$3" ]; then
    rm -rf "$2" "$3"
    gim-audio data split "$@"
  fi
}

# unless PATH COMMAND...: run a command that makes PATH in one piece, if it is not there.
unless() {
  local path=$1
  shift
  [ -e "$path" ] || "$@"
}
