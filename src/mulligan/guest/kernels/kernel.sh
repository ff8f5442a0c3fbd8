# The bash kernel. It is laid into a kernel's own directory and read as BASH_ENV by a bash that takes
# its commands from a control socket on standard input, one line for each cell:
#
#     { __mulligan_before 0; } 2>/dev/null
#     . "$__mulligan_cell" <&62; { __mulligan_after $?; } 2>/dev/null
#
# A cell is sourced at the top level: declarations are global, `break` meets no loop of ours, and
# while it runs the socket is out of its reach. `exit` is caught by a trap, which writes the shell's
# state down and has a new bash in the same process take it up. docs/decisions/0007-kernels.md.

unset BASH_ENV
__mulligan_streams=$MULLIGAN_KERNEL
unset MULLIGAN_KERNEL
__mulligan_cell=/run/mulligan/main.sh
__mulligan_options=
__mulligan_user_exit=
shopt -s expand_aliases

__mulligan_before() {
  local option
  __mulligan_cell=/run/mulligan/main.sh
  if [[ $1 == 1 ]]; then
    __mulligan_set || __mulligan_cell=/run/mulligan/refused
  fi
  for option in noglob errexit nounset verbose xtrace; do
    [[ :$__mulligan_options: == *:$option:* ]] && builtin set -o "$option"
  done
  builtin return 0
}

# A cell's working directory and variables, each ended by a NUL.
__mulligan_set() {
  local cwd='' each
  {
    IFS= builtin read -r -d '' cwd
    while IFS= builtin read -r -d '' each; do builtin export "$each"; done
  } </proc/self/fd/63
  if [[ -n $cwd ]] && ! builtin cd -- "$cwd" 2>/dev/null; then
    builtin printf 'working_dir %q: no such directory\n' "$cwd" >/run/mulligan/why
    builtin return 1
  fi
}

__mulligan_after() {
  __mulligan_options=$SHELLOPTS
  builtin set +o errexit +o nounset +o verbose +o xtrace +o noglob
  local kept=
  builtin trap -p EXIT >/run/mulligan/trap
  IFS= builtin read -r -d '' kept </run/mulligan/trap
  if [[ $kept != *__mulligan_exit* ]]; then
    __mulligan_user_exit=${kept:-:}
    builtin trap '__mulligan_exit "$@"' EXIT
  fi
  builtin printf '{"op":"done","status":%d}\0' "$1" >&0
}

# The root is about to be switched: it is let go of.
__mulligan_release() {
  __mulligan_here=$PWD
  unset -v __mulligan_old
  [[ -v OLDPWD ]] && __mulligan_old=$OLDPWD
  builtin cd /
  builtin printf '{"op":"released"}\0' >&0
}

# The root was switched: to the same directory, by its path.
__mulligan_moved() {
  builtin cd -- "$__mulligan_here" || builtin cd /
  if [[ -v __mulligan_old ]]; then OLDPWD=$__mulligan_old; else unset -v OLDPWD; fi
}

# What would bring another bash to where this one is, as commands.
__mulligan_dump() {
  local __mulligan_each
  IFS=$' \t\n'
  builtin set +o noglob
  builtin echo 'shopt -s extglob; shopt -u expand_aliases'
  while builtin read -r __mulligan_each; do
    [[ $__mulligan_each == __mulligan_* ]] || builtin declare -f -- "$__mulligan_each"
  done < <(builtin compgen -A function)
  builtin declare -F | command -p grep -E '^declare -f[a-z]*x' | command -p grep -v __mulligan_
  while builtin read -r __mulligan_each; do
    case $__mulligan_each in
      __mulligan_* | BASH* | COMP_* | DIRSTACK | EPOCH* | EUID | FUNCNAME | GROUPS | HISTCMD | \
        LINENO | PIPESTATUS | PPID | PWD | RANDOM | SECONDS | SHELLOPTS | SHLVL | SRANDOM | UID | _ | \
        IFS | MULLIGAN_KERNEL) ;;
      *) builtin declare -p -- "$__mulligan_each" ;;
    esac
  done < <(builtin compgen -v)
  builtin printf 'IFS=%q\n' "$__mulligan_ifs"
  builtin printf '__mulligan_options=%q\n' "$__mulligan_options"
  builtin printf '__mulligan_user_exit=%q\n' "$__mulligan_user_exit"
  builtin trap -p | command -p grep -v __mulligan_
  builtin printf 'cd -- %q\n' "$PWD"
  [[ -v OLDPWD ]] && builtin printf 'OLDPWD=%q\n' "$OLDPWD"
  builtin printf 'umask %s\n' "$(builtin umask)"
  builtin printf 'set --'
  (($#)) && builtin printf ' %q' "$@"
  builtin printf '\n'
  builtin set +o | command -p grep -Ev 'errexit|nounset|verbose|xtrace|noglob|noexec'
  builtin alias -p
  builtin shopt -p
}

# Whether a descriptor is the program's: those the shell puts aside for itself close on exec.
__mulligan_kept() {
  local name flags
  [[ -e /proc/$$/fdinfo/$1 ]] || builtin return 1
  while builtin read -r name flags; do
    [[ $name == flags: ]] && builtin return $(((flags & 02000000) != 0))
  done </proc/$$/fdinfo/"$1"
}

__mulligan_state() {
  local __mulligan_ifs=$IFS __mulligan_text __mulligan_notes= __mulligan_jobs __mulligan_open=0 fd
  __mulligan_text=$(__mulligan_dump "$@")
  if ((${#__mulligan_text} > 1000000)); then
    builtin printf '{"op":"state","failed":"its variables are larger than 1 MB"}\0' >&0
    builtin return 0
  fi
  local IFS=$' \t\n'
  __mulligan_jobs=($(builtin jobs -p))
  ((${#__mulligan_jobs[@]})) &&
    __mulligan_notes="\"${#__mulligan_jobs[@]} background jobs do not come along\""
  for fd in /proc/$$/fd/*; do
    case ${fd##*/} in
      0 | 1 | 2 | 61 | 62 | 63 | 255) ;;
      *) __mulligan_kept "${fd##*/}" && ((++__mulligan_open)) ;;
    esac
  done
  ((__mulligan_open)) &&
    __mulligan_notes+="${__mulligan_notes:+,}\"$__mulligan_open open descriptors do not come along\""
  builtin printf '{"op":"state","notes":[%s]}\n%s\0' "$__mulligan_notes" "$__mulligan_text" >&0
}

# `exit`, or an interrupt: the cell ends, the shell goes on in a new bash with the same state.
__mulligan_exit() {
  local __mulligan_status=$? __mulligan_ifs=$IFS number
  __mulligan_options=$SHELLOPTS
  {
    builtin set +o errexit +o nounset +o verbose +o xtrace -o noglob
  } 2>/dev/null
  if [[ -n $__mulligan_user_exit && $__mulligan_user_exit != : ]]; then
    builtin eval "builtin set -- $__mulligan_user_exit"
    builtin eval "$3"
  fi
  __mulligan_user_exit=
  (__mulligan_dump "$@") >/run/mulligan/state 2>/dev/null
  builtin trap : INT
  local note=
  for number in "${FUNCNAME[@]:1}"; do
    [[ $number == source || $number == main ]] ||
      note='"it ended inside a function: variables local to that are global now"'
  done
  local IFS=$' \n' line
  local -a streams=($__mulligan_streams) lines
  # No redirection here: it would show among the descriptors.
  IFS=$'\n'
  lines=($(command -p ls -l /proc/$$/fd | command -p sed -n 's/.* \([0-9]*\) -> /\1 /p'))
  for line in "${lines[@]}"; do
    number=${line%% *}
    case ${line#* } in
      "${streams[0]}") builtin eval "exec 0<&$number" ;;
      "${streams[1]}") builtin eval "exec 1>&$number" ;;
      "${streams[2]}") builtin eval "exec 2>&$number" ;;
    esac
  done
  IFS=' '
  builtin printf '{"op":"done","status":%d,"notes":[%s]}\0' "$__mulligan_status" "$note" >&0
  MULLIGAN_KERNEL="${streams[*]:0:3} again" BASH_ENV=/run/mulligan/kernel.sh \
    builtin exec "$BASH" --norc --noprofile -s
}

if [[ -e /run/mulligan/state ]]; then
  . /run/mulligan/state 2>/run/mulligan/why
  command -p rm -f /run/mulligan/state
fi
trap '__mulligan_exit "$@"' EXIT
[[ -n $(trap -p INT) ]] || trap 'exit 130' INT
[[ $__mulligan_streams == *again ]] || printf '{"op":"ready"}\0' >&0
