#!/bin/sh
# Makes the context that all cases share: `context.sh FOLDER`. Whoever owns FOLDER owns its files, so
# that an ordinary user's build can read them; builders must not care.
set -eu
umask 022
cd "$1"
echo a >a.txt
echo b >b.txt
echo c >c.log
echo 'a name' >'with space.txt'
echo umlaut >grün.txt
echo '$A' >'$A'
echo star >'st*r'
echo bracket >'[x]'
echo hidden >.hidden
echo private >private
chmod 0600 private
echo read >read-only
chmod 0444 read-only
printf '#!/bin/sh\necho ran > /ran\n' >run.sh
chmod 0755 run.sh
echo odd >odd-mode
chmod 0751 odd-mode

mkdir -p dir/sub/deep dir/empty
echo 1 >dir/f1
echo 2 >dir/sub/f2
echo 3 >dir/sub/deep/f3.c
echo 4 >dir/sub/deep/f4.h
chmod 0640 dir/f1
chmod 0750 dir/sub
chmod 0700 dir/sub/deep
chmod 0711 dir
ln -s f1 dir/link
ln -s nowhere dir/broken
ln -s /etc/passwd dir/absolute
ln -s ../a.txt dir/up
ln -s dir link-to-dir
ln -s a.txt link-to-file
ln -s dir/link link-to-link

mkdir hard
echo h >hard/one
ln hard/one hard/two
ln hard/one hard-three

mkdir -p over/data/deep over/data/new
chmod 0700 over/data
echo A >over/data/a
echo n >over/data/new/n
chmod 0500 over/data/deep

mkdir -p src/lib/test src/bin docs node_modules/m
echo m >src/bin/main.c
echo l >src/lib/lib.c
echo h >src/lib/lib.h
echo t >src/lib/test/test.c
echo r >docs/README.md
echo g >docs/guide.md
echo k >docs/keep.txt
echo j >node_modules/m/index.js
echo x >src/x.tmp
echo y >src/lib/y.tmp

mkdir special
mkfifo -m 0622 special/pipe
echo s >special/set-id
mkdir special/sticky special/group
truncate -s 1M special/sparse
printf middle | dd of=special/sparse bs=1 seek=500000 conv=notrunc status=none
setfattr -n user.note -v of-the-context special/sparse

mkdir packed
echo p >packed/p
mkdir packed/d
echo q >packed/d/q
ln -s d/q packed/l
ln packed/p packed/h
chmod 0700 packed/d
pack() {
  tar -c --numeric-owner --owner=1000 --group=50 --mtime=@1500000000 --sort=name -C packed "$@"
}
mkdir archives
pack -f archives/plain.tar .
pack -z -f archives/gz.tar.gz .
pack -j -f archives/bz2.tar.bz2 .
pack -J -f archives/xz.tar.xz .
pack --zstd -f archives/zst.tar.zst .
cp archives/gz.tar.gz archives/wrong-name
echo 'no archive' >archives/text.tar.gz
echo 'not a tar' | gzip -n >archives/lone.gz
rm -r packed
mkdir packed
echo w >packed/.wh.a
pack -f archives/whiteout.tar .
rm -r packed

chown -R --reference=. .
# A change of owner takes these bits away.
chmod 4755 special/set-id
chmod 1777 special/sticky
chmod 2775 special/group
