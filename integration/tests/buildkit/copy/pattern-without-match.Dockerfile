FROM base
COPY no-such-* /
