# Words for chromactl in bash(1), asked of the program itself.
_chromactl() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _CHROMACTL_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _chromactl chromactl
