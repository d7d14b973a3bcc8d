#!/bin/sh
# Makes the layers of the base image that the cases stand on: what an instruction may meet in a small
# distribution. `base.sh FOLDER` writes FOLDER/lower.tar and FOLDER/upper.tar. It needs root.
set -eu
umask 022
cd "$1"
mkdir lower upper
cd lower
mkdir -p bin dev etc home/app opt/data/deep opt/opaque/inner proc root srv/gone sys tmp usr/lib var/empty
chmod 0700 root
chmod 1777 tmp
cp "$(command -v busybox)" bin/busybox
for applet in $(bin/busybox --list | grep -v busybox); do ln -s busybox "bin/$applet"; done
ln -s usr/lib lib
cat >etc/passwd <<'PASSWD'
root:x:0:0::/root:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
guest:x:7:50::/tmp:/bin/sh
PASSWD
cat >etc/group <<'GROUP'
root:x:0:
audio:x:29:app,guest
video:x:44:app
staff:x:50:
app:x:1000:
GROUP
chown 1000:1000 home/app
echo a >opt/data/a
echo b >opt/data/b
echo c >opt/data/deep/c
chown 1000:50 opt/data/b
chmod 0640 opt/data/b
chmod 0711 opt/data/deep
setfattr -n user.kept -v base opt/data/a
echo o >opt/opaque/o
echo i >opt/opaque/inner/i
ln -s data opt/link
ln -s /opt/data/deep opt/absolute
ln -s nowhere opt/dangling
ln -s ../../../../opt/data opt/escaping
ln -s ../data/a opt/data/deep/loop-back
echo one >opt/one
ln opt/one opt/two
echo set-id >opt/setuid
chmod 4755 opt/setuid
mkdir opt/sgid
chown 1000:44 opt/sgid
chmod 2775 opt/sgid
echo gone >srv/gone/file
cd ../upper
mkdir -p etc srv
echo upper >etc/layer
chmod 0640 etc/layer
: >srv/.wh.gone
cd ..
for layer in lower upper; do
  tar -c -f "$layer.tar" --format=pax --pax-option=delete=atime,delete=ctime --xattrs --numeric-owner \
    --sort=name --mtime=@1700000000 -C "$layer" .
done
