FROM base AS scratch
FROM scratch
COPY a.txt /
