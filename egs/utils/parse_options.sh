# Sourced by run.sh after its variables are set: `--name value` changes the variable `name`, one that the script sets itself; another name is an error.
# --help prints the comment at the top of the script. A script that has left the folder it was called from says in `self` where it is.
self=${self:-$0}

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$self"
      exit 0
      ;;
    --*=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      ;;
    --*)
      option=${1#--}
      option=${option//-/_}
      if ! [[ $option =~ ^[a-z][a-z0-9_]*$ ]] || ! grep -q "^$option=" "$self" || [ -z "${!option+set}" ]; then
        echo "$0: unknown option $1; see $0 --help" >&2
        exit 2
      fi
      if [ $# -lt 2 ]; then
        echo "$0: $1 has no value; write $1 VALUE" >&2
        exit 2
      fi
      case "${!option}" in
        true | false)
          case "$2" in
            true | false) ;;
            *) echo "$0: $1 $2: write true or false" >&2; exit 2 ;;
          esac
          ;;
      esac
      printf -v "$option" '%s' "$2"
      shift 2
      ;;
    *)
      echo "$0: unexpected argument $1; options are --name value" >&2
      exit 2
      ;;
  esac
done
