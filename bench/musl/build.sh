# Runs in a chroot with the sources in /src: compiles CPython and the libraries that python:3.13-alpine's modules
# load, for musl, and packs the image as /image.tar. Upstream's archives without Debian's patches, with the options of
# docker-library's 3.13/alpine Dockerfile. The modules that need SQLite, readline, ncurses, gdbm, libuuid or Tk are not
# made, and there are no pip, apk, time zones or CA certificates. The image is smaller by these; of them the sensor
# service would load libuuid.
set -eu
triplet=$(uname -m)-linux-musl
prefix=/musl
export CC=musl-gcc CFLAGS="-O2 -I$prefix/include" LDFLAGS="-L$prefix/lib -Wl,--strip-all" MAKEFLAGS=-j$(nproc)

# Debian's musl-dev knows nothing of the kernel; its headers do not depend on a C library.
for headers in linux asm-generic; do ln -s "/usr/include/$headers" "/usr/include/$triplet/"; done
ln -s "/usr/include/$(gcc -print-multiarch)/asm" "/usr/include/$triplet/asm"

echo "/usr/lib/$triplet:$prefix/lib" >"/etc/ld-musl-$(uname -m).path"

# Unpack an upstream archive and enter it; the build's output is shown only when it fails.
enter() {
  echo "building $1"
  mkdir "/src/$1"
  cd "/src/$1"
  tar -xf "$(ls /src/"$1"_*.orig.tar.*z* | grep -v asc)" --strip-components=1
}
quiet() { "$@" >/src/log 2>&1 || { tail -n 40 /src/log; exit 1; }; }

enter zlib
quiet ./configure --prefix=$prefix
quiet make install

enter bzip2
quiet make -f Makefile-libbz2_so CC=$CC
install -D -t $prefix/lib libbz2.so.1.0
ln -s libbz2.so.1.0 $prefix/lib/libbz2.so
install -D -m 644 -t $prefix/include bzlib.h

enter xz-utils
quiet ./configure --prefix=$prefix --disable-static --disable-xz --disable-xzdec --disable-lzmadec --disable-lzmainfo \
  --disable-scripts --disable-doc --disable-nls
quiet make install

enter libffi
quiet autoreconf -i
quiet ./configure --prefix=$prefix --libdir=$prefix/lib --disable-static --disable-multi-os-directory --disable-docs
quiet make install

enter openssl
quiet ./Configure "linux-$(uname -m)" --prefix=$prefix --libdir=lib --openssldir=/etc/ssl shared \
  no-tests no-docs no-apps no-async no-comp no-idea no-mdc2 no-rc5 no-ec2m no-ssl3 no-seed no-weak-ssl-ciphers
quiet make
quiet make install_sw

enter python3.13
# gcc is Debian's, and says so when it is asked for its platform; Alpine's says nothing.
cat >/usr/local/bin/musl-cc <<'TEXT'
#!/bin/sh
[ "$1" = --print-multiarch ] || exec musl-gcc "$@"
TEXT
chmod 755 /usr/local/bin/musl-cc
quiet ./configure CC=musl-cc --build="$triplet" --enable-shared --with-lto --with-openssl=$prefix --without-ensurepip \
  --disable-test-modules
# Without a stack of this size a thread crashes before Python sees that its recursion is too deep.
quiet make EXTRA_CFLAGS="-DTHREAD_STACK_SIZE=0x100000 -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer"
quiet make install DESTDIR=/image

echo "assembling the image"
cd /image
find usr/local -depth \
  \( -name test -o -name tests -o -name idle_test -o -name __pycache__ -o -name 'libpython*.a' \) -exec rm -rf {} +
mkdir -p -m 755 bin etc lib root sbin tmp usr/bin usr/lib usr/sbin
chmod 1777 tmp
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'root:x:0:' >etc/group
cp -a $prefix/lib/*.so.* usr/lib/
strip usr/lib/*.so.*
cp "/usr/lib/$triplet/libc.so" "lib/ld-musl-$(uname -m).so.1"
ln -s "ld-musl-$(uname -m).so.1" "lib/libc.musl-$(uname -m).so.1"
cp /bin/busybox bin/
chroot . /bin/busybox --install -s
rm linuxrc
tar -cf /image.tar .
