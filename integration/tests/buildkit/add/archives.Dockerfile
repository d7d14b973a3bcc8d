FROM base
ADD archives/plain.tar /tar
ADD archives/gz.tar.gz /gz/
ADD archives/bz2.tar.bz2 /bz2
ADD archives/xz.tar.xz /xz/new/
ADD archives/zst.tar.zst /zst
ADD archives/wrong-name /wrong
ADD archives/text.tar.gz /text
ADD archives/lone.gz /lone
ADD archives/plain.tar archives/gz.tar.gz a.txt /several/
ADD archives/*.tar.?z* /globbed/
ADD archives /as-folder
ADD --chown=app:staff archives/gz.tar.gz /chowned
ADD --unpack=false archives/gz.tar.gz /kept
ADD --unpack=true archives/plain.tar /asked
ADD --unpack archives/plain.tar /asked-too/
ADD dir /dir
COPY archives/gz.tar.gz /copied
ADD archives/plain.tar /opt/data
ADD archives/plain.tar /opt/link/in-link
#: times /tar/p
#: times /tar/d/q
#: times /xz/new/p
#: times /zst/l
#: times /several/h
