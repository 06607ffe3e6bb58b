#!/bin/sh
# models/bytes-s from nothing: text, training, card; on an H200 eight minutes behind the downloads. OPTIONs are bytes.py's.
#   tools/train/bytes-s.sh FOLDER [OPTION]…     leaves FOLDER/bytes-s; the text in FOLDER/text is taken if it is there
# UNSEEN='FILE…': what the text must not have 64 bytes in common with (default: ../shared/data/text/*.xz)
set -eu
case ${1:--h} in -*) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit ;; esac
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
shift
# shellcheck disable=SC2086 # words
[ -s "$folder/text/train.bin" ] || "$here/text.py" "$folder/text" --unseen ${UNSEEN-"$here"/../../../shared/data/text/*.xz}
exec "$here/bytes.py" --config "$here/bytes-s.json" --text "$folder/text/train.bin" --held "$folder"/text/held-*.bin --steps 7887 --seed 1 \
    --out "$folder" "$@"
