# The Claude Code plugin's launcher. hooks.json and plugin.json call it, through `/bin/sh -c`, as
#   plugin.sh log            log the event on stdin
#   plugin.sh inject         answer the event on stdin
#   plugin.sh serve SERVER   relay stdin and stdout to a server of the daemon
# $f is the path of this file, since it is sourced. The plugin's folder is a copy, so the launcher
# looks for the installation: a Python that has arsenale_relay. Where there is none, hooks do nothing.
here=${f%/*}
claude=${CLAUDE_CONFIG_DIR:-${HOME:-/dev/null}/.claude}
project=${CLAUDE_PROJECT_DIR:-/dev/null}
found=${CLAUDE_PLUGIN_DATA:-/dev/null}/installation

# `arsenale init` has connected this project, or the user: its hooks are the ones that take effect.
init_is_active() {
    grep -qsF arsenale-hook "$project/.claude/settings.local.json" \
        "$project/.claude/settings.json" "$claude/settings.json"
}

# Set $python and $folder (which holds arsenale_relay); 1 when there is no installation.
find_installation() {
    if [ -r "$found" ] && { IFS= read -r python && IFS= read -r folder; } <"$found" &&
        [ -x "$python" ] && [ -f "$folder/arsenale_relay/__main__.py" ]; then
        return 0
    fi
    stdio=$(command -v arsenale-stdio 2>/dev/null)
    shebang=
    [ -z "$stdio" ] || IFS= read -r shebang <"$stdio"
    checkout=$(sed -n '/"arsenale"/,/installLocation/s/.*"installLocation": *"\(.*\)".*/\1/p' \
        "$claude/plugins/known_marketplaces.json" 2>/dev/null | head -n 1)
    for python in "$checkout/.venv/bin/python" "$checkout/../../../../../../bin/python" \
        "${stdio%/*}/python" "${shebang#??}" python3 python3.14 python3.13 python3.12 python3.11; do
        python=$(command -v "$python" 2>/dev/null) || continue
        folder=$("$python" -P -c 'import os, sys, arsenale_relay as r
print(os.path.dirname(os.path.dirname(os.path.abspath(r.__file__))))' 2>/dev/null) || continue
        { mkdir -p "${found%/*}" && printf '%s\n' "$python" "$folder" >"$found"; } 2>/dev/null
        return 0
    done
    return 1
}

advice="Arsenale's plugin found no installation of Arsenale, so it does nothing. Install it with \
pip install arsenale, or remove the plugin with claude plugin uninstall arsenale@arsenale."

action=$1
shift
case $action in
log)
    if init_is_active; then
        command cat >/dev/null 2>&1
    else
        . "$here/log_event.sh"
    fi
    ;;
inject)
    event=$1
    if init_is_active; then
        command cat >/dev/null 2>&1
    elif find_installation; then
        "$python" -I -S "$here/inject.py" "$folder" 2>/dev/null
    else
        command cat >/dev/null 2>&1
        [ "$event" != SessionStart ] || printf '{"systemMessage":"%s"}\n' "$advice"
    fi
    ;;
serve)
    trap - EXIT
    if find_installation; then
        exec "$python" -I -S "$folder/arsenale_relay/__main__.py" "$@"
    fi
    echo "$advice" >&2
    exit 1
    ;;
esac
