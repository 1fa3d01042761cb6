# Source this after setting the defaults: `--some-option VALUE` sets $some_option.
# One that is not in the list $options is refused, so that a misspelt one is not ignored.
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${0##*/}"
      exit 0
      ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --?*)
      option=${1#--}
      variable=${option//-/_}
      if [[ " $options " != *" $variable "* ]]; then
        echo "$0: unknown option $1: see $0 --help" >&2
        exit 2
      fi
      if [ $# -lt 2 ]; then
        echo "$0: $1 needs a value" >&2
        exit 2
      fi
      printf -v "$variable" '%s' "$2"
      shift 2
      ;;
    *)
      echo "$0: unexpected argument $1: see $0 --help" >&2
      exit 2
      ;;
  esac
done
# A relative path that exists where the user called from is meant from there, else from the recipe's folder.
for option in corpus probes labels lists conf; do
  [ "$called_from" != "$PWD" ] || break
  [[ " $options " == *" $option "* ]] || continue
  value=${!option}
  case "$value" in
    '' | /*) ;;
    *) [ ! -e "$called_from/$value" ] || printf -v "$option" '%s' "$called_from/$value" ;;
  esac
done
for option in stage stop_stage nj nproc; do
  if [[ ! ${!option-0} =~ ^[0-9]+$ ]]; then
    echo "$0: --${option/_/-} ${!option}: a whole number is needed" >&2
    exit 2
  fi
done
