#!/bin/sh
# Every header compiles alone, as C17; those that a CUDA backend reads, as C++17 too.   test_headers.sh ROOT [CUDA]
cd "$1" || exit 1
failed=0
alone() { # COMPILER-AND-LANGUAGE HEADER
    echo "#include \"$2\"" | $1 -Wall -Wextra -Werror -D_GNU_SOURCE -I. $flags -fsyntax-only - || { echo "$2 does not compile alone: $1"; failed=1; }
}
flags=$(pkg-config --cflags jansson libzmq libfyaml sndfile hdf5 2>/dev/null)
for header in $(git ls-files '*.h' 2>/dev/null || find . -name '*.h'); do
    case $header in
    ssm/cuda/*) continue ;; # below
    ssm/ops_avx512*.h | ssm/simd*.h | ssm/bf16_avx512.h | ssm/tiles_avx512.h | tests/*) continue ;; # need their table's flags, or cmocka's preamble
    esac
    alone "cc -std=gnu17 -x c -Wno-unused-function" "$header"
done
for header in ssm/ssm.h ssm/backend.h; do
    alone "c++ -std=c++17 -x c++" "$header"
done
if [ -n "${2:-}" ]; then
    flags="-isystem $2/include"
    for header in ssm/cuda/*.h; do
        alone "cc -std=gnu17 -x c -Wno-unused-function" "$header"
        alone "c++ -std=c++17 -x c++" "$header"
    done
fi
exit $failed
