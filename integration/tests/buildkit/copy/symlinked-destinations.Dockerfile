FROM base
COPY a.txt /opt/link
COPY b.txt /opt/link/sub/b
COPY a.txt /opt/absolute/
COPY b.txt /opt/escaping/b-escaped
COPY dir /opt/link
COPY dir /opt/absolute/dir
COPY a.txt /lib/in-lib
COPY a.txt /opt/data/deep/loop-back
RUN ln -s /opt/data/b /to-file && ln -s missing /to-missing && mkdir /real && ln -s real /to-real
COPY a.txt /to-file
COPY dir/ /to-real/
