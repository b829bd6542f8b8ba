# Finds the project's own environment where there is one, and the recipe utilities.
root=$(cd ../../.. && pwd)
[ -d "$root/.venv/bin" ] && PATH="$root/.venv/bin:$PATH"
PATH="$root/egs/utils:$PATH"
export PATH LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
