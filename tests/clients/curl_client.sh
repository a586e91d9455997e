#!/bin/sh
# Drive a running server with curl: sh tests/clients/curl_client.sh http://127.0.0.1:8000 [KEY]
set -eu
url=$1 key=${2:-none}
ask() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $key" "$@"; }
expect() { case $2 in *"$1"*) ;; *) echo "expected $1 in: $2" >&2; exit 1;; esac; }

expect '"status":"ok"' "$(ask "$url/healthz")"
expect '"status":"ok"' "$(ask --http1.0 "$url/healthz")"
expect '"status":"ok"' "$(ask --http1.0 -H 'Host:' "$url/healthz")"
expect '200 OK' "$(ask --head "$url/")"
expect 'script-src' "$(ask --head "$url/")"
expect '"object":"list"' "$(ask "$url/v1/models")"
body='{"prompt": "The echo had been ill", "max_tokens": 5, "logprobs": 1, "presence_penalty": 0, "user": null}'
expect '"object": "text_completion"' "$(ask "$url/v1/completions" -d "$body")"
expect '"token_logprobs"' "$(ask "$url/v1/completions" -H 'Content-Type: application/json' -d "$body")"
expect 'data: [DONE]' "$(ask -N "$url/v1/completions" -d '{"prompt": "The echo", "max_tokens": 5, "stream": true}')"
message='{"messages": [{"role": "user", "content": "The echo"}], "max_tokens": 5'
expect '"object": "chat.completion"' "$(ask "$url/v1/chat/completions" -d "$message}")"
expect '"finish_reason": "length"' "$(ask -N "$url/v1/chat/completions" -d "$message, \"stream\": true}")"
expect '"pieces"' "$(ask "$url/cite" -d '{"text": "The echo had been ill"}')"
expect 'invalid_request_error' "$(ask "$url/v1/completions" -d '{"prompt": "a", "temperature": 9}' || true)"
head -c 2000000 /dev/zero | tr '\0' a > "${TMPDIR:-/tmp}/large.$$"
expect 'the body has more than 1,000,000 bytes' "$(ask "$url/v1/completions" -d "@${TMPDIR:-/tmp}/large.$$" || true)"
rm "${TMPDIR:-/tmp}/large.$$"
curl --version | sed -n '1s/^\(curl [^ ]*\).*/\1: ok/p'
