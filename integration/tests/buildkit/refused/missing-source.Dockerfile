FROM base
COPY no-such-file /
#: refused
