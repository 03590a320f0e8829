#!/bin/sh
# Installs the header, the shared and the static library, the pkg-config file and the CMake package.
#
#   tools/install.sh PREFIX [DESTDIR]
#
# The libraries must be built: cargo build --release -p libsubquad. Environment:
#   BUILD_DIR   where they are; default target/release
#   LIBDIR      folder of libraries below PREFIX; default lib (Debian: lib/$(gcc -print-multiarch))
set -eu

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: $0 PREFIX [DESTDIR]" >&2; exit 2; }
prefix=${1%/}
destdir=${2:-}
case $prefix in
    /*) ;;
    *) echo "$0: PREFIX must be an absolute path, not '$1'" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
build=${BUILD_DIR:-target/release}
lib=${LIBDIR:-lib}
include=include
cmake=$lib/cmake/subquad
root=$destdir$prefix

number() { sed -n "s/^#define SUBQUAD_VERSION_$1 \([0-9]*\)$/\1/p" include/subquad.h; }
major=$(number MAJOR) minor=$(number MINOR) patch=$(number PATCH)
version=$major.$minor.$patch
if [ "$major" = 0 ]; then soname=libsubquad.so.0.$minor; else soname=libsubquad.so.$major; fi
# What `rustc --print native-static-libs` says for Linux with glibc.
libs_private='-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc'

for file in "$build/libsubquad.so" "$build/libsubquad.a"; do
    [ -f "$file" ] || { echo "$0: $file is not built: cargo build --release -p libsubquad" >&2; exit 1; }
done

fill() {                                # fill TEMPLATE FILE LIBRARIES
    sed -e "s|@PREFIX@|$prefix|g" -e "s|@LIBDIR@|\${prefix}/$lib|g" -e "s|@INCLUDEDIR@|\${prefix}/$include|g" \
        -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" -e "s|@MINOR@|$minor|g" -e "s|@SONAME@|$soname|g" \
        -e "s|@LIB@|$lib|g" -e "s|@INCLUDE@|$include|g" -e "s|@LIBS_PRIVATE@|$3|g" \
        -e "s|@TO_PREFIX@|$(echo "$cmake" | sed 's|[^/][^/]*|..|g')|g" -e "s|@POINTER_BYTES@|$pointer|g" \
        "$1" > "$2"
    chmod 644 "$2"
}

# The class byte of an ELF file: 1 for 32 bits, 2 for 64.
case $(od -An -tu1 -j4 -N1 "$build/libsubquad.so" | tr -d ' ') in 1) pointer=4 ;; *) pointer=8 ;; esac

install -d "$root/$include" "$root/$lib/pkgconfig" "$root/$cmake"
install -m 644 include/subquad.h "$root/$include/"
install -m 755 "$build/libsubquad.so" "$root/$lib/libsubquad.so.$version"
ln -sfn "libsubquad.so.$version" "$root/$lib/$soname"
ln -sfn "$soname" "$root/$lib/libsubquad.so"
install -m 644 "$build/libsubquad.a" "$root/$lib/"
fill capi/subquad.pc.in "$root/$lib/pkgconfig/subquad.pc" "$libs_private"
fill capi/subquadConfig.cmake.in "$root/$cmake/subquadConfig.cmake" "$(echo "$libs_private" | tr ' ' ';')"
fill capi/subquadConfigVersion.cmake.in "$root/$cmake/subquadConfigVersion.cmake" ''
echo "installed subquad $version in $root"
