# shellcheck shell=bash
# Tries images that build-with-buildah has built, from within it: each runs as its user on a
# read-only root and answers its health check; then the stack's parts, side by side on loopback,
# train, promote and serve the miniature world's model. What a container engine does with a
# container, this does with mounts: buildah itself starts nothing on a read-only root.

MOUNTED=$STATE/mounted
VOLUMES=$STATE/volumes
TRACKER=http://127.0.0.1:5000
MODEL=tbr-microworld

# in_image TARGET 'PATH=FOLDER[:ro] …' 'NAME=VALUE …' COMMAND…
in_image() {
  local target=$1 volumes=$2 settings=$3
  shift 3
  local root environment
  root=$(readlink -f "$MOUNTED/$target")
  environment=$(cat "$MOUNTED/$target.env")
  # A namespace of mounts for each: what is mounted here goes with it.
  # shellcheck disable=SC2016,SC2086 # the inner shell expands them; words are wanted
  unshare --mount --propagation private -- bash -c '
    set -eu
    root=$1 volumes=$2 user=$3
    shift 3
    mount --bind "$root" "$root"
    for pair in $volumes; do
      inside=$root/${pair%%=*} folder=${pair#*=}
      mkdir -p "$inside"
      mount --bind "${folder%:ro}" "$inside"
      case $folder in *:ro) mount -o remount,bind,ro "$inside" ;; esac
    done
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero random urandom; do
      : >"$root/dev/$device"
      mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/shm" && mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -o remount,bind,ro "$root"
    exec chroot --userspec="$user:$user" "$root" "$@"
  ' in_image "$root" "$volumes" "$USER_ID" \
    env -i $environment $settings sh -c 'cd "$0" && exec "$@"' \
    "$(cat "$MOUNTED/$target.folder")" "$@"
}

# entry TARGET 'VOLUMES' 'SETTINGS' WORDS…: the image's own entry point.
entry() {
  local target=$1 volumes=$2 settings=$3 words
  shift 3
  mapfile -t words <"$MOUNTED/$target.entry"
  in_image "$target" "$volumes" "$settings" "${words[@]}" "$@"
}

# healthy TARGET SECONDS: the image's own health check, until it passes.
healthy() {
  local words until=$((SECONDS + $2))
  mapfile -t words <"$MOUNTED/$1.health"
  until in_image "$1" "" "" "${words[@]}" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || fail "$1: its health check does not pass: ${words[*]}"
    sleep 2
  done
  echo "ok: $1 answers its health check"
}

mount_images() {
  local target working
  mkdir -p "$MOUNTED"
  for target in "${IMAGES[@]}"; do
    stored inspect --type image "$(name_of "$target")" >/dev/null 2>&1 ||
      fail "$(name_of "$target") is not built: run 'build' first"
    stored rm "try-$target" >/dev/null 2>&1 || true
    working=$(stored from --name "try-$target" "$(name_of "$target")")
    ln -sfn "$(stored mount "$working")" "$MOUNTED/$target"
    described() { stored inspect --format "$1" "$working"; }
    described '{{range .Docker.Config.Env}}{{.}} {{end}}' >"$MOUNTED/$target.env"
    described '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}' | sed '/^$/d' \
      >"$MOUNTED/$target.entry"
    described '{{.Docker.Config.WorkingDir}}' >"$MOUNTED/$target.folder"
    described '{{if .Docker.Config.Healthcheck}}{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}{{end}}' |
      sed '/^$/d; /^CMD$/d' >"$MOUNTED/$target.health"
    described '{{.Docker.Config.User}}' | grep -qx "$USER_ID:$USER_ID" ||
      fail "the image $target does not run as $USER_ID:$USER_ID"
  done
}

# A folder for each volume of compose.yaml, with the owner that a new volume gets.
make_volumes() {
  local name
  rm -rf "$VOLUMES"
  for name in artifacts train-cache runs bases promote-cache promote-huggingface promote-runs \
    promote-key trusted-keys serve-cache serve-huggingface serve-runs ledger; do
    install -d -o "$USER_ID" -g "$USER_ID" "$VOLUMES/$name"
  done
}

alone() {
  local target found
  for target in "${IMAGES[@]}"; do
    found=$(in_image "$target" "" "" id -u)
    [ "$found" = "$USER_ID" ] || fail "$target runs as user $found"
    # shellcheck disable=SC2016 # the image's shell expands them
    in_image "$target" "" "" sh -c '
      for place in / /opt/venv /opt/tbr /var/lib/tbr "$PWD"; do
        ! (: >"$place/.written") 2>/dev/null || { echo "$place can be written"; exit 1; }
      done' || fail "$target: its root is not read-only"
    echo "ok: $target runs as $USER_ID on a read-only root"
  done
}

together() {
  local home=/var/lib/tbr v=$VOLUMES client="MLFLOW_TRACKING_URI=$TRACKER TBR_WAIT_SECONDS=300"
  local said
  entry mlflow "/var/lib/mlflow/artifacts=$v/artifacts" \
    "MLFLOW_BACKEND_STORE_URI=sqlite:////var/lib/mlflow/artifacts/mlflow.db MLFLOW_SERVER_ALLOWED_HOSTS=127.0.0.1:*" \
    server >"$STATE/mlflow.log" 2>&1 &
  healthy mlflow 600
  if [ "${IMAGES[*]}" != "mlflow train serve" ]; then
    echo "the stack's parts are not tried together: that needs TARGETS='mlflow train serve'"
    return
  fi

  entry train "$home/cache=$v/train-cache $home/runs=$v/runs $home/bases=$v/bases" \
    "$client HF_HOME=$home/bases TBR_EVIDENCE_KEY=$home/runs/evidence.key" \
    model=tiny data=microworld reflection=external seed=3 | tee "$STATE/train.log"
  said=$(grep -o 'models:/m-[0-9a-f]*' "$STATE/train.log" | tail -1)
  echo "ok: trained $said"

  entry train "$home/cache=$v/promote-cache $home/huggingface=$v/promote-huggingface $home/runs=$v/promote-runs $home/bases=$v/bases:ro $home/key=$v/promote-key $home/trusted=$v/trusted-keys $home/ledger=$v/ledger" \
    "$client TBR_VERB=promote TBR_LEDGER=sqlite:///$home/ledger/ledger.db TBR_EVIDENCE_KEY=$home/key/evidence.key TBR_PUBLIC_KEYS=$home/trusted/evidence.keys" \
    "model=$said" "name=$MODEL"
  echo "ok: promoted"

  entry serve "$home/cache=$v/serve-cache $home/huggingface=$v/serve-huggingface $home/runs=$v/serve-runs $home/bases=$v/bases:ro $home/trusted=$v/trusted-keys:ro $home/ledger=$v/ledger:ro" \
    "$client TBR_SERVE_TOKEN=a-token-of-this-trial TBR_LEDGER=sqlite:///$home/ledger/ledger.db TBR_PUBLIC_KEYS=$home/trusted/evidence.keys" \
    "model=models:/$MODEL@champion" host=0.0.0.0 port=8000 >"$STATE/serve.log" 2>&1 &
  healthy serve 660
  in_image serve "" "" python -c '
import json, urllib.request
body = {"messages": [{"role": "user", "content": "How do I kill a Python process?"}]}
ask = urllib.request.Request(
    "http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer a-token-of-this-trial"},
)
print(json.load(urllib.request.urlopen(ask, timeout=120))["choices"][0]["message"])
health = json.load(urllib.request.urlopen("http://127.0.0.1:8000/health"))
print(health["model"], health["version"], health["verification"])
assert health["verification"] == "verified by the ledger", health
'
  echo "ok: the champion answers"
}

ip link set lo up
mount_images
make_volumes
alone
together
for target in "${IMAGES[@]}"; do stored rm "try-$target" >/dev/null; done
