#!/usr/bin/env bash
# Server-sent events with curl.
set -euo pipefail
folder="$(dirname "$0")"
base="$ORIGIN/api/internal/v1/gateways"
read -r gateway key < <(python3 "$folder/common.py" gateway)
python3 "$folder/common.py" publish "$gateway" 3
out="$(mktemp)"
trap 'kill "$curl" 2>/dev/null || true; rm -f "$out"' EXIT
curl -sN --cacert "$CA" -H "api-key: $key" "$base/stream?instance=curl&confirm=applied" >"$out" &
curl=$!
for _ in $(seq 200); do
    if [ "$(grep -c '^event: message' "$out")" = 3 ]; then break; fi
    sleep 0.05
done
[ "$(grep -c '^event: message' "$out")" = 3 ]
connection="$(sed -n 's/.*"connectionId":"\([^"]*\)".*/\1/p' "$out" | head -1)"
status="$(curl -s --cacert "$CA" -H "api-key: $key" -o /dev/null -w '%{http_code}' \
    -d '{"type":"delivery.ack","applied":3}' "$base/connections/$connection/frames")"
[ "$status" = 204 ]
python3 "$folder/common.py" confirmed "$gateway" 3
