#!/usr/bin/env bash
# Server-sent events with `curl -N`; a second curl sends the confirmations.
set -Eeuo pipefail
trap 'echo "line $LINENO failed at: ${line:-the start}" >&2' ERR
base="$ORIGIN/api/internal/v1/gateways"
as_gateway=(curl -sN --cacert "$CA" -H "api-key: $KEY")
last=0 repeats=0 confirmed=0 connections=0 position=
stream=
trap '[ -z "$stream" ] || kill "$stream" 2>/dev/null || true' EXIT

# Confirms an event; on the first connection only some.
confirm() {
    if [ "$connections" -eq 1 ] && [ "$1" -gt "$CONFIRM_FIRST" ]; then return; fi
    status="$("${as_gateway[@]}" -o /dev/null -w '%{http_code}' \
        -d "{\"type\":\"delivery.ack\",\"applied\":$1}" "$base/connections/$connection/frames")" || true
    # With any other status the stream has ended, or will.
    if [ "$status" = 204 ]; then confirmed="$1"; fi
}

receive() {
    # The payload is passed on byte for byte, with the publisher's space.
    [[ $1 =~ \"number\":\ ([0-9]+).*\"sequence\":([0-9]+) ]]
    local number="${BASH_REMATCH[1]}" sequence="${BASH_REMATCH[2]}"
    [ "$number" -eq "$sequence" ]
    if [ "$sequence" -le "$last" ]; then
        repeats=$((repeats + 1))
    else
        [ "$sequence" -eq $((last + 1)) ]
        last="$sequence"
    fi
    # What this stream has not sent yet can't be confirmed on it.
    confirm "$sequence"
}

while [ "$confirmed" -lt "$TOTAL" ]; do
    resume=()
    if [ -n "$position" ]; then resume=(-H "Last-Event-ID: $position"); fi
    exec 3< <(exec "${as_gateway[@]}" "${resume[@]}" "$base/stream?instance=curl&confirm=applied")
    stream="$!"
    kind=
    while [ "$confirmed" -lt "$TOTAL" ] && IFS= read -r line <&3; do
        case "$line" in
        'event: '*) kind="${line#event: }" ;;
        'id: '*) position="${line#id: }" ;;
        'data: '*)
            case "$kind" in
            connection.ack)
                connections=$((connections + 1))
                [[ $line =~ \"connectionId\":\"([^\"]+)\" ]]
                connection="${BASH_REMATCH[1]}"
                ;;
            message) receive "$line" ;;
            esac
            ;;
        esac
    done
    exec 3<&-
    sleep 0.2
done
[ "$connections" -gt 1 ]
echo "$last events, $repeats repeats"
