# Where gim-audio is: the environment of this checkout, made on first use; or the one that is active.
root=$(cd ../.. && pwd)
if [ -z "${GIM_AUDIO_ENV:-}" ]; then
  "$root/tools/setup.sh"
  PATH=$root/.venv/bin:$PATH
fi
export PATH
