# Sourced by run.sh once its options have their defaults: finds the project's own environment where there is one, and the recipe utilities;
# reads the command line; lets the first command that fails end the recipe.
root=$(cd ../../.. && pwd)
[ -d "$root/.venv/bin" ] && PATH="$root/.venv/bin:$PATH"
PATH="$root/egs/utils:$PATH"
export PATH LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
. parse_options.sh
for option in stage stop_stage; do
  if [ -n "${!option+set}" ] && ! [[ ${!option} =~ ^[0-9]+$ ]]; then
    echo "$0: --$option ${!option}: write a number" >&2
    exit 2
  fi
done
for option in data exp; do
  if [[ ${!option} =~ [[:space:]] ]]; then
    echo "$0: --$option ${!option}: has white space; choose another folder" >&2
    exit 2
  fi
done
set -euo pipefail

# flag NAME DEFAULT: an option that is true or false; DEFAULT where it was not given.
flag() {
  local value=${!1:-$2}
  case $value in
    true | false) printf -v "$1" '%s' "$value" ;;
    *) echo "$0: --$1 $value: write true or false" >&2; exit 2 ;;
  esac
}

# stage NUMBER TITLE: whether --stage and --stop_stage let this stage run; the title is said if they do.
stage() {
  [ $stage -le $1 ] && [ $stop_stage -ge $1 ] && echo "Stage $1: $2"
}

# begin_smoke [CORPUS]: a new folder for all that --smoke makes, with an imitation of the corpus in it.
begin_smoke() {
  data=smoke/data
  exp=smoke/exp
  rm -rf smoke
  [ $# -eq 0 ] || { corpus=smoke/corpus && audiossl prep "$1" --fake $corpus; }
}
