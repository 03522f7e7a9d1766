# Words for chromactl in fish(1), asked of the program itself.
function __chromactl_words
    env _CHROMACTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) chromactl 2>/dev/null
end
function __chromactl_knows
    env _CHROMACTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) chromactl 2>/dev/null
end
complete --command chromactl --no-files --condition __chromactl_knows --arguments "(__chromactl_words)"
